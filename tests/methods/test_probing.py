"""Probes against their definition in NumPy, and what cross-validation must never let through."""

import numpy as np
import pytest

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.errors import PromptError
from mlux.methods.probing import (
    collect,
    control_labels,
    cross_validate,
    require_labels,
    train_probe,
)

LABELS = ["a"] * 20 + ["b"] * 20


def noise(seed: int = 0, shift: float = 0.0) -> np.ndarray:
    """[40, 8] Gaussian activations, the second half shifted."""
    activations = np.random.default_rng(seed).normal(size=(40, 8))
    activations[20:] += shift
    return activations


def test_noise_is_read_at_chance_and_a_shift_is_read() -> None:
    kept = {"folds": 5, "strength": 1.0, "seed": 0}
    assert cross_validate(noise(shift=4.0), LABELS, **kept).correct.mean() == 1.0
    chance = np.mean([cross_validate(noise(s), LABELS, **kept).correct.mean() for s in range(10)])
    assert 0.35 <= chance <= 0.65


def test_a_prompt_is_judged_by_a_probe_that_has_not_seen_it() -> None:
    """A label that could be learned by heart is wrong when its prompt is held out."""
    labels = ["b", *LABELS[1:]]
    held_out = cross_validate(noise(shift=4.0), labels, folds=4, strength=1e6, seed=0)
    assert held_out.correct[0] == 0
    assert held_out.probability[0] < 0.5
    memorised = train_probe(noise(shift=4.0), labels, strength=1e6)
    scores = noise(shift=4.0) @ memorised.weight.T + memorised.bias
    assert memorised.labels[int(scores[0].argmax())] == "b"


def test_types_in_one_part_cannot_be_memorised() -> None:
    """Random labels of eight types: read when the types are known, at chance when they are new."""
    generator = np.random.default_rng(0)
    kinds = [str(i % 8) for i in range(80)]
    where = {kind: generator.normal(size=16) * 5 for kind in set(kinds)}
    activations = np.stack([where[kind] + generator.normal(size=16) * 0.1 for kind in kinds])
    labels = control_labels(kinds, LABELS * 2, seed=1)
    kept = {"folds": 4, "strength": 1.0, "seed": 0}
    assert cross_validate(activations, labels, **kept).correct.mean() >= 0.95
    assert cross_validate(activations, labels, types=kinds, **kept).correct.mean() <= 0.75


def test_control_labels_are_of_types_and_in_proportion() -> None:
    types = [str(i % 10) for i in range(50)]
    labels = ["a"] * 30 + ["b"] * 20
    drawn = control_labels(types, labels, seed=3)
    assert all(
        len({label for t, label in zip(types, drawn, strict=True) if t == k}) == 1 for k in types
    )
    assert drawn.count("a") == 30
    assert drawn == control_labels(types, labels, seed=3)
    assert len({tuple(control_labels(types, labels, seed=s)) for s in range(5)}) > 1


def test_a_kept_probe_is_the_regression_on_unscaled_activations() -> None:
    """Its margin is scikit-learn's decision function; with three labels its scores are too."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    activations = noise(shift=1.0) * 3 + 7
    scaled = StandardScaler().fit_transform(activations)
    for labels in (LABELS, ["a", "b", "c", "c"] * 10):
        probe = train_probe(activations, labels, strength=0.5)
        expected = LogisticRegression(C=0.5, max_iter=2_000).fit(scaled, labels)
        scores = activations @ probe.weight.T + probe.bias
        found = scores[:, 1] - scores[:, 0] if len(probe.labels) == 2 else scores
        np.testing.assert_allclose(found, expected.decision_function(scaled), atol=1e-3)


def test_activations_are_those_of_each_prompt_alone() -> None:
    """In the prompts' order, though they are collected by length."""
    model = HookedModel.from_pretrained("demo")
    texts = ["the capital of france is", "mary lives in", "the capital of kenya is"]
    rows = [model.tokenize(text) for text in texts]
    found = collect(model, rows, [5, 2, 4])
    for place, (row, position) in enumerate(zip(rows, [5, 2, 4], strict=True)):
        _, cache = model.run_with_cache(row, hooks=[sites.resid_post(3)])
        alone = to_numpy(cache[sites.resid_post(3)])[0, position]
        np.testing.assert_allclose(found[3][place], alone, atol=1e-4)


def test_labels_that_cannot_be_divided_are_refused() -> None:
    with pytest.raises(PromptError, match="Every prompt has the label 'a'; a probe needs two"):
        require_labels(["a", "a"], 2)
    with pytest.raises(PromptError, match=r"label 'b' has 1 of the 3 prompts; with 2 folds each"):
        require_labels(["a", "a", "b"], 2)
    with pytest.raises(PromptError, match="5 folds need as many word types; there are 2"):
        cross_validate(noise(), LABELS, folds=5, strength=1.0, seed=0, types=["x", "y"] * 20)
