"""A process of its own for tests: `python sharing.py DB UID` does its share, and prints which.

It joins the run, says so, and begins when it gets a line.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from synthetic import make_environment, make_finished, token_text

from mlux.store import RunWriter, Store, load_run


def main() -> None:
    db, uid = sys.argv[1:]
    with Store.open(db, write=True) as store:
        n_trials = len(load_run(store, uid).trials)
        writer = RunWriter(store, uid, token_text)
        writer.start(make_environment(), share=True)
        print("joined", flush=True)
        sys.stdin.readline()
        for first in range(0, n_trials, 4):
            mine = writer.claim(range(first, first + 4))
            if mine:
                writer.write([make_finished(trial) for trial in mine])
                print(*mine, flush=True)
        writer.finish("done")


if __name__ == "__main__":
    main()
