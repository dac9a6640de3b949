"""What every table shares: constraint names, column types, and how tables are made."""

from typing import Annotated, Any

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Double,
    ForeignKey,
    ForeignKeyConstraint,
    Integer,
    MetaData,
    Text,
)
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import DeclarativeBase, mapped_column

NAMING = {
    "pk": "pk_%(table_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
}
CASCADE = "CASCADE"

# STRICT knows INTEGER and REAL only; on PostgreSQL the same words would be 4 bytes wide.
Big = BigInteger().with_variant(Integer(), "sqlite")
Real: Double[Any] = Double().with_variant(sqlite.REAL(), "sqlite")

Id = Annotated[int, mapped_column(Integer, primary_key=True)]
Key = Annotated[int, mapped_column(Integer, primary_key=True, autoincrement=False)]
RunKey = Annotated[
    int,
    mapped_column(ForeignKey("runs.id", ondelete=CASCADE), primary_key=True, autoincrement=False),
]
NameKey = Annotated[str, mapped_column(Text, primary_key=True)]
BigInt = Annotated[int, mapped_column(Big)]


class Base(DeclarativeBase):
    """What every table shares: constraint names and column types."""

    metadata = MetaData(naming_convention=NAMING)
    type_annotation_map = {str: Text(), int: Integer(), float: Real}  # noqa: RUF012 # read by SQLAlchemy


def table(*constraints: Any, clustered: bool = False) -> tuple[Any, ...]:
    """Table arguments: STRICT, and rows stored in the order of the key if clustered."""
    return (*constraints, {"sqlite_strict": True, "sqlite_with_rowid": not clustered})


def is_one_of(column: str, *values: str) -> CheckConstraint:
    """That a text is one of these words."""
    return CheckConstraint(
        f"{column} IN ({', '.join(map(repr, values))})", name=f"{column}_is_known"
    )


def of_trial(*constraints: Any) -> tuple[Any, ...]:
    """Table arguments of a result: it goes when its trial goes."""
    trial = ForeignKeyConstraint(
        ["run_id", "trial"], ["trials.run_id", "trials.trial"], ondelete=CASCADE
    )
    return table(trial, *constraints, clustered=True)


def at_least(**least: int) -> CheckConstraint:
    """That each of these columns is not below its bound."""
    bounds = " AND ".join(f"{column} >= {bound}" for column, bound in least.items())
    return CheckConstraint(bounds, name="place_is_valid")


def is_number(column: str) -> CheckConstraint:
    """No NaN, which SQLite takes for NULL and refuses by itself."""
    check = CheckConstraint(f"{column} <> 'NaN'", name=f"{column}_is_a_number")
    return check.ddl_if(dialect="postgresql")
