"""The refusal direction's parts against their definitions and plain loops."""

import sys
from functools import cache
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlux import prompts
from mlux.engine import HookedModel, sites
from mlux.engine.arrays import numbers, to_numpy
from mlux.engine.trials import encode
from mlux.errors import ParameterError
from mlux.methods import refusal
from mlux.methods.directions import ablate_direction, cosine, random_direction
from mlux.methods.refusal import Candidate
from mlux.methods.scores import kl_divergence
from mlux.methods.splits import stratified_split
from mlux.methods.steering import steering_hooks

sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
from architectures import build  # every architecture, tiny
from tiny import CONFIGS, tiny


@cache
def demo() -> HookedModel:
    return HookedModel.from_pretrained("demo")


@cache
def rows(label: str) -> list[tuple[int, ...]]:
    chosen = [p for p in prompts.load("requests").prompts if p.label == label]
    return [encode(demo(), prompt).ids for prompt in chosen[:5]]


def test_the_refusal_score_is_the_log_odds_of_the_refusing_tokens() -> None:
    logits = np.random.default_rng(0).normal(scale=4, size=(3, 30))
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    refuses = p[:, [2, 7]].sum(axis=-1)
    found = refusal.refusal_score(mx.array(logits.astype(np.float32)), [2, 7])
    assert np.allclose(found, np.log(refuses / (1 - refuses)), atol=1e-4)
    sure = refusal.refusal_score(mx.array([[40.0, 0.0, 0.0]]), [0])  # 1 - P is 8e-18
    assert float(sure[0]) == pytest.approx(40 - np.log(2), abs=1e-4)


@pytest.mark.parametrize("name", ["llama", "gemma2", "jamba", "falcon_h1"])
def test_the_last_logits_are_those_of_each_prompt_alone(name: str) -> None:
    model = tiny(name) if name in CONFIGS else build(name)
    ids = [[3, 5, 7], [2, 4, 6, 8, 10]]
    direction = random_direction(model.config["d_model"], 0)
    edits = [[], ablate_direction(model, direction), steering_hooks(1, direction, 3.0)]
    for hooks in edits:
        found = refusal.last_logits(model, ids, hooks)
        for number, row in enumerate(ids):
            alone = model.run_with_hooks(row, hooks=hooks)[0, -1]
            assert mx.allclose(found[number], alone, atol=2e-3, rtol=1e-3)


def test_candidates_are_differences_of_means_at_each_block_and_token() -> None:
    found = refusal.candidate_directions(
        demo(), rows("harmful"), rows("harmless"), [1, 4], [-2, -1]
    )
    assert sorted(found) == [(1, -2), (1, -1), (4, -2), (4, -1)]
    for (layer, position), vector in found.items():
        path = sites.resid_post(layer)
        means = []
        for label in ("harmful", "harmless"):
            caches = [demo().run_with_cache([list(r)], hooks=[path])[1] for r in rows(label)]
            means.append(np.mean([to_numpy(c[path][0, position]) for c in caches], axis=0))
        assert np.allclose(vector, means[0] - means[1], atol=1e-3)


def test_validation_scores_are_those_of_one_prompt_at_a_time() -> None:
    vector = 5 * random_direction(128, 1)
    (found,) = refusal.validate(
        demo(), {(3, -1): vector}, rows("harmful"), rows("harmless"), tokens=[9, 11]
    )
    ablation, addition = ablate_direction(demo(), vector), steering_hooks(3, vector)
    for number, row in enumerate(rows("harmful")):
        ablated = demo().run_with_hooks(list(row), hooks=ablation)[:, -1]
        expected = numbers(refusal.refusal_score(ablated, [9, 11]))[0]
        assert found.bypass[number] == pytest.approx(expected, abs=1e-2)
    for number, row in enumerate(rows("harmless")):
        own = demo().forward(list(row))[:, -1]
        added = demo().run_with_hooks(list(row), hooks=addition)[:, -1]
        ablated = demo().run_with_hooks(list(row), hooks=ablation)[:, -1]
        expected = numbers(refusal.refusal_score(added, [9, 11]))[0]
        assert found.induce[number] == pytest.approx(expected, abs=1e-2)
        assert found.kl[number] == pytest.approx(numbers(kl_divergence(own, ablated))[0], abs=1e-3)


def candidate(layer: int, *, bypass: float, induce: float = 1.0, kl: float = 0.0) -> Candidate:
    return Candidate(
        layer=layer,
        position=-1,
        vector=mx.ones(4),
        bypass=[bypass - 1, bypass + 1],
        induce=[induce],
        kl=[kl],
    )


def test_the_choice_follows_the_papers_rules() -> None:
    best = candidate(3, bypass=-5)
    others = [
        candidate(2, bypass=-4),
        candidate(2, bypass=-9, induce=-1),  # does not make anything refused
        candidate(3, bypass=-9, kl=0.2),  # changes too much
        candidate(8, bypass=-9),  # of ten blocks, too near the words
    ]
    assert refusal.select([*others, best], n_layers=10) is best
    assert refusal.select(others, n_layers=10, most_kl=0.3) is others[2]
    with pytest.raises(ParameterError, match=r"the least is 0.2 \(block 3, token -1\)"):
        refusal.select(others[1:3], n_layers=10)
    with pytest.raises(ParameterError, match="do the refusal words fit it"):
        refusal.select(others[1:2], n_layers=10)


def test_the_cosine_is_numpys() -> None:
    x, r = np.random.default_rng(1).normal(size=(2, 6, 8)).astype(np.float32)
    expected = [float(a @ r[0] / np.linalg.norm(a) / np.linalg.norm(r[0])) for a in x]
    assert np.allclose(cosine(mx.array(x), mx.array(r[0])), expected, atol=1e-5)


def test_every_part_has_its_share_of_each_label() -> None:
    labels = ["a"] * 12 + ["b"] * 24 + [None] * 4
    parts = stratified_split(labels, [1 / 3, 1 / 6], seed=3)
    counts = {
        label: [sum(p == k and own == label for p, own in zip(parts, labels, strict=True))
                for k in range(3)]
        for label in ("a", "b")
    }  # fmt: skip
    assert counts == {"a": [4, 2, 6], "b": [8, 4, 12]}
    assert parts == stratified_split(labels, [1 / 3, 1 / 6], seed=3)
    assert parts != stratified_split(labels, [1 / 3, 1 / 6], seed=4)
