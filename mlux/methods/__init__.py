"""Interpretability methods: what to capture, what to edit, and what to compute from it."""

import mlux.engine  # noqa: F401 # before any method imports MLX, which binds its BLAS at once
