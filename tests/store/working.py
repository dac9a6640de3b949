"""A process of its own for tests: `python working.py DB UID PAUSE` works on a run to its end.

`python working.py DB new COUNT` files and finishes runs of its own.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from synthetic import make_environment, make_finished, token_text, write_run

from mlux.store import RunWriter, Store, load_run


def finish(db: str, uid: str, pause: float) -> None:
    with Store.open(db, write=True) as store:
        writer = RunWriter(store, uid, token_text)
        pending = load_run(store, uid).pending
        writer.start(make_environment())
        print("started", flush=True)
        for start in range(0, len(pending), 2):
            time.sleep(pause)
            writer.write([make_finished(trial) for trial in pending[start : start + 2]])
        writer.finish("done", hook_fires=len(pending), seconds=1.0)


def main() -> None:
    db, uid, number = sys.argv[1:]
    if uid == "new":
        with Store.open(db, write=True) as store:
            for _ in range(int(number)):
                write_run(store)
    else:
        finish(db, uid, float(number))


if __name__ == "__main__":
    main()
