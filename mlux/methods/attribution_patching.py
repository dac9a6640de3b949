"""Attribution patching: all patches at once, to first order.

With m = logit(answer) - logit(wrong answer), a patch of the activation a by a' changes m by about

    (a' - a) · dm/da

where the derivative is that of the run that is patched. Two forward passes give a and a', one
backward pass the derivatives at every head, layer and position. Where m bends between the two runs,
derivatives averaged on the way from one prompt's embeddings to the other's (`steps`) come closer:
integrated gradients. Effects are normalised as in `patching`: 0 is the run that is patched, 1 the
other. Source: Nanda (2023), "Attribution patching"; Syed et al. (2023), "Attribution patching
outperforms automated circuit discovery"; steps after Hanna et al. (2024), "Have faith in
faithfulness".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.arrays import numbers
from mlux.engine.passes import Hook
from mlux.errors import ModelError, PromptError
from mlux.methods.edits import SiteName, layers_with, path_of
from mlux.methods.scores import logit_diff


@dataclass(frozen=True, kw_only=True)
class Attribution:
    """The estimated effect of patching one site of one layer.

    Attributes:
        site: The site.
        layer: The block.
        effects: [n_heads, seq] for sites of heads, [seq] for the others, float32. Their sums are
            estimates of patching several places together, such as a head at all positions.
    """

    site: SiteName
    layer: int
    effects: mx.array


class NoGradientError(ModelError):
    """A model has a kernel without a gradient."""


def attribution_patching(
    model: HookedModel,
    ids: Sequence[int],
    others: Sequence[int],
    *,
    answer: int,
    wrong_answer: int,
    wanted: Sequence[SiteName],
    steps: int = 1,
) -> list[Attribution]:
    """Estimates the effect of every patch of some sites.

    Args:
        model: The model.
        ids: Token ids of the prompt that is patched.
        others: Token ids of the prompt that patches come from, as many.
        answer: The clean prompt's answer token.
        wrong_answer: The corrupted prompt's answer token.
        wanted: The sites.
        steps: Backward passes: 1 takes the derivative at the run that is patched; more take the
            mean over so many points between the embeddings of the two prompts.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> clean = model.tokenize("mary and john met , john gave a book to")
        >>> other = model.tokenize("mary and john met , mary gave a book to")
        >>> found = attribution_patching(
        ...     model, other, clean, answer=clean[1], wrong_answer=clean[3], wanted=["head"]
        ... )
        >>> found[1].effects.shape
        (4, 11)

    Raises:
        PromptError: If the prompts differ in length, or the model does not tell them apart.
        NoGradientError: If a kernel of the model has no gradient.
    """
    if len(ids) != len(others):
        raise PromptError(
            f"Attribution patching needs two prompts of equal length; they have {len(ids)} and "
            f"{len(others)} tokens."
        )
    places = {(site, layer): path_of(site, layer) for site in wanted
              for layer in layers_with(model, site)}  # fmt: skip
    start = sites.resid_pre(0)
    last = mx.array([len(ids) - 1])
    runs = [
        model.run_with_cache(
            mx.array([list(row)]), hooks=dict.fromkeys([*places.values(), start]), positions=last
        )
        for row in (ids, others)
    ]
    low, high = (numbers(logit_diff(logits[:, 0], answer, wrong_answer))[0] for logits, _ in runs)
    if abs(high - low) <= 1e-6 * max(1.0, abs(low)):
        raise PromptError(
            f"Both prompts have the same logit difference ({low:.3g}), so no effect can be "
            "normalised."
        )
    own, other = (cache for _, cache in runs)
    points = [0.0] if steps == 1 else [(step + 0.5) / steps for step in range(steps)]
    sums: dict[str, mx.array] = {}
    for point in points:
        resid = own[start] + (point * (other[start] - own[start])).astype(own[start].dtype)
        found = _gradients(model, ids, resid, own, list(places.values()), answer, wrong_answer)
        sums = {path: sums[path] + found[path] if path in sums else found[path] for path in found}
        mx.eval(sums)
    scale = len(points) * (high - low)
    return [
        Attribution(
            site=site,
            layer=layer,
            effects=mx.sum((other[path] - own[path]).astype(mx.float32) * sums[path], axis=-1)[0]
            / scale,
        )
        for (site, layer), path in places.items()
    ]


def _gradients(
    model: HookedModel,
    ids: Sequence[int],
    resid: mx.array,
    like: Mapping[str, mx.array],
    paths: Sequence[str],
    answer: int,
    wrong_answer: int,
) -> dict[str, mx.array]:
    """The derivative of the logit difference by what is at each path, float32."""
    positions = mx.array([len(ids) - 1])
    tokens = mx.array([list(ids)])

    def measured(deltas: dict[str, mx.array]) -> mx.array:
        hooks = [(path, _plus(deltas[path])) for path in paths]
        logits, _ = model.run_from(0, resid, hooks=hooks, positions=positions, tokens=tokens)
        return logit_diff(logits[:, 0], answer, wrong_answer)[0]

    zeros = {path: mx.zeros(like[path].shape, dtype=mx.float32) for path in paths}
    try:
        gradients: dict[str, mx.array] = mx.grad(measured)(zeros)
        mx.eval(gradients)
    except (ValueError, RuntimeError) as error:
        # MLX says which primitive has none; anything else is not about gradients.
        if not any(word in str(error).lower() for word in ("vjp", "gradient", "not implemented")):
            raise
        raise NoGradientError(f"A kernel of this model has no gradient: {error}") from error
    return gradients


def _plus(delta: mx.array) -> Hook:
    def add(inputs: tuple[object, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return output + delta.astype(output.dtype)

    return add


def pearson(estimates: Sequence[float], exact: Sequence[float]) -> float | None:
    """The correlation of estimates with exact values; None if either are all the same.

    Example:
        >>> pearson([0.0, 1.0, 2.0], [1.0, 3.0, 5.0])
        1.0
    """
    x, y = (mx.array(list(values), dtype=mx.float32) for values in (estimates, exact))
    x, y = x - mx.mean(x), y - mx.mean(y)
    size = mx.sqrt(mx.sum(x * x) * mx.sum(y * y)).item()
    return None if size == 0.0 else float(mx.sum(x * y).item()) / float(size)  # type: ignore[arg-type] # of a scalar
