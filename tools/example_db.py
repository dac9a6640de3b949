"""Rebuilds `mlux.db.example`: what `mlux demo` stores, without the name of the machine it ran on.

python -m tools.example_db
"""

import sqlite3
import sys
import tempfile
from pathlib import Path

from mlux import tour

TARGET = Path(__file__).parent.parent / "mlux.db.example"


def main() -> None:
    """Runs the main job into a new database and packs it."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "mlux.db"
        for run in tour.run_jobs(str(made), progress=sys.stderr.isatty()):
            print(run.uid, run.experiment, run.model, run.status)
        TARGET.unlink(missing_ok=True)
        connection = sqlite3.connect(made)
        with connection:
            connection.execute(
                "UPDATE runs SET host = 'example', platform = 'Linux', pid = 1, "
                "git_commit = NULL, git_dirty = NULL"
            )
            connection.execute(
                "UPDATE run_events SET message = 'process 1 on example' WHERE kind = 'started'"
            )
        connection.execute("VACUUM INTO ?", [str(TARGET)])
        connection.close()
    print(f"{TARGET.name}: {TARGET.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
