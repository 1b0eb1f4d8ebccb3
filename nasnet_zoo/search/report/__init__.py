"""Reports of searches: HTML pages that need no other file, with plots as embedded SVG."""
