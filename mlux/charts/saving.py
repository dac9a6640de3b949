"""A chart as PNG, SVG, HTML or JSON, without a browser and without a network.

PNG and SVG are drawn by vl-convert, which holds Vega itself. The page holds the same Vega,
Vega-Lite and Vega-Embed inline, and a content security policy that lets no other script run and
nothing be fetched.
"""

import base64
import hashlib
import json
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import altair as alt
import vl_convert

from mlux.errors import ParameterError

Chart = alt.TopLevelMixin
"""Any chart of Altair: single, layered, faceted, or put together."""

FORMATS = ("png", "svg", "html", "json")
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])


def to_png(chart: Chart, *, scale: float = 2) -> bytes:
    """The chart as a PNG; at scale 2 a point is two pixels, which suits screens and print.

    Example:
        >>> import altair as alt
        >>> to_png(alt.Chart(alt.Data(values=[{"a": 1}])).mark_point().encode(x="a:Q"))[1:4]
        b'PNG'
    """
    drawn = vl_convert.vegalite_to_png(
        to_spec(chart), vl_version=VEGA_LITE, scale=scale, ppi=72, allowed_base_urls=[]
    )
    return bytes(drawn)


def to_svg(chart: Chart) -> str:
    """The chart as an SVG.

    Example:
        >>> import altair as alt
        >>> to_svg(alt.Chart(alt.Data(values=[{"a": 1}])).mark_point().encode(x="a:Q"))[:4]
        '<svg'
    """
    drawn = vl_convert.vegalite_to_svg(to_spec(chart), vl_version=VEGA_LITE, allowed_base_urls=[])
    return str(drawn)


def to_svg_image(chart: Chart) -> str:
    """The chart as the address of an image, for a page whose reader runs no scripts."""
    return f"data:image/svg+xml;base64,{base64.b64encode(to_svg(chart).encode()).decode()}"


def to_spec(chart: Chart) -> dict[str, Any]:
    """The chart as Vega-Lite."""
    spec: dict[str, Any] = chart.to_dict()
    return spec


def to_html(chart: Chart, *, title: str = "mlux") -> str:
    """The chart as a page of its own that needs no network.

    Args:
        chart: The chart.
        title: Of the browser's tab.

    Example:
        >>> import altair as alt
        >>> chart = alt.Chart(alt.Data(values=[{"a": "</script>"}])).mark_point()
        >>> to_html(chart).count("</script>")
        3
    """
    from jinja2 import Environment, PackageLoader

    environment = Environment(loader=PackageLoader("mlux.charts"), autoescape=True)
    return environment.get_template("chart.html").render(
        title=title,
        spec=safe_json(to_spec(chart)),
        library=library(),
        draw=draw_script(),
        policy=policy(library(), draw_script()),
        generator=f"mlux {version('mlux')}",
    )


def save(chart: Chart, path: str | Path) -> Path:
    """Writes the chart; the ending says how.

    Args:
        chart: The chart.
        path: A file ending in `.png`, `.svg`, `.html` or `.json`.

    Returns:
        The path.

    Raises:
        ParameterError: If the ending is none of these, or its folder does not exist.

    Example:
        >>> import altair as alt, tempfile
        >>> chart = alt.Chart(alt.Data(values=[{"a": 1}])).mark_point().encode(x="a:Q")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save(chart, f"{folder}/points.svg").name
        'points.svg'
    """
    target = Path(path)
    check_target(target, FORMATS)
    match target.suffix.lower():
        case ".png":
            target.write_bytes(to_png(chart))
        case ".svg":
            target.write_text(to_svg(chart), "utf-8")
        case ".html":
            target.write_text(to_html(chart, title=target.stem), "utf-8")
        case _:
            target.write_text(json.dumps(to_spec(chart), indent=1) + "\n", "utf-8")
    return target


def check_target(path: Path, endings: tuple[str, ...]) -> None:
    """Refuses a file that cannot be written or whose ending says nothing.

    Raises:
        ParameterError: With the endings that are known.
    """
    if path.suffix.lower().lstrip(".") not in endings:
        known = ", ".join(f".{ending}" for ending in endings)
        raise ParameterError(f"Cannot write {path.name!r}: its ending must be one of {known}.")
    if not path.parent.is_dir():
        raise ParameterError(f"There is no folder {str(path.parent)!r} to write {path.name} to.")
    if path.is_dir():
        raise ParameterError(f"{str(path)!r} is a folder; name a file.")


_SNIPPET = "window.vegaEmbed = vegaEmbed;"


@cache
def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that asks for nothing."""
    return str(vl_convert.javascript_bundle(_SNIPPET, vl_version=VEGA_LITE)).replace(
        "</script", "<\\/script"
    )


@cache
def draw_script() -> str:
    """The script of a page that draws its charts."""
    return (Path(__file__).parent / "templates" / "draw.js").read_text("utf-8")


def safe_json(document: Any) -> str:
    """JSON that can stand inside a script element, whatever text is in it."""
    text = json.dumps(document, separators=(",", ":"))  # ASCII, so no U+2028 either
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def policy(*scripts: str) -> str:
    """A content security policy that runs these scripts and fetches nothing."""
    # Vega compiles its expressions to functions, hence unsafe-eval; inline code stays refused.
    hashes = " ".join(f"'sha256-{_sha256(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes} 'unsafe-eval'; style-src 'unsafe-inline'; "
        "img-src data: blob:; base-uri 'none'; form-action 'none'"
    )


def _sha256(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
