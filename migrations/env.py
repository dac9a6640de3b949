"""Runs revisions on the connection that `mlux.store.schema` passes in.

The caller owns the transaction, the lock and the backup, so this file only hands the connection
over. There is no alembic.ini: the places are set in code, from wherever mlux is installed.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # SQLite's DDL is transactional once BEGIN is ours, so a half-done upgrade cannot stay behind.
    transactional_ddl=True,
)
context.run_migrations()
