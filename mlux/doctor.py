"""What `mlux doctor` checks: is everything here, is it fast, and what to type if not.

A check is a plain value, so the same list serves the terminal, `--json` and a bug report. No check
writes anything, and none takes more than a few seconds.
"""

import os
import platform
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.resources import files
from pathlib import Path
from typing import Literal

from mlux.errors import MluxError

PACKAGES = ("mlux", "mlx", "mlx-lm", "numpy", "sqlalchemy", "alembic", "pandas", "scipy", "click")
SIZE = 1024
SLOW_GFLOPS = 20.0  # the reference BLAS gives about 5 on a core of today, OpenBLAS 90 and more
LOW_DISK = 1 << 30
BLAS_FIX = "apt-get install libopenblas0-pthread, or: pip install 'mlux[mkl]'"


@dataclass(frozen=True, kw_only=True)
class Check:
    """One thing that was looked at.

    Attributes:
        status: `warn` is slow or soon a trouble; `fail` stops mlux from working.
        detail: What was seen.
        fix: What to type; empty where nothing is wrong.
    """

    name: str
    status: Literal["ok", "warn", "fail"]
    detail: str
    fix: str = ""


def checks(database: str) -> Iterator[Check]:
    """All checks, each as soon as it is known.

    Args:
        database: The path or URL that the commands would use.
    """
    yield _python()
    yield from map(_package, PACKAGES)
    yield from _mlx()
    yield _demo_model()
    yield _database(database)
    folder = Path.cwd() if "://" in database else Path(database).resolve().parent
    yield _writable(folder)
    yield _disk(folder)


def _python() -> Check:
    detail = f"{platform.python_version()} on {platform.platform()}"
    return Check(name="python", status="ok", detail=detail)


def _package(name: str) -> Check:
    try:
        return Check(name=name, status="ok", detail=version(name))
    except PackageNotFoundError:
        return Check(name=name, status="fail", detail="not installed", fix="pip install mlux")


def _mlx() -> Iterator[Check]:
    """Does MLX load, where does it compute, and how fast."""
    try:
        from mlux.engine import blas  # before MLX, which looks for a BLAS when it is imported

        library = blas.load()
        import mlx.core as mx
    except ImportError as error:
        detail = f"MLX does not load: {error}"
        yield Check(
            name="device", status="fail", detail=detail, fix="pip install --force-reinstall mlx"
        )
        return
    device = mx.default_device()
    yield Check(name="device", status="ok", detail=str(device))
    speed = measure_gflops()
    detail = f"{library.library or 'built in'} ({library.reason})"
    slow = sys.platform == "linux" and device.type == mx.cpu and speed < SLOW_GFLOPS
    yield Check(
        name="blas", status="warn" if slow else "ok", detail=detail, fix=BLAS_FIX if slow else ""
    )
    detail = f"{speed:.0f} GFLOP/s, float32 product of {SIZE} × {SIZE} on {device}"
    yield Check(
        name="speed", status="warn" if slow else "ok", detail=detail, fix=BLAS_FIX if slow else ""
    )


def measure_gflops(repeats: int = 5) -> float:
    """The speed of a float32 product of two 1024 × 1024 matrices: the median of a few."""
    import mlx.core as mx

    a, b = mx.random.normal((2, SIZE, SIZE))
    mx.eval(a, b, a @ b)  # the first product pays for start-up
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        mx.eval(a @ b)
        seconds.append(time.perf_counter() - start)
    return 2 * SIZE**3 / statistics.median(seconds) / 1e9


def _demo_model() -> Check:
    weights = files("mlux.demo").joinpath("model", "model.safetensors")
    if not weights.is_file():
        detail = "its weights are missing from this installation"
        return Check(name="demo model", status="fail", detail=detail, fix="pip install mlux")
    return Check(name="demo model", status="ok", detail="here, as --model demo")


def _database(location: str) -> Check:
    from mlux.store import Store, info

    if "://" not in location and not Path(location).exists():
        detail = f"none yet at {location}; the first run creates it"
        return Check(name="database", status="ok", detail=detail)
    try:
        with Store.open(location) as database:
            found = info(database)
    except MluxError as error:
        fix = "Name another with --db, or move this file away."
        return Check(name="database", status="fail", detail=str(error), fix=fix)
    detail = f"{found['location']}, revision {found['revision']}, {found['bytes'] / 1e6:.1f} MB"
    if "://" in location:
        detail += "; who only asks needs a role with SELECT alone (docs/exchange.md)"
    return Check(name="database", status="ok", detail=detail)


def _writable(folder: Path) -> Check:
    if os.access(folder, os.W_OK):
        return Check(name="folder", status="ok", detail=f"{folder} can be written")
    detail = f"{folder} cannot be written"
    return Check(name="folder", status="fail", detail=detail, fix="Name another place with --db.")


def _disk(folder: Path) -> Check:
    nearest = next(place for place in (folder, *folder.parents) if place.exists())
    free = shutil.disk_usage(nearest).free
    detail = f"{free / (1 << 30):.1f} GiB free at {nearest}"
    if free < LOW_DISK:
        return Check(name="disk", status="warn", detail=detail, fix="Make room before long runs.")
    return Check(name="disk", status="ok", detail=detail)
