"""Whatever an experiment stored, a report, every chart and every comparison of it can be made."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from mlux import compare, registry, report, run_experiment
from mlux.charts.choice import CHARTS, chart_for
from mlux.errors import MluxError
from mlux.report.text import number
from mlux.store import Store, load_run, soundness

MODELS = ("demo", "demo-4bit")
AXES: tuple[tuple[str, ...], ...] = (
    *((), ("layer",), ("layer", "head"), ("layer", "position")),
    *(("condition",), ("condition", "layer", "head")),
)
# Few prompts, and what mixes rows with and without an axis.
CASES = [("activation_patching", {"sites": "head"}), ("direct_logit_attribution", {})]


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT])
def test_a_missing_number_is_an_empty_cell(missing: object) -> None:
    assert number(missing) == ""


@pytest.mark.slow
@pytest.mark.parametrize(("name", "params"), CASES)
def test_a_mixture_of_axes_can_be_reported_drawn_and_compared(
    name: str, params: dict[str, Any], tmp_path: Path
) -> None:
    _everything(name, "ioi:2", params, tmp_path)


@pytest.mark.soak
@pytest.mark.parametrize("name", registry.names())
def test_every_experiment_can_be_reported_drawn_and_compared(name: str, tmp_path: Path) -> None:
    _everything(name, None, {}, tmp_path)


def _everything(name: str, prompts: str | None, params: dict[str, Any], folder: Path) -> None:
    """Only a `MluxError` may come, which says why something does not suit."""
    db = str(folder / "mlux.db")
    runs = [
        run_experiment(name, model=model, prompts=prompts, params=params, db=db).uid
        for model in MODELS
    ]
    for chosen in (runs[:1], runs):
        files = report.write(chosen, folder / "report.html", across_quantization=True, db=db)
        text = files[0].read_text("utf-8")
        assert "&lt;NA&gt;" not in text
        assert "Traceback" not in text
        assert report.write(chosen, folder / "report.md", across_quantization=True, db=db)
    with Store.open(db) as store:
        metrics = [metric.name for metric in load_run(store, runs[0]).metrics]
        assert soundness.check(store) == []
    drawn = 0
    for metric in metrics:
        for axes in AXES:
            _tried(lambda m=metric, by=axes: compare.diff(
                *runs, metric=m, by=by, across_quantization=True, n_resamples=99, db=db
            ))  # fmt: skip
        for chart in CHARTS:
            drawn += _tried(lambda m=metric, c=chart: chart_for(
                runs, chart=c, metric=m, db=db
            ).to_dict())  # fmt: skip
    assert drawn


def _tried(work: Any) -> bool:
    try:
        work()
    except MluxError:
        return False
    return True
