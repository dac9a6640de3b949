"""How long the commands take to answer: whole processes, the median of ten.

    python benchmarks/startup.py [DATABASE]

`mlux --help` may take 150 ms and `mlux runs list` 450 ms on two cores. The database is the example
of the repository unless another is named; the first, cold start of a command is not counted.
"""

import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "mlux.db.example"
MLUX = str(Path(sysconfig.get_path("scripts")) / "mlux")
REPEATS = 10


def milliseconds(command: list[str]) -> float:
    """The median time of the whole process, after one that warms the disk's cache."""
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        times.append(1000 * (time.perf_counter() - start))
    return statistics.median(times[1:])


def main(database: str = str(EXAMPLE)) -> int:
    """Prints a line for each command; 1 if one is too slow."""
    limits = {"--help": 150, f"--db {database} runs list": 450}  # milliseconds
    print(f"{'python -c pass':16} {milliseconds([sys.executable, '-c', 'pass']):4.0f} ms")
    slow = False
    for arguments, limit in limits.items():
        taken = milliseconds([MLUX, *arguments.split()])
        slow |= taken > limit
        shown = arguments.removeprefix(f"--db {database} ")
        print(f"{f'mlux {shown}':16} {taken:4.0f} ms, at most {limit}")
    return int(slow)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
