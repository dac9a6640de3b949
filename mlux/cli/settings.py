"""What the root command hands to every command."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from mlux.store import Store


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The global options.

    Attributes:
        db: The database as typed after `--db`; None for the default.
    """

    db: str | None

    @property
    def location(self) -> str:
        """The database to use: `--db`, else `$MLUX_DB`, else `./mlux.db`."""
        from mlux.store import default_location

        return self.db or str(default_location())

    @property
    def is_absent(self) -> bool:
        """Whether the database is a file that is not there yet; asked without importing any."""
        location = self.db or os.environ.get("MLUX_DB") or "mlux.db"
        return "://" not in location and not Path(location).exists()

    def read(self) -> "Store":
        """The database, opened for reading and closed when the command ends."""
        from mlux.store import Store

        # Closed, because an open database leaves SQLite's -wal and -shm files behind.
        return click.get_current_context().with_resource(Store.open(self.location))

    def write(self) -> "Store":
        """The same, opened for writing; it has to be there already."""
        from mlux.store import Store

        Store.open(self.location).close()
        return click.get_current_context().with_resource(Store.open(self.location, write=True))


pass_settings = click.make_pass_decorator(Settings)
