"""What a run computes in: said, chosen, and kept by whatever repeats the run."""

from pathlib import Path

import pytest
from click.testing import CliRunner

from mlux import HookedModel, run_experiment
from mlux.cli.root import cli
from mlux.errors import MluxError
from mlux.report.request import lines
from mlux.runner import prepare_again, rerun
from mlux.store import Store, load_run
from mlux.verify import verify

HALF = ("float16", "bfloat16")


@pytest.mark.parametrize("dtype", HALF)
def test_a_run_computes_in_the_dtype_that_was_asked_for_and_so_does_what_repeats_it(
    dtype: str, tmp_path: Path
) -> None:
    db = tmp_path / "mlux.db"
    run = run_experiment("logit_lens", model="demo", prompts="facts:2", dtype=dtype, db=db)
    again = rerun(run.uid, db=db)
    for uid in (run.uid, again.uid):
        with Store.open(db) as store:
            stored = load_run(store, uid)
        assert stored.model.dtype == dtype
    assert prepare_again(stored).model.config["dtype"] == dtype
    checked = verify(run.uid, db=db)
    assert not [one for one in checked.changed if one.name == "dtype"]
    assert f"--dtype {dtype}" in list(lines([stored]))[-1]


@pytest.mark.parametrize("dtype", [None, *HALF])
def test_the_first_line_says_what_is_computed_in_and_what_is_stored(
    dtype: str | None, tmp_path: Path
) -> None:
    asked = ["--dtype", dtype] if dtype else []
    arguments = ["--db", str(tmp_path / "mlux.db"), "run", "logit_lens", "-m", "demo"]
    done = CliRunner().invoke(cli, [*arguments, "--prompts", "facts:2", *asked])
    first = next(line for line in done.stderr.splitlines() if line.startswith("Run 1"))
    model = HookedModel.from_pretrained("demo", dtype=dtype)
    assert f" in {model.config['dtype']}" in first
    assert ("stored in" in first) == (model.config["dtype"] != model.stored_dtype)
    assert len(first) <= 80


def test_a_dtype_that_is_not_the_loaded_models_is_refused(tmp_path: Path) -> None:
    model = HookedModel.from_pretrained("demo", dtype="float32")
    with pytest.raises(
        MluxError, match="float16, but the model that was given computes in float32"
    ):
        run_experiment("logit_lens", model=model, dtype="float16", db=tmp_path / "mlux.db")
    with pytest.raises(MluxError, match="dtype"):
        run_experiment("logit_lens", model="demo", dtype="float8", db=tmp_path / "mlux.db")
