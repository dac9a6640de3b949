"""Reports: one page that says what was asked, what was run, what came out and how to repeat it.

The page is self-contained: it opens without a network, on a phone and on paper. As Markdown it has
its charts as PNGs beside it.
"""

from datetime import UTC, datetime
from pathlib import Path

from mlux.charts.saving import check_target
from mlux.report.content import Report, gather
from mlux.report.markdown import to_markdown
from mlux.report.page import to_page
from mlux.store.frames import Database, Runs

FORMATS = ("html", "md")

__all__ = ["FORMATS", "Report", "gather", "to_markdown", "to_page", "write"]


def write(
    runs: Runs,
    path: str | Path,
    *,
    question: str | None = None,
    metric: str | None = None,
    across_quantization: bool = False,
    db: Database = None,
) -> list[Path]:
    """Writes a report of stored runs.

    Args:
        runs: A run, or several, of one experiment or more.
        path: A file ending in `.html`, or in `.md` with PNGs beside it.
        question: What the runs should answer.
        metric: What to draw and compare; by default what suits each experiment.
        across_quantization: Whether models of different precision may be compared.
        db: The notebook.

    Returns:
        The files that were written, the report first.

    Raises:
        UnknownNameError: If there is no such run, or no run has the metric.
        ParameterError: If the path cannot be a report.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     files = write("latest", f"{folder}/report.html", db="mlux.db.example")
        ...     [file.name for file in files]
        ['report.html']
    """
    target = Path(path)
    check_target(target, FORMATS)
    written = datetime.now(UTC)
    report = gather(
        runs,
        question=question,
        metric=metric,
        across_quantization=across_quantization,
        target=target.name,
        db=db,
    )
    if target.suffix.lower() == ".html":
        target.write_text(to_page(report, written), "utf-8")
        return [target]
    text, images = to_markdown(report, written, stem=target.stem)
    target.write_text(text, "utf-8")
    for name, image in images.items():
        (target.parent / name).write_bytes(image)
    return [target, *(target.parent / name for name in images)]
