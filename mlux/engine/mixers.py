"""Which part of a block mixes positions, what goes by way of it, and what its attention shows.

A mixer is the module in which attention happens, or else one whose output at a position depends on
earlier positions. The joining of the heads is the map whose input is z, heads side by side.
"""

from typing import Any

import mlx.core as mx
from mlx.nn.layers.base import Module

from mlux.engine import sites
from mlux.engine.anatomy import Term
from mlux.engine.arrays import first_array
from mlux.engine.terms import Sum
from mlux.engine.trace import TRACE_LENGTH, ModuleCall


def mixes_positions(call: ModuleCall) -> bool:
    """Whether the output at a position depends on an earlier position."""
    given = call.given_value
    if given is None or given.ndim != 3 or call.value is None or call.value.ndim != 3:
        return False
    if given.shape[1] != TRACE_LENGTH or call.value.shape[1] != TRACE_LENGTH:
        return False
    key = next(iter(call.arrays))
    # Not a multiple of what was there, which a norm inside would undo.
    other = mx.concatenate([given[:, :1, ::-1], given[:, 1:]], axis=1)
    args = tuple(other if i == key else arg for i, arg in enumerate(call.args))
    kwargs = {name: other if name == key else value for name, value in call.kwargs.items()}
    output = first_array(call.module(*args, **kwargs))
    assert output is not None
    change = mx.max(mx.abs(output[:, 1:] - call.value[:, 1:]))
    return bool((change > 1e-2 * mx.max(mx.abs(call.value))).item())


Terms = tuple[Term, ...]


def split(found: Sum, mixers: list[ModuleCall], block: ModuleCall) -> tuple[Terms, Terms]:
    """The terms by way of the mixers, and the others."""
    calls = [term for term, _ in found.added]
    # DBRX adds what the attention inside a larger module returns: then that is the source.
    inner = [c for mixer in mixers for c in mixer.descendants() if c in calls]
    by_mixer = _downstream(inner or mixers, block)
    attn = [pair for pair in found.added if id(pair[0]) in by_mixer]
    if len(attn) > 1 and len(attn) == len(found.added) and not attn[-1][0].attention_calls():
        attn = attn[:1]  # RWKV: the channel mixing looks one token back too
    mlp = [pair for pair in found.added if pair not in attn]
    return _as_terms(attn), _as_terms(mlp)


def _downstream(sources: list[ModuleCall], block: ModuleCall) -> set[int]:
    """The calls inside these, and those that were given what they returned."""
    reached = {id(c) for source in sources for c in (source, *source.descendants())}
    arrays = {id(array) for source in sources for array in source.produced()}
    for call in block.children:
        if id(call.given) in arrays:
            reached.add(id(call))
            arrays |= {id(array) for array in call.produced()}
    return reached


def unsummed(call: ModuleCall, mixers: list[ModuleCall]) -> tuple[Terms, Terms]:
    """The mixer and the largest other module, or the last norms that were given their outputs."""
    others = [c for c in call.children if c not in mixers and c.value is not None]
    mlp = max(others, key=lambda c: _size(c.module), default=None)
    return tuple(
        () if source is None else (Term(path=_last_downstream(source, call).path, factor=1.0),)
        for source in (mixers[0] if mixers else None, mlp)
    )  # type: ignore[return-value] # two of them


def _last_downstream(source: ModuleCall, block: ModuleCall) -> ModuleCall:
    reached = _downstream([source], block)
    return [c for c in block.children if id(c) in reached][-1]


def _size(module: Module) -> int:
    from mlx_lm.utils import get_total_parameters

    total: int = get_total_parameters(module)
    return total


def _as_terms(added: list[tuple[ModuleCall, float]]) -> Terms:
    return tuple(Term(path=call.path, factor=factor) for call, factor in added)


def attending_in(mixer: ModuleCall) -> ModuleCall:
    """The module inside a mixer that calls attention itself; the mixer if none does."""
    return next((c for c in (mixer, *mixer.descendants()) if c.attention), mixer)


def heads_of(attending: ModuleCall, lacks: dict[str, str]) -> dict[str, Any]:
    """What the attention call shows of the heads; where it shows too little, why."""
    call, z = attending.attention_calls()[0]
    if z.shape[0] != 1 or z.shape[2] != TRACE_LENGTH:
        reason = "each query here attends to keys gathered for it alone, in a row of its own"
        lacks |= dict.fromkeys(sites.TAPS, reason)
        return {}
    o_proj, gated = _joining(attending, z)
    return {
        "o_proj": o_proj,
        "gated": gated,
        "n_heads": call.n_heads,
        "n_kv_heads": call.k.shape[1],
        "d_head": z.shape[-1],
    }


def _joining(mixer: ModuleCall, z: mx.array) -> tuple[str | None, bool]:
    """The map whose input is z, [batch, n_heads, seq, d_head], with heads side by side."""
    batch, _, length, _ = z.shape
    joined = z.transpose(0, 2, 1, 3).reshape(batch, length, -1)
    calls = mixer.descendants()
    fitting = [
        c for c in calls if c.given_value is not None and c.given_value.shape == joined.shape
    ]
    for call in fitting:
        if call.given_value is not None and mx.array_equal(call.given_value, joined):
            return call.path, False
    # The same entries, each times a gate between 0 and some small number.
    for call in reversed(fitting):
        return call.path, True
    return None, False
