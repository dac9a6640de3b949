"""A process of its own for tests: `python working.py DB UID` takes a run, and keeps it.

It ends when its stdin does. `python working.py DB new COUNT` files and finishes runs of its own.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from synthetic import make_environment, token_text, write_run

from mlux.store import RunWriter, Store


def main() -> None:
    db, uid, *count = sys.argv[1:]
    with Store.open(db, write=True) as store:
        if count:
            for _ in range(int(count[0])):
                write_run(store)
        else:
            writer = RunWriter(store, uid, token_text)
            writer.start(make_environment())
            print("started", flush=True)
            sys.stdin.read()


if __name__ == "__main__":
    main()
