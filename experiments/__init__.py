"""The registered experiments that ship with mlux, one a file."""

import mlux.engine  # noqa: F401 # before any experiment imports MLX, which binds its BLAS at once
