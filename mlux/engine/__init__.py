"""Loading, anatomy, hooks."""
