"""Directions in the residual stream: learned from two classes, drawn at random, or taken out.

A direction is [d_model], float32. Difference of means: Rimsky et al. (2024), "Steering Llama 2 via
contrastive activation addition"; Turner et al. (2023), "Activation addition" (of a single pair).
Principal component of paired differences: Zou et al. (2023), "Representation engineering". Taking
out: Arditi et al. (2024), "Refusal in language models is mediated by a single direction".
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import mlx.core as mx
import numpy as np

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.arrays import to_numpy
from mlux.engine.passes import Hook
from mlux.errors import ParameterError

Method = Literal["mean", "pca", "probe"]
Learn = Callable[[mx.array, mx.array], mx.array]
"""fn(positive [n, d_model], negative [m, d_model]) returns a direction [d_model]."""

ROUNDING = 1e-4
"""A difference that is less than this share of the activations is none."""


def difference_of_means(positive: mx.array, negative: mx.array) -> mx.array:
    """mean(positive) - mean(negative), [d_model] float32, in the length that it has.

    Args:
        positive: [n, d_model].
        negative: [m, d_model].

    Example:
        >>> difference_of_means(mx.array([[3.0, 1.0]]), mx.array([[1.0, 1.0]])).tolist()
        [2.0, 0.0]
    """
    positive, negative = positive.astype(mx.float32), negative.astype(mx.float32)
    return mx.mean(positive, axis=0) - mx.mean(negative, axis=0)


def principal_difference(positive: mx.array, negative: mx.array) -> mx.array:
    """The unit direction along which paired differences are largest, [d_model] float32.

    The first right singular vector of the matrix of differences positive_i - negative_i. Zou et
    al. take the order within each pair at random and centre; without centring no draw is needed,
    since a difference and its negative count the same. The sign is that of the mean difference.

    Args:
        positive: [n, d_model].
        negative: [n, d_model], row i the counterpart of row i.

    Raises:
        ParameterError: If there are not as many of one as of the other.

    Example:
        >>> positive, negative = mx.array([[2.0, 0.0], [4.0, 0.1]]), mx.array([[1.0, 0.0]] * 2)
        >>> bool(principal_difference(positive, negative)[0] > 0.99)
        True
    """
    if positive.shape != negative.shape:
        raise ParameterError(
            f"Paired differences need as many positive prompts as negative ones; there are "
            f"{positive.shape[0]} and {negative.shape[0]}."
        )
    differences = to_numpy(positive) - to_numpy(negative)
    found = np.linalg.svd(differences, full_matrices=False)[2][0]
    if differences.mean(axis=0) @ found < 0:
        found = -found
    return mx.array(found.astype(np.float32))


def probe_direction(positive: mx.array, negative: mx.array) -> mx.array:
    """The unit normal of the plane by which logistic regression tells the two apart, [d_model].

    L2-regularised, on activations that are centred and scaled by one number (the mean length), so
    that the penalty means the same at every layer and the normal stays in the model's own axes.

    Args:
        positive: [n, d_model].
        negative: [m, d_model].

    Example:
        >>> positive, negative = mx.array([[2.0, 0.0], [4.0, 1.0]]), mx.array([[-2.0, 0.0]] * 2)
        >>> bool(probe_direction(positive, negative)[0] > 0.9)
        True
    """
    from sklearn.linear_model import LogisticRegression

    both = np.concatenate([to_numpy(positive), to_numpy(negative)])
    centred = both - both.mean(axis=0)
    scale = np.linalg.norm(centred, axis=1).mean() or 1.0
    labels = [1] * positive.shape[0] + [0] * negative.shape[0]
    normal = LogisticRegression(max_iter=1000).fit(centred / scale, labels).coef_[0]
    return unit(mx.array(normal.astype(np.float32)))


LEARN: dict[Method, Learn] = {
    "mean": difference_of_means,
    "pca": principal_difference,
    "probe": probe_direction,
}


def classes_differ(positive: mx.array, negative: mx.array) -> bool:
    """Whether the means of two classes are further apart than rounding explains.

    They need not be: a convolution of block 0 may not reach back to where two prompts differ.

    Args:
        positive: [n, d_model].
        negative: [m, d_model].

    Example:
        >>> classes_differ(mx.ones((3, 4)), mx.ones((2, 4)))
        False
    """
    apart = mx.linalg.norm(difference_of_means(positive, negative))
    length = mx.mean(mx.linalg.norm(positive.astype(mx.float32), axis=-1))
    return bool(apart > ROUNDING * length)


def unit(direction: mx.array) -> mx.array:
    """The direction at length 1, [d_model] float32.

    Raises:
        ParameterError: If it is zero.

    Example:
        >>> unit(mx.array([3.0, 4.0])).tolist() == mx.array([0.6, 0.8]).tolist()
        True
    """
    return direction.astype(mx.float32) / norm_of(direction)


def norm_of(direction: mx.array) -> float:
    """The length of a direction.

    Raises:
        ParameterError: If it is zero.

    Example:
        >>> norm_of(mx.array([3.0, 4.0]))
        5.0
    """
    length = float(mx.linalg.norm(direction.astype(mx.float32)))
    if length == 0.0:
        raise ParameterError("The steering vector is zero: its two prompts do not differ.")
    return length


def cosine(x: mx.array, direction: mx.array) -> mx.array:
    """The cosine between each x and a direction, float32; 0 where x is 0.

    Args:
        x: [..., d_model].
        direction: [d_model].

    Example:
        >>> cosine(mx.array([[0.0, 2.0], [1.0, 0.0]]), mx.array([0.0, 3.0])).tolist()
        [1.0, 0.0]
    """
    wide = x.astype(mx.float32)
    lengths = mx.linalg.norm(wide, axis=-1)
    return (wide @ unit(direction)) / mx.where(lengths == 0, 1.0, lengths)


def random_direction(d_model: int, seed: int | Sequence[int]) -> mx.array:
    """A unit direction drawn evenly from the sphere, [d_model] float32: the usual control.

    Example:
        >>> random_direction(128, seed=0).shape
        (128,)
    """
    drawn = np.random.default_rng(seed).normal(size=d_model).astype(np.float32)
    return unit(mx.array(drawn))


def without_direction(x: mx.array, direction: mx.array) -> mx.array:
    """Takes a direction out: x - (x·r̂) r̂ along the last axis, in float32, in the dtype of x.

    Example:
        >>> without_direction(mx.array([[3.0, 4.0]]), mx.array([0.0, 2.0])).tolist()
        [[3.0, 0.0]]
    """
    r = unit(direction)
    wide = x.astype(mx.float32)
    return (wide - (wide @ r)[..., None] * r).astype(x.dtype)


def ablate_direction(model: HookedModel, direction: mx.array) -> list[tuple[str, Hook]]:
    """Hooks that keep a direction out of the residual stream: directional ablation.

    Every write loses its component along the direction: what enters the first block, and what the
    attention (or other mixer) and the MLP of each block add; where a block has no such parts, its
    output. Source: Arditi et al. (2024), equation 4.

    Args:
        model: The model.
        direction: [d_model], of any length.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> hooks = ablate_direction(model, mx.ones(128))
        >>> len(hooks), hooks[0][0], hooks[-1][0]
        (13, 'model.layers.0.input', 'model.layers.5.mlp')
    """
    r = unit(direction)

    def take_out(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return without_direction(output, r)

    return [(path, take_out) for path in writes(model)]


def writes(model: HookedModel) -> list[str]:
    """Where something is written into the residual stream, in the order of the model.

    Example:
        >>> writes(HookedModel.from_pretrained("demo"))[:3]
        ['model.layers.0.input', 'model.layers.0.self_attn', 'model.layers.0.mlp']
    """
    anatomy = model.anatomy
    entered = anatomy.reason(0, "resid_pre") is None
    paths = [sites.resid_pre(0) if entered else "model.embed_tokens"]
    for layer in range(len(anatomy.blocks)):
        parts = {"attn_out": sites.attn_out(layer), "mlp_out": sites.mlp_out(layer)}
        has = [path for site, path in parts.items() if anatomy.reason(layer, site) is None]  # type: ignore[arg-type] # the sites' names
        paths += has
        # Also where the parts are not all that a block does to the stream.
        whole = len(has) == len(parts) and "sum" not in anatomy.blocks[layer].lacks
        if not whole and anatomy.reason(layer, "resid_post") is None:
            paths.append(sites.resid_post(layer))
    return paths
