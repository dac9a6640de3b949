"""A report as Markdown with its charts as PNGs beside it."""

import html
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from importlib.metadata import version

from mlux.charts.saving import to_png
from mlux.report import tables
from mlux.report.content import Report, Section
from mlux.report.text import shown

_SPECIAL = re.compile(r"([\\`*_{}\[\]#!|~])|^([-+]|\d+(?=[.)]))")


def to_markdown(report: Report, written: datetime, *, stem: str) -> tuple[str, dict[str, bytes]]:
    """The report as Markdown, and its charts as file name → PNG.

    Args:
        report: What to say.
        written: When, with its time zone.
        stem: The report's file without its ending; the charts are `STEM-1.png`, ….
    """
    images: dict[str, bytes] = {}
    lines = list(_lines(report, written, stem, images))
    return "\n".join(lines) + "\n", images


def _lines(report: Report, written: datetime, stem: str, images: dict[str, bytes]) -> Iterator[str]:
    yield f"# {_md(report.question or report.title)}"
    yield ""
    if report.question:
        yield from (_md(report.title), "")
    yield f"Written by mlux {version('mlux')} on {written:%Y-%m-%d %H:%M} {written.tzname() or ''}"
    yield ""
    if report.claims:
        yield from ("## Claims", "")
        for claim in report.claims:
            runs = ", ".join(item.run for item in claim.evidence)
            yield f"- **{claim.status}**: {_md(claim.text)} (runs {runs})"
            if claim.note:
                yield f"  {_md(claim.note)}"
        yield ""
    for section in report.sections:
        yield from _section(section, stem, images)
    yield from ("## Where the numbers come from", "")
    names = ["", *(run.uid for run in report.runs)]
    rows = [
        [_bold(_md(fact.name), fact.differs), *map(_md, fact.values)] for fact in report.provenance
    ]
    yield from _table(names, rows)
    yield from ("What differs between the runs is bold.", "")
    yield from ("## How to repeat it", "")
    yield from _code("sh", "\n".join(report.commands), longest=None)


def _section(section: Section, stem: str, images: dict[str, bytes]) -> Iterator[str]:
    yield from (f"## {_md(section.experiment)}", "")
    yield from (f"{_md(section.description)} {_md(section.paper)}".strip(), "")
    for problem in section.problems:
        yield f"> {_md(problem)}"
        yield ""
    for figure in section.figures:
        name = f"{stem}-{len(images) + 1}.png"
        images[name] = to_png(figure.chart)
        # The file is the person's own choice; spaces would end the link.
        yield from (f"![{_md(figure.caption)}](<{name}>)", "")
        yield from _code("sql", figure.sql)
    for comparison in section.comparisons:
        first, second = map(_md, comparison.names)
        yield from (f"### {second} against {first}", "")
        yield from (f"Run {comparison.run} against run {comparison.baseline}", "")
        yield from (_md(comparison.finding), "")
        for note in comparison.notes:
            yield from (f"> {_md(note)}", "")
        table = tables.differences(comparison)
        if table is not None:
            rows = [
                [
                    f"**{_md(cell)}**" if place in table.marked and cell else _md(cell)
                    for cell in row
                ]
                for place, row in enumerate(table.rows)
            ]
            yield from _table([_md(name) for name in table.columns], rows)
            yield from (_md(comparison.method), "")
    texts = tables.texts(section)
    if texts is not None:
        yield from ("### What the models wrote", "")
        yield from _table(
            [_md(name) for name in texts.columns], [[_md(cell) for cell in r] for r in texts.rows]
        )
        yield from _code("sql", section.texts_sql)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"|{'---|' * len(columns)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""


def _code(language: str, text: str, longest: int | None = 5_000) -> Iterator[str]:
    """A fenced block; the fence is longer than any run of backticks in the text."""
    lines = [shown(line, longest) for line in text.splitlines()]
    ticks = max((len(run) for line in lines for run in re.findall("`+", line)), default=0)
    fence = "`" * max(3, ticks + 1)
    yield from (f"{fence}{language}", *lines, fence, "")


def _bold(text: str, marked: bool) -> str:
    return f"**{text}**" if marked and text else text


def _md(text: str) -> str:
    """Text as text: neither Markdown nor HTML, on one line."""
    escaped = _SPECIAL.sub(lambda match: f"\\{match[0]}", shown(text))
    return html.escape(escaped, quote=False)
