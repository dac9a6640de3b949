"""Direct logit attribution: how much each part of a model adds to a logit difference.

The residual stream before the final norm is a sum of what the embedding, every head and every MLP
wrote into it. With the final norm's scale held fixed, the logits are linear in that sum, so each
summand's share of logit(answer) − logit(wrong answer) is a number, and the shares add up to the
difference. Where the model caps its logits, the shares are those before the cap. What a part does
by way of later layers is not in them. Source: Elhage et al. (2021), "A Mathematical Framework for
Transformer Circuits".
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.errors import ModelError
from mlux.methods.frozen_norm import FrozenNorm, freeze_norm, nearly_equal
from mlux.methods.head_shares import paths_of_heads, split_heads
from mlux.methods.reading import read_at
from mlux.methods.scores import logit_diff
from mlux.methods.unembedding import Readout, read_head

NORM = "model.norm"


@dataclass(frozen=True, kw_only=True)
class Contributions:
    """Shares of the logit difference before a final soft-cap, float32, [rows] each.

    Attributes:
        embedding: Of the token (and position) embeddings.
        heads: Layer → [rows, n_heads]; layers whose heads cannot be told apart are left out.
        attention_rest: Layer → what its attention adds besides its heads: biases, or all of it
            where its heads cannot be told apart or it is another mixer.
        mlps: Layer → of its MLP.
        bias: Of the final norm's and the unembedding's biases.
        uncapped: The logit difference before the soft-cap, which they add up to.
        logit_diff: The model's own; the same where it has no soft-cap.
    """

    embedding: mx.array
    heads: Mapping[int, mx.array]
    attention_rest: Mapping[int, mx.array]
    mlps: Mapping[int, mx.array]
    bias: mx.array
    uncapped: mx.array
    logit_diff: mx.array

    @property
    def total(self) -> mx.array:
        """The sum of all contributions, [rows]."""
        whole = self.embedding + self.bias
        for shares in (*self.attention_rest.values(), *self.mlps.values()):
            whole = whole + shares
        for of_heads in self.heads.values():
            whole = whole + mx.sum(of_heads, axis=-1)
        return whole

    @property
    def unexplained(self) -> mx.array:
        """How far that sum is from the logit difference before the cap, [rows]."""
        return mx.abs(self.total - self.uncapped)


def direct_logit_attribution(
    model: HookedModel,
    tokens: mx.array,
    *,
    positions: mx.array,
    answers: Sequence[int],
    wrong_answers: Sequence[int],
) -> Contributions:
    """The contribution of every part to the logit difference at one position of each row.

    contribution(c) = (W_U[answer] − W_U[wrong]) · norm(c), with the norm's scale that of the whole
    residual stream; W_U is the model's own head, read by its gradient, so tied, quantised and
    scaled ones need nothing of their own.

    Args:
        model: The model.
        tokens: [rows, seq] token ids.
        positions: [rows], where the answer is predicted.
        answers: A token id for each row.
        wrong_answers: A token id for each row.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("the capital of france is")
        >>> paris, rome = (model.tokenize(word)[-1:] for word in ("paris", "rome"))
        >>> found = direct_logit_attribution(
        ...     model, batch.tokens, positions=batch.last, answers=paris, wrong_answers=rome
        ... )
        >>> bool(found.unexplained < 1e-3)
        True

    Raises:
        ModelError: If the model's residual stream is no such sum, or its head is not linear behind
            a norm (and before a soft-cap); the message says what is the matter.
    """
    require_linear(model)
    layers = range(len(model.layers))
    blocks = model.anatomy.blocks
    read, logits = read_at(model, tokens, positions, _paths(model))
    last = read[sites.resid_post(layers[-1])]
    norm = _final_norm(model, last, read[NORM])
    right, wrong = mx.array(list(answers)), mx.array(list(wrong_answers))
    readout = read_head(model, read[NORM], logits, right, wrong)
    weight = _carried(model)
    _require_sum(model, read, weight, last)

    def share(part: mx.array, layer: int) -> mx.array:
        kept = norm.linear(part) * weight[layer + 1]  # [rows, (n_heads,) d_model]
        direction = readout.direction.reshape(-1, *[1] * (kept.ndim - 2), kept.shape[-1])
        return mx.sum(kept * direction, axis=-1)

    heads, attention_rest = {}, {}
    for layer in layers:
        rest = read.get(sites.attn_out(layer))
        if rest is None:
            continue
        outputs = split_heads(model, layer, read)
        if outputs is not None:
            heads[layer] = share(outputs, layer)
            rest = rest.astype(mx.float32) - mx.sum(outputs, axis=1)
        attention_rest[layer] = share(rest, layer)
    found = Contributions(
        embedding=share(read[sites.resid_pre(0)], -1),
        heads=heads,
        attention_rest=attention_rest,
        mlps={
            layer: share(read[sites.mlp_out(layer)], layer)
            for layer in layers
            if blocks[layer].mlp_out
        },
        bias=readout.constant + mx.sum(readout.direction * norm.bias, axis=-1),
        uncapped=_uncapped(readout, read[NORM]),
        logit_diff=logit_diff(logits, right, wrong),
    )
    mx.eval(list(vars(found).values()))
    return found


def require_linear(model: HookedModel) -> None:
    """Raises ModelError where the residual stream is no sum of what the parts of the model write.

    Example:
        >>> from mlux import HookedModel
        >>> require_linear(HookedModel.from_pretrained("demo"))
    """
    anatomy = model.anatomy
    lacking = {layer: block for layer, block in enumerate(anatomy.blocks) if "sum" in block.lacks}
    for layer, block in lacking.items():
        raise _refusal(f"block {layer}: {block.lacks['sum']}")
    for part in ("norm", "lens"):
        if part in anatomy.lacks:
            raise _refusal(anatomy.lacks[part])
    if anatomy.stream_axis is not None:
        raise _refusal("it has several residual streams, which are mixed on the way")
    for layer, block in enumerate(anatomy.blocks):
        if block.entry is not None and layer:
            raise _refusal(f"block {layer} keeps {block.entry!r} of the stream, not the stream")


def _refusal(reason: str) -> ModelError:
    return ModelError(f"This model has no direct logit attribution: {reason}.")


def _paths(model: HookedModel) -> list[str]:
    blocks = list(enumerate(model.anatomy.blocks))
    paths = [sites.resid_pre(0), sites.resid_post(len(blocks) - 1), NORM]
    paths += [sites.attn_out(layer) for layer, block in blocks if block.attn_out]
    paths += [sites.mlp_out(layer) for layer, block in blocks if block.mlp_out]
    return paths + [path for layer, _ in blocks for path in paths_of_heads(model, layer)]


def _final_norm(model: HookedModel, given: mx.array, returned: mx.array) -> FrozenNorm:
    path = model.anatomy.norm
    assert path is not None
    norm = freeze_norm(model.layout.modules[path], given, returned)
    if norm is None:
        raise _refusal(f"{path!r} is no RMSNorm or LayerNorm of what the last block returns")
    return norm


def _carried(model: HookedModel) -> list[float]:
    """What later blocks keep of what is written before block i (i = 0 … n_layers)."""
    weights = [1.0]
    for block in reversed(model.anatomy.blocks):
        weights.append(weights[-1] * block.carry)
    return weights[::-1]


def _require_sum(
    model: HookedModel, read: Mapping[str, mx.array], weight: list[float], last: mx.array
) -> None:
    total = read[sites.resid_pre(0)].astype(mx.float32) * weight[0]
    for layer in range(len(model.layers)):
        for path in (sites.attn_out(layer), sites.mlp_out(layer)):
            if path in read:
                total = total + read[path].astype(mx.float32) * weight[layer + 1]
    if not nearly_equal(total, last, last.dtype):
        raise _refusal("something else than its blocks writes into the residual stream")


def _uncapped(readout: Readout, normed: mx.array) -> mx.array:
    if not readout.capped:
        return readout.logit_diff
    return readout.constant + mx.sum(readout.direction * normed.astype(mx.float32), axis=-1)
