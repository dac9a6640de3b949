"""Linear probes: can a label be read off the residual stream, and would any label do?

At every layer a logistic regression predicts a label from activations, judged by cross-validation:
each prompt by a probe that was trained without it. A probe can also learn a task of its own from
rich activations, so the same probe is trained on a control task: labels drawn at random, one for
each word type, as frequent as the real ones. Selectivity is the accuracy on the real task minus
that on the control task. Source: Hewitt & Liang (2019), "Designing and Interpreting Probes with
Control Tasks".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from mlux.engine import HookedModel, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.batching import pad
from mlux.errors import PromptError
from mlux.methods.reading import read_at

Matrix = npt.NDArray[np.float64]

ROWS = 16
"""Prompts in one pass that collects activations."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A logistic regression: label = argmax of weight @ x + bias.

    Attributes:
        labels: The classes, in the order of the rows of `weight`.
        weight: [n_labels, d_model].
        bias: [n_labels].
    """

    labels: tuple[str, ...]
    weight: Matrix
    bias: Matrix


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What probes say of prompts that they were not trained on.

    Attributes:
        correct: [n_prompts], 1 where the label is the most probable one, else 0; of several draws
            of labels, the mean.
        probability: [n_prompts], of the right label.
    """

    correct: Matrix
    probability: Matrix


def collect(
    model: HookedModel, rows: Sequence[Sequence[int]], positions: Sequence[int]
) -> dict[int, Matrix]:
    """The residual stream after each block at one position of each prompt.

    Args:
        model: The model.
        rows: Token ids of each prompt.
        positions: The position of each prompt.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> collect(model, [model.tokenize("mary lives in")], [3])[5].shape
        (1, 128)

    Returns:
        Layer → [n_prompts, d_model] float64.
    """
    import mlx.core as mx

    paths = {layer: sites.resid_post(layer) for layer in range(len(model.layers))}
    order = sorted(range(len(rows)), key=lambda place: len(rows[place]))
    found: dict[int, list[Matrix]] = {layer: [] for layer in paths}
    for start in range(0, len(order), ROWS):
        chunk = order[start : start + ROWS]
        tokens = pad([rows[place] for place in chunk]).tokens
        where = mx.array([positions[place] for place in chunk])
        read, _ = read_at(model, tokens, where, list(paths.values()))
        for layer, path in paths.items():
            found[layer].append(to_numpy(read[path]))
    back = np.argsort(order)
    return {layer: np.concatenate(parts)[back] for layer, parts in found.items()}


