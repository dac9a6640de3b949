"""A report as one HTML page that holds everything it needs."""

from datetime import datetime
from importlib.metadata import version

from jinja2 import Environment, PackageLoader

from mlux.charts.saving import draw_script, library, policy, safe_json, to_spec, to_svg_image
from mlux.report import tables
from mlux.report.content import Report
from mlux.report.text import number, paragraphs, shown


def to_page(report: Report, written: datetime) -> str:
    """The report as HTML.

    Every text of a person or a model is escaped, and control characters are written out. The
    page's own scripts are allowed by their hashes, so no other script runs, and nothing is fetched.

    Args:
        report: What to say.
        written: When, with its time zone.
    """
    environment = Environment(
        loader=PackageLoader("mlux.report"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"shown": shown, "paragraphs": paragraphs, "number": number}
    figures = {
        id(figure): f"chart-{place}"
        for place, figure in enumerate(
            (figure for section in report.sections for figure in section.figures), start=1
        )
    }
    return environment.get_template("report.html").render(
        report=report,
        here={run.uid for run in report.runs},
        written=f"{written:%Y-%m-%d %H:%M} {written.tzname() or ''}".strip(),
        version=version("mlux"),
        chart_id=lambda figure: figures[id(figure)],
        spec=lambda figure: safe_json(to_spec(figure.chart)),
        picture=lambda figure: to_svg_image(figure.chart),
        differences=tables.differences,
        texts=tables.texts,
        library=library(),
        draw=draw_script(),
        policy=policy(library(), draw_script()),
    )
