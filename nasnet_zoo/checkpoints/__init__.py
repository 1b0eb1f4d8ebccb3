"""Readers of other code bases' weight files."""
