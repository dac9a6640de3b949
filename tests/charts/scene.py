"""What a chart shows, read from what Vega draws: marks, labels and colours, and the pixels."""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import vl_convert
from PIL import Image

from mlux import charts
from mlux.charts.saving import VEGA_LITE, Chart, to_spec


@dataclass(frozen=True)
class Scene:
    """The drawn marks of a chart."""

    marks: list[tuple[str, str, dict[str, Any]]]  # role, type, item

    def items(self, kind: str) -> list[dict[str, Any]]:
        """The items of the data marks of a type: rect, line, symbol, text, area, rule."""
        return [item for role, found, item in self.marks if role == "mark" and found == kind]

    def texts(self, role: str) -> list[str]:
        """The texts of a role: mark, axis-label, axis-title, title-text, legend-label, …"""
        texts = [
            item["text"]
            for found, kind, item in self.marks
            if (found, kind) == (role, "text") and item.get("opacity", 1)
        ]
        return [line for text in texts for line in (text if isinstance(text, list) else [text])]

    def smallest_text(self) -> float:
        """The font size of the smallest text."""
        return min(item["fontSize"] for _, kind, item in self.marks if kind == "text")


def scene(chart: Chart) -> Scene:
    """Lets Vega draw the chart."""
    drawn: Any = vl_convert.vegalite_to_scenegraph(to_spec(chart), vl_version=VEGA_LITE)
    return Scene(list(_walk(drawn["scenegraph"])))


def _walk(mark: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for item in mark.get("items", []):
        if "marktype" in item:
            yield from _walk(item)
        else:
            yield mark.get("role", ""), mark["marktype"], item
            for inner in item.get("items", []):
                yield from _walk(inner)


def rgb(color: str) -> tuple[int, ...]:
    """`rgb(1, 2, 3)` or `#010203` as numbers."""
    if color.startswith("#"):
        return tuple(bytes.fromhex(color[1:]))
    return tuple(int(part) for part in re.findall(r"\d+", color))


def pixels(chart: Chart) -> Image.Image:
    """The chart's PNG."""
    image = Image.open(io.BytesIO(charts.to_png(chart)))
    image.load()
    return image.convert("RGB")


def inked(image: Image.Image) -> float:
    """The share of pixels that are not white."""
    colors = image.getcolors(image.width * image.height) or []
    white = sum(count for count, color in colors if color == (255, 255, 255))
    return 1 - white / (image.width * image.height)
