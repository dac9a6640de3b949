"""Ready-made instruments for a notebook."""
