"""Whether a notebook is sound: its file, its schema, its references, its artifacts."""

from collections.abc import Iterator

import sqlalchemy as sa

from mlux.store import artifacts
from mlux.store.session import Store


def check(store: Store) -> list[str]:
    """What is wrong with a notebook, one line each; an empty list if nothing is.

    Looked at are the file itself (on SQLite), the schema against that of this mlux, all foreign
    keys, that no run is done with trials pending, what no constraint can see (`mlux.store.sense`),
    and every artifact's file against its hash. Of a file that is damaged or lacks tables, the sense
    of its rows is not asked.

    Raises:
        StoreError: If it cannot be read at all.
    """
    # Table classes cost a second at most; nothing else that reads needs them.
    from mlux.store import drift, sense

    with store.reading() as connection:
        damage = [*_file(connection), *drift.differences(connection)]
        wrong = [*damage, *_unfinished(connection), *([] if damage else sense.nonsense(connection))]
    return [*wrong, *_artifacts(store)]


def _file(connection: sa.Connection) -> Iterator[str]:
    if connection.dialect.name != "sqlite":
        # A server keeps its own files, and its foreign keys hold unless they were never validated.
        query = "SELECT conname FROM pg_constraint WHERE NOT convalidated ORDER BY 1"
        for name in connection.execute(sa.text(query)).scalars():
            yield f"Constraint {name} was never validated."
        return
    for (line,) in connection.exec_driver_sql("PRAGMA integrity_check").fetchall():
        if line != "ok":
            yield f"The file is damaged: {' '.join(str(line).split())}."
    broken = connection.exec_driver_sql("PRAGMA foreign_key_check").fetchall()
    pairs = [(table, parent) for table, _, parent, _ in broken]
    for table, parent in dict.fromkeys(pairs):
        n = pairs.count((table, parent))
        yield f"{n} row{'s' * (n > 1)} of {table} refer to nothing in {parent}."


def _unfinished(connection: sa.Connection) -> Iterator[str]:
    query = """
    SELECT r.uid, count(*) FROM runs AS r JOIN trials AS t ON t.run_id = r.id
    WHERE r.status = 'done' AND t.status = 'pending' GROUP BY r.uid ORDER BY r.uid
    """
    for uid, n in connection.execute(sa.text(query)):
        yield f"Run {uid} is said to be done, with {n} trials pending."


def _artifacts(store: Store) -> Iterator[str]:
    home = artifacts.folder(store)
    query = """
    SELECT a.sha256, min(a.name), min(r.uid), count(*)
    FROM artifacts AS a JOIN runs AS r ON r.id = a.run_id GROUP BY a.sha256 ORDER BY 3, 2
    """
    with store.reading() as connection:
        rows = connection.execute(sa.text(query)).all()
    for sha256, name, uid, n in rows:
        wrong = artifacts.wrong_with(artifacts.path_of(home, sha256), sha256)
        if wrong is not None:
            others = f" (and {n - 1} more)" if n > 1 else ""
            yield f"Artifact {name!r} of run {uid}{others} {wrong}."
