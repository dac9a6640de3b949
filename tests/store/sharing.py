"""A process of its own for tests: `python sharing.py DB UID` does its share, and prints which."""

import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from synthetic import make_environment, make_finished, token_text

from mlux.errors import RunError
from mlux.store import RunWriter, Store, load_run


def main() -> None:
    db, uid = sys.argv[1:]
    with Store.open(db, write=True) as store:
        n_trials = len(load_run(store, uid).trials)
        writer = RunWriter(store, uid, token_text)
        try:
            writer.start(make_environment(), share=True)
        except RunError as error:
            if "is done" in str(error):  # the others were so quick that nothing is left
                return
            raise
        for first in range(0, n_trials, 4):
            mine = writer.claim(range(first, first + 4))
            time.sleep(random.uniform(0, 0.02))
            if mine:
                writer.write([make_finished(trial) for trial in mine])
                print(*mine, flush=True)
        writer.finish("done")


if __name__ == "__main__":
    main()
