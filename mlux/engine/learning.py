"""Anatomy, learned from one traced forward pass instead of a list of families.

The residual stream is the argument of a block that the block before returned. What a block adds to
it is solved by least squares (`terms`), and told apart by what mixes positions (`mixers`).
"""

from itertools import pairwise
from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine import sites
from mlux.engine.anatomy import Anatomy, Block
from mlux.engine.arrays import first_array
from mlux.engine.hooks import Call, handling
from mlux.engine.mixers import attending_in, heads_of, mixes_positions, split, unsummed
from mlux.engine.oddities import forward_arguments
from mlux.engine.terms import Sum, explain
from mlux.engine.trace import TRACE_LENGTH, ModuleCall, trace
from mlux.errors import ModelError

UNUSUAL = (
    "the block's output is no sum of its input and of what its modules return; attn_out and "
    "mlp_out are what the modules themselves return"
)
NO_SUM = "it cannot be told apart: the block's output is no sum of what its modules return"
NO_MIXER = "this block has no attention or other module that mixes positions"
NO_MLP = "this block has nothing besides its attention or mixer"
NO_ATTENTION = "this block has no softmax attention"


def learn(model: Module, vocab_size: int) -> Anatomy:
    """The anatomy of a model, from one forward pass on a few tokens.

    Raises:
        ModelError: If the model has no token embedding.
    """
    # Spread over the vocabulary, so that no two positions look alike to the least squares.
    tokens = mx.arange(1, TRACE_LENGTH + 1)[None] * max(1, vocab_size // (TRACE_LENGTH + 2))
    root = trace(model, tokens)
    calls = root.descendants()
    embed = next((call for call in calls if _takes_tokens(call)), None)
    if embed is None or embed.value is None:
        raise ModelError("Cannot learn the anatomy of this model: no token embedding ran.")
    ran = {id(block): [c for c in calls if c.module is block] for block in model.layers}
    paths = {id(module): path for path, module in model.named_modules()}  # type: ignore[no-untyped-call] # MLX's
    if any(len(of_block) != 1 for of_block in ran.values()):
        times = {paths[id(block)]: len(ran[id(block)]) for block in model.layers}
        return _unlearned(embed, times)
    blocks = [ran[id(block)][0] for block in model.layers]
    streams = _streams(blocks)
    last = blocks[-1]
    axis, d_model = _stream_axis(blocks[0].arrays[streams[0]])
    norm = _final_norm(calls, last, d_model)
    lacks = {} if norm else {"norm": "this model's final norm is no module of its own"}
    if not _is_its_own_lens(model, root, last):
        lacks["lens"] = "this model's head reads more than the residual stream after the last block"
    return Anatomy(
        embed_tokens=embed.path,
        norm=norm,
        blocks=tuple(_block(call, key) for call, key in zip(blocks, streams, strict=True)),
        d_model=d_model,
        stream_axis=axis,
        lacks=lacks,
    )


def embedding_rows(model: Module) -> int:
    """How many tokens a model has an embedding for.

    Raises:
        ModelError: If the model has no token embedding.
    """
    calls = trace(model, mx.array([[0, 0]])).descendants()
    for call in calls:
        if _takes_tokens(call) and "weight" in call.module:
            return int(call.module["weight"].shape[0])
    raise ModelError("Cannot tell the size of this model's vocabulary: no token embedding ran.")


def _takes_tokens(call: ModuleCall) -> bool:
    return (
        not call.children
        and call.given is not None
        and call.given.ndim == 2
        and mx.issubdtype(call.given.dtype, mx.integer)
    )


def _unlearned(embed: ModuleCall, times: dict[str, int]) -> Anatomy:
    """Of a model whose blocks are not each called once: by path, how often."""
    kinds = ("resid_pre", "resid_post", "attn_out", "mlp_out", *sites.TAPS, "sum")
    blocks = []
    for path, n in times.items():
        how = f"calls each block {n} times" if n else "does not call its blocks as modules"
        reason = f"this model {how} in one forward pass; hook the modules inside {path!r}"
        blocks.append(Block(path=path, lacks=dict.fromkeys(kinds, reason)))
    assert embed.value is not None
    return Anatomy(
        embed_tokens=embed.path,
        norm=None,
        blocks=tuple(blocks),
        d_model=embed.value.shape[-1],
        lacks=dict.fromkeys(("norm", "lens"), f"this model {how} in one forward pass"),
    )


def _streams(blocks: list[ModuleCall]) -> list[int | str]:
    """Which argument of each block is the residual stream: what the block before returned."""
    found: list[int | str | None] = [None]
    for before, call in pairwise(blocks):
        outputs = before.produced()
        keys = [k for k in call.arrays if any(call.argument(k) is array for array in outputs)]
        found.append(keys[0] if keys else None)
    known = [key for key in found if key is not None]
    first = [next(iter(call.arrays)) for call in blocks]
    usual = max(set(known), key=known.count) if known else None
    return [
        key if key is not None else usual if usual in call.arrays and usual is not None else one
        for key, call, one in zip(found, blocks, first, strict=True)
    ]


def _stream_axis(stream: mx.array) -> tuple[int | None, int]:
    """The axis of several streams, if there are several, and the width of one."""
    if stream.ndim != 4:
        return None, stream.shape[-1]
    return (0 if stream.shape[2] == TRACE_LENGTH else 2), stream.shape[-1]


def _final_norm(calls: list[ModuleCall], last: ModuleCall, d_model: int) -> str | None:
    """The last module behind the blocks that returns something as wide as the stream."""
    inside = {id(call) for call in last.descendants()}
    after = [call for call in calls[calls.index(last) + 1 :] if id(call) not in inside]
    shape = (1, TRACE_LENGTH, d_model)
    norms = [call for call in after if call.value is not None and call.value.shape == shape]
    return norms[-1].path if norms else None


def _is_its_own_lens(model: Module, root: ModuleCall, last: ModuleCall) -> bool:
    """Whether the last block's output alone gives the logits, whatever the tokens were."""

    def replace(call: Call, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        output = call(*args, **kwargs)
        if isinstance(output, mx.array):
            return last.value
        array = first_array(output)
        return type(output)(last.value if item is array else item for item in output)

    tokens = mx.zeros((1, TRACE_LENGTH), dtype=mx.int32)
    with handling({id(last.module): (last.module, replace)}):
        logits = first_array([model(tokens, **forward_arguments(model))])
    expected = root.value
    assert logits is not None
    assert expected is not None
    finite = mx.isfinite(expected)  # a head may write -inf at tokens that do not exist
    scale = mx.max(mx.abs(mx.where(finite, expected, 0.0)))
    same = mx.where(finite, mx.abs(logits - expected) <= 1e-2 * scale, logits == expected)
    return bool(mx.all(same).item())


def _block(call: ModuleCall, stream: int | str) -> Block:
    lacks: dict[str, str] = {}
    attending = [child for child in call.children if child.attention_calls()]
    found = explain(call, stream)
    entry, found = _entry(call, stream, found)
    n_terms = len(found.added) if found else 0
    mixers = attending
    if not attending or n_terms > 2:
        mixers = [c for c in call.children if c in attending or mixes_positions(c)]
    attn, mlp = split(found, mixers, call) if found else unsummed(call, mixers)
    if found is None:
        lacks["sum"] = UNUSUAL
    if not attn:
        lacks["attn_out"] = NO_SUM if mixers else NO_MIXER
    if not mlp:
        lacks["mlp_out"] = NO_MLP if attn else NO_SUM
    heads = heads_of(attending[0], lacks) if attending else {}
    if not attending:
        lacks |= dict.fromkeys(sites.TAPS, NO_ATTENTION)
    return Block(
        path=call.path,
        stream=stream,
        entry=entry,
        carry=found.carry if found else 1.0,
        mixer=attending_in((attending or mixers)[0]).path if mixers else None,
        attn_out=attn,
        mlp_out=mlp,
        lacks=lacks,
        **heads,
    )


def _entry(call: ModuleCall, stream: int | str, found: Sum | None) -> tuple[str | None, Sum | None]:
    """The module that takes the stream and hands it on, if the stream itself is not kept."""
    if found is None or found.carry != 0.0:
        return None, found
    for term in found.added:
        if term[0].given is call.argument(stream) and term[1] == 1.0:
            rest = tuple(other for other in found.added if other is not term)
            return term[0].path, Sum(1.0, rest)
    return None, found
