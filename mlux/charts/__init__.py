"""Charts: one function each from a DataFrame, as `mlux.compare` returns it, to an Altair chart.

The same chart goes to a notebook, to PNG, SVG, HTML or JSON (`save`), to a report and to the web
page. Colours can be told apart with any kind of colour vision: viridis, and blue to orange around
0 where the sign matters. Needs the extra `plot`. Nothing here knows MLX or SQL.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from mlux.errors import MluxError

if TYPE_CHECKING:
    from mlux.charts.choice import CHARTS as CHARTS
    from mlux.charts.choice import chart_for as chart_for
    from mlux.charts.grids import attention_pattern as attention_pattern
    from mlux.charts.grids import condition_heatmap as condition_heatmap
    from mlux.charts.grids import head_heatmap as head_heatmap
    from mlux.charts.grids import patching_heatmap as patching_heatmap
    from mlux.charts.grids import pattern_frame as pattern_frame
    from mlux.charts.lens import lens_grid as lens_grid
    from mlux.charts.lines import dose_response as dose_response
    from mlux.charts.lines import layer_profile as layer_profile
    from mlux.charts.points import conditions as conditions
    from mlux.charts.points import parallel_coordinates as parallel_coordinates
    from mlux.charts.points import run_scatter as run_scatter
    from mlux.charts.saving import save as save
    from mlux.charts.saving import to_html as to_html
    from mlux.charts.saving import to_png as to_png
    from mlux.charts.saving import to_svg as to_svg
    from mlux.charts.texts import generations as generations
    from mlux.charts.waterfall import attribution_waterfall as attribution_waterfall

# Here and not where they are imported, so that every way to a chart meets the same sentence.
for _package, _module in (("altair", "altair"), ("vl-convert-python", "vl_convert")):
    if find_spec(_module) is None:
        raise MluxError(f"Charts need {_package}, which is missing: pip install 'mlux[plot]'")

_NAMES = {
    "choice": ["CHARTS", "chart_for"],
    "grids": [
        "attention_pattern",
        "condition_heatmap",
        "head_heatmap",
        "patching_heatmap",
        "pattern_frame",
    ],
    "lens": ["lens_grid"],
    "lines": ["dose_response", "layer_profile"],
    "points": ["conditions", "parallel_coordinates", "run_scatter"],
    "saving": ["save", "to_html", "to_png", "to_svg"],
    "texts": ["generations"],
    "waterfall": ["attribution_waterfall"],
}
_HOMES = {name: home for home, names in _NAMES.items() for name in names}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'mlux.charts' has no attribute {name!r}")
    return getattr(import_module(f"mlux.charts.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
