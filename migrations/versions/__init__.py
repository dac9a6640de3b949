"""Frozen history of the schema: one revision a file."""
