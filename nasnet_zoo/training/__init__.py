"""Training and validation, in memory and in folders."""
