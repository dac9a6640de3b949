"""Gradients find the same heads as the exact sweep on the built-in model."""

from pathlib import Path

import pytest

from mlux import compare, run_experiment
from mlux.methods import attribution_patching as method


def test_it_correlates_with_the_exact_sweep(fresh_db: Path) -> None:
    run = run_experiment("attribution_patching", model="demo", prompts="ioi:3", db=fresh_db)
    frame = compare.layer_results([run.uid], db=fresh_db)
    frame = frame.astype({"condition": str, "metric": str})
    r = frame[frame["metric"] == "correlation"].set_index("condition")["value"]
    for site in ("head", "resid_pre", "attn_out", "mlp_out"):
        assert r[f"site={site}"].mean() >= 0.9
        assert abs(r[f"site={site}, control=random"].mean()) < 0.4
    assert (r["site=head"] >= 0.9).all()
    assert (frame[frame["metric"] == "has_gradient"]["value"] == 1.0).all()


def test_without_gradients_the_exact_sweep_is_left_and_it_says_so(
    fresh_db: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*arguments: object) -> None:
        raise method.NoGradientError("A kernel of this model has no gradient: [QRF::vjp].")

    monkeypatch.setattr(method, "_gradients", none)
    with pytest.warns(UserWarning, match="no gradient.*Only the exact sweep is run"):
        run = run_experiment(
            "attribution_patching", model="demo", prompts="ioi:1", params={"sites": "head"},
            db=fresh_db,
        )  # fmt: skip
    assert run.status == "done"
    gated = {"baseline_gap": 2, "baseline_solved": 2}  # of the control, too
    counts = compare.layer_results([run.uid], db=fresh_db)["metric"].astype(str).value_counts()
    assert dict(counts) == {"patching_effect": 24, "has_gradient": 1, **gated}