def control_labels(types: Sequence[str], labels: Sequence[str], *, seed: int) -> list[str]:
    """A random label for each prompt, the same for prompts of one word type.

    Types get labels in the proportions of the real ones.

    Args:
        types: The word type of each prompt.
        labels: The real label of each prompt.
        seed: Of the draw.

    Example:
        >>> drawn = control_labels(["cat", "dog", "cat"], ["a", "b", "a"], seed=0)
        >>> sorted(drawn[:2]), drawn[2] == drawn[0]
        (['a', 'b'], True)
    """
    generator = np.random.default_rng(seed)
    kinds = sorted(set(types))
    # As many of each label as the proportions say, dealt out in random order.
    in_order, n = sorted(labels), len(labels)
    pool = [in_order[(2 * place + 1) * n // (2 * len(kinds))] for place in range(len(kinds))]
    drawn = dict(zip(kinds, generator.permutation(np.array(pool)), strict=True))
    return [str(drawn[kind]) for kind in types]


def cross_validate(
    activations: Matrix,
    labels: Sequence[str],
    *,
    folds: int,
    strength: float,
    seed: int,
    types: Sequence[str] | None = None,
) -> HeldOut:
    """How well probes read the labels of prompts that they were not trained on.

    Args:
        activations: [n_prompts, d_model].
        labels: The label of each prompt.
        folds: Parts of the prompts, each with the labels in the same proportions.
        strength: C of the regression: the inverse of its L2 penalty.
        seed: Of the division into parts.
        types: If given, prompts of one type are all in one part, so that a probe has never seen
            the types that it is judged on.

    Example:
        >>> x = np.concatenate([np.full((6, 2), -1.0), np.full((6, 2), 1.0)])
        >>> held_out = cross_validate(x, ["a"] * 6 + ["b"] * 6, folds=3, strength=1.0, seed=0)
        >>> float(held_out.correct.mean())
        1.0

    Raises:
        PromptError: If there is one label only, one with fewer prompts than folds, or fewer types
            than folds.
    """
    require_labels(labels, folds)
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    if types is not None:
        require_types(types, folds)
    correct, probability = np.zeros(len(labels)), np.zeros(len(labels))
    truth = np.array(labels)
    kind = StratifiedKFold if types is None else StratifiedGroupKFold
    parts = kind(folds, shuffle=True, random_state=seed)
    for train, test in parts.split(activations, truth, types):
        model = _fit(activations[train], truth[train], strength)
        predicted = model.predict_proba(activations[test])  # [n_test, n_labels]
        right = model.classes_ == truth[test][:, None]  # a label that no training prompt has: none
        probability[test] = (predicted * right).sum(axis=-1)
        correct[test] = right[np.arange(len(test)), predicted.argmax(axis=-1)]
    return HeldOut(correct=correct, probability=probability)


def mean_of(draws: Sequence[HeldOut]) -> HeldOut:
    """The means over several draws of control labels, prompt by prompt.

    Example:
        >>> one = HeldOut(correct=np.array([1.0]), probability=np.array([0.75]))
        >>> other = HeldOut(correct=np.array([0.0]), probability=np.array([0.25]))
        >>> mean_of([one, other]).correct.tolist()
        [0.5]
    """
    return HeldOut(
        correct=np.mean([draw.correct for draw in draws], axis=0),
        probability=np.mean([draw.probability for draw in draws], axis=0),
    )


def train_probe(activations: Matrix, labels: Sequence[str], *, strength: float) -> Probe:
    """A probe trained on all prompts, to be kept.

    Example:
        >>> x = np.concatenate([np.full((6, 2), -1.0), np.full((6, 2), 1.0)])
        >>> probe = train_probe(x, ["a"] * 6 + ["b"] * 6, strength=1.0)
        >>> probe.labels[int(np.argmax(probe.weight @ [2.0, 2.0] + probe.bias))]
        'b'
    """
    fitted = _fit(activations, np.array(labels), strength)
    scaler, regression = fitted.steps[0][1], fitted.steps[1][1]
    weight = regression.coef_ / scaler.scale_  # the scaling is folded into the weights
    bias = regression.intercept_ - weight @ scaler.mean_
    if len(weight) == 1:  # two classes: one direction, for the second against the first
        weight, bias = np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2
    return Probe(labels=tuple(map(str, fitted.classes_)), weight=weight, bias=bias)


def require_types(types: Sequence[str], folds: int) -> None:
    """Raises PromptError if there are fewer word types than folds, which are made of them.

    Example:
        >>> require_types(["dog", "cat"], folds=2)
    """
    if len(set(types)) < folds:
        raise PromptError(f"{folds} folds need as many word types; there are {len(set(types))}.")


def require_labels(labels: Sequence[str], folds: int) -> None:
    """Raises PromptError unless there are two labels, each with at least one prompt a fold.

    Example:
        >>> require_labels(["a", "b", "a", "b"], 2)
    """
    counts = {label: list(labels).count(label) for label in dict.fromkeys(labels)}
    if len(counts) < 2:
        raise PromptError(f"Every prompt has the label {labels[0]!r}; a probe needs two or more.")
    rare = min(counts, key=lambda label: counts[label])
    if counts[rare] < folds:
        raise PromptError(
            f"The label {rare!r} has {counts[rare]} of the {len(labels)} prompts; "
            f"with {folds} folds each needs at least {folds}. Give more prompts, or fewer folds."
        )


def _fit(activations: Matrix, labels: npt.NDArray[Any], strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    regression = LogisticRegression(C=strength, max_iter=2_000)
    return make_pipeline(StandardScaler(), regression).fit(activations, labels)
