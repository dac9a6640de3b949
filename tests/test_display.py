"""What a notebook shows of runs, models and caches: tables, with every text escaped."""

import doctest
from pathlib import Path

import altair as alt
import pytest
from synthetic import make_spec, write_run

from mlux import HookedModel, charts, display
from mlux.runner import Run
from mlux.store import Store, load_run

EVIL = "<script>alert(1)</script>"


def test_a_run_shows_what_it_was_and_what_to_type_next() -> None:
    run = Run(uid="abc", experiment="logit_lens", model=EVIL, status="done", n_trials=4, n_failed=1,
              seconds=1.25)  # fmt: skip
    page = run._repr_html_()
    assert "3 of 4" in page
    assert "charts.chart_for(&#x27;abc&#x27;)" in page
    assert "<script" not in page


def test_a_stored_run_shows_its_parameters_and_tags(tmp_path: Path) -> None:
    with Store.open(tmp_path / "mlux.db", write=True) as store:
        uid = write_run(store, make_spec(note=EVIL, tags={"paper": EVIL}))
        page = load_run(store, uid)._repr_html_()
    assert "param top_k" in page
    assert "tag paper" in page
    assert "4 of 4" in page
    assert "<script" not in page


def test_a_model_and_a_cache_are_tables() -> None:
    model = HookedModel.from_pretrained("demo")
    assert "d_model" in model._repr_html_()
    _, cache = model.run_with_cache("the capital of france is", hooks=["model.layers.3"])
    page = cache._repr_html_()
    assert "model.layers.3" in page
    assert "[1, 6, 128]" in page
    assert page.count("<tr>") == 2


def test_a_chart_shows_itself_in_a_notebook() -> None:
    import pandas as pd

    chart = charts.layer_profile(pd.DataFrame({"layer": [0, 1], "value": [0.0, 1.0]}))
    with alt.renderers.enable("svg"):  # the one that needs no network
        (bundle,) = [chart._repr_mimebundle_()]
    assert "<svg" in str(bundle)


def test_long_texts_are_cut_and_the_examples_run() -> None:
    assert len(display.facts("x", {"note": "y" * 100_000})) < 1000
    assert doctest.testmod(display).failed == 0


@pytest.mark.parametrize("nothing", [None, "", ()])
def test_what_is_not_there_takes_no_row(nothing: object) -> None:
    assert "error" not in display.facts("run", {"error": nothing, "status": "done"})
