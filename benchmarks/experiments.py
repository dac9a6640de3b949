"""How long every experiment takes on the built-in model with its defaults, as a whole command.

    python benchmarks/experiments.py [EXPERIMENT…]

Each should stay under 60 seconds on two cores.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from mlux import registry


def main() -> None:
    """Measures and prints."""
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[1:] or registry.names():
            db = str(Path(folder) / f"{name}.db")
            command = [sys.executable, "-m", "mlux", "--db", db, "run", name, "--model", "demo"]
            started = time.perf_counter()
            subprocess.run(command, check=True, capture_output=True)
            print(f"{name:<24} {time.perf_counter() - started:6.1f} s", flush=True)


if __name__ == "__main__":
    main()
