"""Gives MLX an optimised BLAS on Linux, where its CPU wheel links the slow reference one.

MLX looks `cblas_sgemm` up when it is imported, so a library loaded globally before that wins: a
1024 × 1024 float32 product goes from about 5 to over 90 GFLOP/s on two cores. Loading one later
changes nothing. Metal and CUDA do not use BLAS. `$MLUX_BLAS` names another library, or `none`.
"""

import ctypes
import ctypes.util
import os
import sys
import warnings
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

# The pthread build comes first: the OpenMP and serial builds of a distribution are alternatives.
_SYSTEM_PATTERNS = (
    "usr/lib/*-linux-gnu/openblas-pthread/libopenblas.so.0",
    "usr/lib64/libopenblasp.so.0",
    "usr/lib/*-linux-gnu/libopenblas.so.0",
    "usr/lib*/libopenblas.so*",
)


@dataclass(frozen=True, kw_only=True)
class Blas:
    """Which BLAS the matrix products of this process use.

    Attributes:
        library: The path of the library that was loaded; None for MLX's own.
        reason: Why this one, in words for `mlux doctor`.
    """

    library: str | None
    reason: str


_loaded: Blas | None = None


def load() -> Blas:
    """Loads the best BLAS of this machine, once; later calls return the first answer."""
    global _loaded
    if _loaded is None:
        _loaded = _load()
    return _loaded


def _load() -> Blas:
    if sys.platform != "linux":
        return Blas(library=None, reason="MLX brings its own on this platform")
    wanted = os.environ.get("MLUX_BLAS")
    if wanted == "none":
        return Blas(library=None, reason="MLUX_BLAS is none")
    candidates = [wanted] if wanted else _candidates()
    if "mlx.core" in sys.modules and candidates:
        reason = "MLX was imported before mlux.engine, too late for a faster BLAS"
        warnings.warn(f"{reason}; import mlux.engine first.", RuntimeWarning, stacklevel=2)
        return Blas(library=None, reason=reason)
    for path in candidates:
        try:
            ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)
        except OSError:
            continue
        return Blas(library=path, reason="found on this machine")
    if wanted:
        return Blas(library=None, reason=f"MLUX_BLAS names {wanted}, which cannot be loaded")
    return Blas(library=None, reason="neither MKL nor OpenBLAS is installed")


def _candidates() -> list[str]:
    system = (path for pattern in _SYSTEM_PATTERNS for path in sorted(Path("/").glob(pattern)))
    found = [*_mkl(), *map(str, system)]
    by_name = ctypes.util.find_library("openblas")
    return [*found, by_name] if by_name else found


def _mkl() -> list[str]:
    """The runtime library of the `mkl` package, if it is installed here."""
    try:
        installed = files("mkl") or []
    except PackageNotFoundError:
        return []
    return [str(Path(str(f.locate()))) for f in installed if f.name.startswith("libmkl_rt.so")]
