"""A copy of `mlux.db.example` for a test to read, at the newest revision."""

import shutil
from pathlib import Path

from mlux.store import Store

EXAMPLE = Path(__file__).parent.parent / "mlux.db.example"


def copy_of_example(target: Path) -> Path:
    """Copies it to a file or into a folder; between two releases its revision may be older."""
    copy = Path(shutil.copy(EXAMPLE, target))
    Store.open(copy, write=True).close()
    for backup in copy.parent.glob(f"{copy.name}.backup-*"):
        backup.unlink()
    return copy
