"""The self-test: what it says, what it costs, what it finds, and that it stops runs."""

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import mlx.core as mx
import pytest
from architectures import build

from mlux import registry, run_experiment, store
from mlux.engine import HookedModel
from mlux.engine.certificate import PROPERTIES, judged
from mlux.engine.checking import check
from mlux.engine.checkup import KINDS
from mlux.errors import ModelError
from mlux.plan import assemble
from mlux.prompts import Prompt, PromptSet
from mlux.store import Store


@pytest.fixture(scope="module")
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


def test_every_site_and_property_has_a_row_and_the_report_shows_them(demo: HookedModel) -> None:
    found = demo.check()
    assert [row.site for row in found.rows] == [*KINDS, *PROPERTIES_IN_ORDER]
    assert found.ok
    for row in found.rows:
        assert row.site in repr(found)


PROPERTIES_IN_ORDER = (
    "hooks", "sum", "attention", "heads", "self_patch", "lens", "resume", "batch", "cache", "clean",
    "rotary", "config",
)  # fmt: skip


def test_the_properties_are_explained() -> None:
    assert set(PROPERTIES) == set(PROPERTIES_IN_ORDER)


def test_it_costs_at_most_thirty_forward_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("qwen3_next")
    assert model.config["n_heads"] == 4
    calls = 0
    original = type(model.model).__call__

    def counted(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal calls
        calls += 1
        return original(self, *args, **kwargs)

    monkeypatch.setattr(type(model.model), "__call__", counted)
    found = check(model)
    assert calls <= found.forward_passes <= 30


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_it_holds_in_half_precision_and_quantised(dtype: str) -> None:
    for name in ("demo", "demo-4bit"):
        found = HookedModel.from_pretrained(name, dtype=dtype).check()
        assert found.dtype == dtype
        assert found.ok, found


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (0.0, "exact"),
        (1e-4, "exact"),
        (3e-4, "approximate"),
        (5e-4, "failed"),
        (float("nan"), "failed"),
    ],
)
def test_verdicts(error: float, verdict: str) -> None:
    assert judged("sum", error, 1e-4).verdict == verdict


def test_a_wrong_anatomy_is_found() -> None:
    """The self-test looks at the numbers, not at what the anatomy says of itself."""
    right = build("llama")
    wrong = HookedModel(right.model, None, config=right._raw_config)
    block = right.anatomy.blocks[1]
    swapped = replace(block, attn_out=block.mlp_out, mlp_out=block.attn_out)
    doubled = replace(block, mlp_out=(replace(block.mlp_out[0], factor=2.0),))
    elsewhere = replace(block, o_proj=f"{block.mixer}.q_proj")
    for changed, failing in ((doubled, {"sum"}), (elsewhere, {"heads"}), (swapped, set())):
        blocks = (right.anatomy.blocks[0], changed, right.anatomy.blocks[2])
        wrong.layout = replace(right.layout, anatomy=replace(right.anatomy, blocks=blocks))
        assert {row.site for row in wrong.check().failed(())} == failing


def test_what_is_absent_says_so_once() -> None:
    row = build("mamba").check().row("pattern")
    assert row.verdict == "absent"
    assert row.reason == "this block has no softmax attention"


def test_a_run_stops_before_computing_where_the_model_lacks_what_it_needs() -> None:
    experiment = registry.get("induction_heads")
    prompts = PromptSet(name="one", prompts=(Prompt(text="1 2", token_ids=(1, 2)),))
    with pytest.raises(
        ModelError, match=r"induction_heads needs 'pattern'.*'backbone\.layers\.0'.*no softmax"
    ):
        assemble(
            experiment, experiment.config(), build("mamba"), prompts,
            seed=0, batch_size=1, memory=None,
        )  # fmt: skip


def test_a_run_stops_where_the_stored_self_test_failed(demo: HookedModel, fresh_db: Path) -> None:
    rows = [asdict(row) for row in demo.check().rows]
    for row in rows:
        if row["site"] == "resid_post":
            row |= {"verdict": "failed", "reason": "made to fail"}
    with Store.open(fresh_db, write=True) as notebook:
        store.store_checks(notebook, demo.identity, rows, {"mlux": "0"})
    with pytest.raises(ModelError, match=r"logit_lens needs 'resid_post'.*made to fail"):
        run_experiment("logit_lens", model=demo, prompts="facts:1", db=fresh_db)
    with Store.open(fresh_db, write=True) as notebook:
        good = [asdict(row) for row in demo.check().rows]
        store.store_checks(notebook, demo.identity, good, {"mlux": "0"})
        assert len(store.show_model(notebook, "demo")["checks"]) == len(good)
    assert run_experiment("logit_lens", model=demo, prompts="facts:1", db=fresh_db).status == "done"


def test_several_streams_are_shown_side_by_side() -> None:
    model = build("gemma3n")
    tokens = mx.array([[3, 5, 7], [2, 4, 6]])
    _, cache = model.run_with_cache(tokens, hooks=["model.layers.1", "model.layers.1.input"])
    assert cache["model.layers.1"].shape == (2, 3, 4 * 32)
    assert cache["model.layers.1.input"].shape == (2, 3, 4 * 32)


def test_an_edit_of_a_sum_replaces_the_sum() -> None:
    model = build("granitemoehybrid")
    path = "model.layers.1.mlp"
    tokens = mx.array([[3, 5, 7]])
    hooks = [(path, lambda inputs, output, wrapper: mx.ones_like(output))]
    logits = model.run_with_hooks(tokens, hooks=hooks)
    _, cache = model.run_with_cache(
        tokens, hooks=["model.layers.1.input", "model.layers.1.self_attn"]
    )
    resid = cache["model.layers.1.input"] + cache["model.layers.1.self_attn"] + 1.0
    expected, _ = model.run_from(2, resid, tokens=tokens)
    assert mx.allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_blocks_that_share_what_earlier_ones_made_are_resumed_from_the_tokens() -> None:
    for name in ("afm7", "gemma4", "rwkv7", "hunyuan"):
        model = build(name)
        tokens = mx.array([[3, 5, 7, 11]])
        last = len(model.layers) - 1
        path = f"model.layers.{last}.input"
        logits, cache = model.run_with_cache(tokens, hooks=[path])
        resumed, _ = model.run_from(last, cache[path], tokens=tokens)
        assert mx.allclose(resumed, logits, rtol=1e-4, atol=1e-4), name
