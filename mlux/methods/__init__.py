"""Interpretability methods: what to capture, what to edit, and what to compute from it."""
