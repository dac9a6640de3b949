"""What holds of every shipped experiment, on the built-in model and with its defaults."""

import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest

from mlux import compare, registry
from mlux.store import Store, load_run

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.slow
@pytest.mark.parametrize("name", registry.names())
def test_it_runs_with_its_defaults_and_shows_up_in_compare(name: str, tmp_path: Path) -> None:
    db = tmp_path / "mlux.db"
    # A terminal, since the progress bar is for eyes.
    parent, child = pty.openpty()
    termios.tcsetwinsize(child, (24, 80))
    process = subprocess.Popen(
        [sys.executable, "-m", "mlux.cli", "--db", str(db), "run", name, "--model", "demo"],
        stdout=subprocess.PIPE,
        stderr=child,
        text=True,
        cwd=tmp_path,
    )
    os.close(child)
    shown = _read_all(parent)
    out, _ = process.communicate()
    assert process.returncode == 0, shown
    assert re.search(r"\d+/\d+", shown), "no progress bar"
    uid = out.split("\t")[0]
    with Store.open(db) as store:
        stored = load_run(store, uid)
    assert stored.status == "done"
    results = compare.layer_results([uid], db=db)
    declared = {metric.name for metric in registry.get(name).metrics}
    assert set(results["metric"]) == declared, "a metric is declared and never yielded"
    for metric in registry.get(name).metrics:
        low, high = metric.bounds or (-np.inf, np.inf)
        values = results.loc[results["metric"] == metric.name, "value"]
        assert values.between(low - 1e-5, high + 1e-5).all(), f"{metric.name} leaves its bounds"
    table = compare.pivot([uid], metric=str(results["metric"].iloc[0]), by="condition", db=db)
    assert len(table)


@pytest.mark.parametrize("name", registry.names())
def test_a_metric_that_sounds_bounded_has_a_unit_that_says_its_bounds(name: str) -> None:
    sounds = re.compile(
        "accuracy|probability|share|correct|refused|solved|rate$|cosine|correlation"
    )
    ratios = {"mediated_share"}  # of two effects: beyond 1 where they have different signs
    for metric in registry.get(name).metrics:
        if sounds.search(f"{metric.name} {metric.unit}") and metric.name not in ratios:
            assert metric.bounds is not None, f"{metric.name} in {metric.unit}"
        if metric.bounds == (0.0, 1.0):
            assert not re.search("minus|gain", f"{metric.name} {metric.description}".lower())


def _read_all(terminal: int) -> str:
    parts = []
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # Linux says so when the other side is closed
            break
        if not part:
            break
        parts.append(part)
    os.close(terminal)
    return b"".join(parts).decode("utf-8", "replace")


@pytest.mark.parametrize("name", registry.names())
def test_it_has_a_page_with_a_figure(name: str) -> None:
    page = (DOCS / "experiments" / f"{name}.md").read_text("utf-8")
    assert f"mlux run {name}" in page
    figure = re.search(r"!\[[^\]]{20,}\]\(\.\./images/experiments/([\w.]+)\)", page)
    assert figure is not None, "no figure with a description"
    assert (DOCS / "images" / "experiments" / figure[1]).stat().st_size > 5_000
    index = (DOCS / "experiments" / "README.md").read_text("utf-8")
    assert f"({name}.md)" in index
