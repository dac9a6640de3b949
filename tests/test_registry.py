"""Experiments are found by their file's name, and imported only when asked for."""

import subprocess
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from mlux import registry
from mlux.errors import ExperimentError, MluxError, UnknownNameError

OWN = '''
from collections.abc import Iterator
from dataclasses import dataclass, field
from mlux import experiment
from mlux.results import Metric, Values

@dataclass(frozen=True)
class Config:
    times: int = field(default=2, metadata={"help": "how often"})

@experiment(metrics=[Metric(name="length", unit="tokens", description="Length.")], prompts="facts")
def token_count(model, config: Config, batch):
    """Counts tokens."""
    for trial in batch:
        yield trial, Values(metric="length", values=config.times * len(trial.encoded.ids))
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "token_count.py").write_text(OWN)
    monkeypatch.setenv("MLUX_EXPERIMENTS", str(tmp_path))
    return tmp_path


def test_every_shipped_experiment_describes_itself() -> None:
    assert {"activation_patching", "induction_heads", "logit_lens"} <= set(registry.names())
    for name in registry.names():
        found = registry.get(name)
        assert found.name == name
        assert found.description.endswith((".", "?"))
        assert found.paper
        assert found.metrics
        assert is_dataclass(found.config)
        assert all(field.metadata.get("help") for field in fields(found.config)), name
        assert len(found.code_hash) == 64


def test_a_users_own_experiment_is_one_file(folder: Path, fresh_db: Path) -> None:
    from mlux import compare, run_experiment

    assert "token_count" in registry.names()
    assert registry.get("token_count").description == "Counts tokens."
    run = run_experiment(
        "token_count", model="demo", params={"times": "3"}, prompts="facts:4", db=fresh_db
    )
    values = compare.layer_results([run], db=fresh_db)["value"]
    assert (values % 3 == 0).all()
    assert len(values) == 4


def test_two_experiments_of_one_name_are_refused(folder: Path) -> None:
    (folder / "logit_lens.py").write_text(OWN)
    with pytest.raises(MluxError, match="two experiments are named 'logit_lens'"):
        registry.names()


def test_a_file_without_its_experiment_is_refused(folder: Path) -> None:
    (folder / "other.py").write_text("x = 1\n")
    with pytest.raises(MluxError, match=r"other\.py: no experiment 'other' is defined here"):
        registry.get("other")


def test_an_absent_folder_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLUX_EXPERIMENTS", "/nowhere")
    with pytest.raises(MluxError, match=r"No folder of experiments at '/nowhere'"):
        registry.names()


def test_an_unknown_name_is_answered_with_close_ones() -> None:
    message = r"No experiment named 'logitlens'. Did you mean 'logit_lens'"
    with pytest.raises(UnknownNameError, match=message):
        registry.get("logitlens")


def test_an_unknown_name_without_close_ones_is_told_where_to_put_it() -> None:
    message = r"Known: .*logit_lens.* with --experiments DIR or \$MLUX_EXPERIMENTS\."
    with pytest.raises(UnknownNameError, match=message):
        registry.get("zzzzzz")


def test_an_experiment_that_cannot_be_imported_names_its_file(folder: Path) -> None:
    (folder / "broken.py").write_text("raise RuntimeError('no luck')\n")
    with pytest.raises(MluxError, match=r"broken\.py:1: .*RuntimeError: no luck"):
        registry.get("broken")
    assert "mlux_user_experiments.broken" not in sys.modules


def test_a_function_of_another_form_is_refused() -> None:
    with pytest.raises(ExperimentError, match=r"must take \(model, config, batch\)"):

        @registry.experiment(metrics=[], prompts="facts")
        def wrong(model: object, batch: object) -> None:  # type: ignore[arg-type] # on purpose
            """Lacks a config."""


def test_listing_names_imports_no_experiment() -> None:
    script = (
        "import sys; from mlux import registry; registry.names(); "
        "heavy = ('mlux.experiments.', 'mlx', 'mlux.engine'); "
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    result = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


FITTED = '''
from dataclasses import dataclass
from mlux import experiment
from mlux.results import Fitted, Metric, RanTokens, Values

@dataclass(frozen=True)
class Config:
    pass

def fit(model, config, prompts, seed):
    return Fitted(state=sum(len(prompt.ids) for prompt in prompts) + 1000 * seed)

@experiment(
    metrics=[Metric(name="share", unit="fraction", description="Of all tokens.")],
    prompts="facts:5", fit=fit,
    conditions=lambda config, model: [{"layer": str(i)} for i in range(model["n_layers"])],
)
def share_of_tokens(model, config: Config, batch):
    """Which share of all tokens is this prompt's?"""
    for trial in batch:
        yield trial, Values(metric="share", values=len(trial.encoded.ids) / batch.fitted)
        yield trial, RanTokens(role="first", token_ids=trial.encoded.ids[:1])
'''


def test_an_experiment_may_learn_from_all_prompts_before_its_trials(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fresh_db: Path
) -> None:
    from mlux import compare, run_experiment
    from mlux.runner import plan_experiment
    from mlux.store import Store
    from mlux.store.sql import query

    (tmp_path / "share_of_tokens.py").write_text(FITTED)
    monkeypatch.setenv("MLUX_EXPERIMENTS", str(tmp_path))
    run = run_experiment("share_of_tokens", model="demo", db=fresh_db)
    assert plan_experiment("share_of_tokens", model="demo").forward_passes == 5 + 5 * 6
    results = compare.layer_results([run], db=fresh_db)
    assert results.groupby("condition", observed=True)["value"].sum().tolist() == [1.0] * 6
    with Store.open(fresh_db) as store:
        roles = "SELECT role, count(*) FROM trial_tokens WHERE trial = 0 GROUP BY role"
        _, rows = query(store, roles)
    assert dict(rows)["first"] == 1
