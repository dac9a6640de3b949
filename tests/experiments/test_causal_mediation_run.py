"""What tells two facts apart goes through the attention of block 1, and nothing beside it."""

from pathlib import Path

import pytest

from mlux import compare, run_experiment
from mlux.errors import ParameterError


def test_one_attention_mediates_everything(fresh_db: Path) -> None:
    run = run_experiment("causal_mediation", model="demo", prompts="facts:3", db=fresh_db)
    assert run.status == "done"
    frame = compare.layer_results([run.uid], db=fresh_db)
    frame = frame.astype({"condition": str, "metric": str})
    whole = frame[frame["condition"] == "mediator=attn_out"]
    mean = whole.groupby(["metric", "layer"])["value"].mean()
    total = whole[whole["metric"] == "mediation_total"]["value"].mean()
    assert mean["mediated_share", 1] == pytest.approx(1, abs=0.05)
    assert abs(mean["mediation_direct", 1]) < 0.05 * total
    assert abs(mean["mediated_share", 4]) < 0.05
    assert mean["mediation_direct", 4] > 0.95 * total
    itself = frame[frame["condition"].str.contains("control=self")]
    effects = itself[itself["metric"].isin(["mediation_indirect", "mediation_direct"])]
    assert len(effects) == 3 * 2 * (24 + 6 + 6 + 4 * 6)
    assert (effects["value"] == 0.0).all()
    groups = frame[frame["condition"].str.contains("group=")]["condition"].unique()
    assert len(groups) == 4 * (1 + 2)  # each beside itself and as many random neurons
    indirect = frame[frame["metric"] == "mediation_indirect"].groupby("condition")["value"]
    values = {name: indirect.get_group(name).to_list() for name in groups}
    random = [values[name] for name in groups if "control=random" in name]
    assert all(any(one) for one in random)
    assert all(one not in random for name, one in values.items() if "control" not in name)


def test_no_groups_are_refused(fresh_db: Path) -> None:
    with pytest.raises(ParameterError, match="neuron_groups is 0"):
        run_experiment("causal_mediation", model="demo", params={"neuron_groups": 0}, db=fresh_db)
