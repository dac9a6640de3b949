"""Writes `docs/schema.md` from the tables and views: `python -m tools.schema_doc [--check]`."""

import ast
import sys
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.orm import Mapper
from sqlalchemy.schema import CreateColumn

from mlux.store.schema import migrations_folder
from mlux.store.session import HEAD
from mlux.store.tables import Base
from mlux.store.views import VIEWS

TARGET = Path(__file__).resolve().parent.parent / "docs" / "schema.md"

PARTS = ("studied", "runs", "results", "claims")
"""The modules of `mlux.store.tables`."""

FROZEN = "Frozen history: it imports nothing of mlux and never changes once released."

INTRODUCTION = f"""\
# The schema

Revision {HEAD}. Generated from the tables and views of `mlux/store` by
`python -m tools.schema_doc`.

For questions, use the views: they have names instead of ids, NULL where there is no layer, head or
position, and leave deleted runs out. `mlux sql "SELECT …"` only reads; the file opens in the
`sqlite3` shell and in every tool that knows SQLite.

- A **trial** is one prompt under one condition. Its results and its `done` mark are one
  transaction.
- In the tables, -1 stands for "no layer", "no head", "no position".
- Times are ISO-8601 text in UTC. Yes and no are 1 and 0.
- The tables marked *clustered* are stored in the order of their primary key.
"""

ABOUT_VIEWS = {
    "run_overview": "One row a run.",
    "results": "One row a number.",
    "predictions": "One row a token: the most probable next tokens, rank 0 first. `token` differs "
    "for every id of a vocabulary.",
    "controlled_effects": "One row a number that has a control: the same prompt, metric and place "
    "under the control's condition, and the difference. A condition with several controls has a "
    "row for each.",
    "failures": "One row a trial that failed.",
    "named_generations": "One row a text that a model continued.",
    "named_params": "One row an option of a run; `value` is JSON.",
    "named_tags": "One row a tag of a run.",
    "named_conditions": "One row a name and value of a condition; join by `condition_id`.",
}


def document() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Views\n"]
    parts += [
        f"- **{name}**: {ABOUT_VIEWS[name]} {', '.join(f'`{c}`' for c in view_columns(select))}"
        for name, select in VIEWS.items()
    ]
    parts += ["\n## How the tables refer to each other\n", diagram(), "\n## Tables"]
    parts += [table_section(mapper.class_) for mapper in mappers()]
    parts += ["\n## Revisions\n", *revisions()]
    return "\n".join(parts) + "\n"


def revisions() -> list[str]:
    """What each revision brought, from its docstring."""
    found = []
    for path in sorted(migrations_folder().glob("versions/r*.py")):
        text = (ast.get_docstring(ast.parse(path.read_text("utf-8"))) or "").split("\n\n")
        about = " ".join(" ".join(text).replace(FROZEN, "").split())
        found.append(f"- **{path.stem[:5]}**: {about}")
    return found


def mappers() -> list[Mapper[Base]]:
    """In the order in which the tables were declared, what is studied first."""
    names = list(Base.metadata.tables)

    def place(mapper: Mapper[Base]) -> tuple[int, int]:
        part = mapper.class_.__module__.rpartition(".")[2]
        return PARTS.index(part), names.index(mapper.local_table.name)  # type: ignore[attr-defined] # a table has a name

    return sorted(Base.registry.mappers, key=place)


def view_columns(select: str) -> list[str]:
    """The columns of a view, as SQLite names them."""
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with engine.connect() as connection:
        return list(connection.exec_driver_sql(f"SELECT * FROM ({select})").keys())


def diagram() -> str:
    """A Mermaid diagram, which GitHub draws."""
    lines = sorted(
        {
            f"  {key.referred_table.name} ||--o{{ {table.name} : has"
            for table in Base.metadata.tables.values()
            for key in table.foreign_key_constraints
        }
    )
    return "\n".join(["```mermaid", "erDiagram", *lines, "```"])


def table_section(table_class: type[Base]) -> str:
    """A heading, what the table is for, and its columns."""
    table = table_class.__table__
    assert isinstance(table, sa.Table)
    clustered = "" if table.dialect_options["sqlite"]["with_rowid"] else " *(clustered)*"
    key = ", ".join(column.name for column in table.primary_key)
    lines = [
        f"\n### {table.name}{clustered}\n",
        f"{(table_class.__doc__ or '').strip()} Key: `{key}`.\n",
        "| column | type | refers to | |",
        "|---|---|---|---|",
    ]
    return "\n".join([*lines, *(column_line(column) for column in table.columns)])


def column_line(column: sa.Column[object]) -> str:
    """One row of the table of columns."""
    dialect = sqlite.dialect()
    kind = str(CreateColumn(column).compile(dialect=dialect)).split()[1]
    null = "" if column.nullable is False else " or NULL"
    refers = ", ".join(sorted(f"`{key.target_fullname}`" for key in column.foreign_keys))
    return f"| `{column.name}` | {kind}{null} | {refers} | {column.doc or ''} |"


def main() -> None:
    """Writes the page, or exits 1 if it is not up to date."""
    if "--check" not in sys.argv[1:]:
        TARGET.write_text(document(), "utf-8")
    elif not TARGET.exists() or TARGET.read_text("utf-8") != document():
        sys.exit("docs/schema.md is out of date. Write it anew: python -m tools.schema_doc")


if __name__ == "__main__":
    main()
