"""Export, and running what was exported."""
