"""Measures what a certificate says, in at most thirty forward passes on a short prompt."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import mlx.core as mx

from mlux.engine import rotary, sites
from mlux.engine.arrays import numbers
from mlux.engine.certificate import Certificate, Row, judged
from mlux.engine.checkup import KINDS, LENGTH, Checkup, apart
from mlux.engine.passes import Hook, HookWrapper

if TYPE_CHECKING:
    from mlux.engine.model import HookedModel


def check(model: "HookedModel") -> Certificate:
    """Runs the self-test; see `certificate`."""
    test = Checkup(model)
    rows = [
        *(_site(test, kind) for kind in KINDS),
        *_hooks(test),
        *_sum(test),
        *_attention(test),
        *_heads(test),
        *_self_patch(test),
        *_lens(test),
        *_resume(test),
        *_batch(test),
        *_cache(test),
        *_clean(test),
        *_rotary(test),
        *_config(test),
    ]
    return Certificate(
        model_type=model.config["model_type"],
        dtype=model.config["dtype"],
        rows=tuple(rows),
        forward_passes=test.passes,
        adapter=model.adapter_note,
    )


def _site(test: Checkup, kind: sites.Kind) -> Row:
    """Whether a kind of site is there, and editing one of them changes the logits."""
    paths, reasons = test.paths[kind], _reasons(test, kind)
    if not paths:
        return Row(site=kind, verdict="absent", reason=reasons)
    path = paths[len(paths) // 2]
    edited = test.hooked((path, lambda inputs, output, wrapper: mx.roll(output, 1, -1)))
    if apart(edited, test.bare) <= test.rounding / 10:
        return Row(site=kind, verdict="failed", reason=f"editing {path} does not change the logits")
    return Row(site=kind, verdict="exact", reason=reasons)


def _reasons(test: Checkup, kind: str) -> str:
    """Why the model or some of its blocks lack something; empty if none does."""
    anatomy = test.model.anatomy
    if kind in anatomy.lacks:
        return anatomy.lacks[kind]
    layers: dict[str, list[int]] = {}
    for layer, block in enumerate(anatomy.blocks):
        if kind in block.lacks:
            reason = block.lacks[kind].replace(repr(block.path), "the block")
            layers.setdefault(reason, []).append(layer)
    if list(map(len, layers.values())) == [len(anatomy.blocks)]:
        return next(iter(layers))
    return "; ".join(f"blocks {_ranges(which)}: {reason}" for reason, which in layers.items())


def _ranges(layers: list[int]) -> str:
    return ", ".join(map(str, layers[:6])) + (", …" if len(layers) > 6 else "")


def _hooks(test: Checkup) -> Iterator[Row]:
    logits, _ = test.read
    same = mx.array_equal(logits, test.bare, equal_nan=True)
    yield Row(
        site="hooks",
        verdict="exact" if same else "failed",
        error=apart(logits, test.bare),
        reason="" if same else "reading changes the logits",
    )


def _sum(test: Checkup) -> Iterator[Row]:
    _, cache = test.read
    errors = []
    for layer, block in enumerate(test.model.anatomy.blocks):
        if "sum" in block.lacks:
            continue
        total = cache[sites.resid_pre(layer)] * block.carry
        for path, terms in (
            (sites.attn_out(layer), block.attn_out),
            (sites.mlp_out(layer), block.mlp_out),
        ):
            total = total + cache[path] if terms else total
        errors.append(apart(total, cache[sites.resid_post(layer)]))
    yield _measured(test, "sum", errors)


def _measured(test: Checkup, site: str, errors: list[float]) -> Row:
    if not errors:
        return Row(
            site=site, verdict="absent", reason=_reasons(test, "sum" if site == "sum" else "z")
        )
    reason = _reasons(test, site)
    return judged(site, max(errors), test.rounding, reason)


def _attention(test: Checkup) -> Iterator[Row]:
    _, cache = test.read
    errors = []
    for layer, block in enumerate(test.model.anatomy.blocks):
        if not block.n_heads:
            continue
        pattern, v, z = (cache[sites.tap(layer, kind)] for kind in ("pattern", "v", "z"))
        errors.append(apart(pattern @ v.astype(mx.float32), z))
        too_much = numbers(mx.max(mx.sum(pattern, axis=-1))) - 1
        errors.append(max(0.0, too_much))
    yield _measured(test, "attention", errors)


def _heads(test: Checkup) -> Iterator[Row]:
    """What the output projection is given is z, and it is linear in the heads."""
    _, cache = test.read
    blocks = list(enumerate(test.model.anatomy.blocks))
    joining = [(layer, block) for layer, block in blocks if block.o_proj]
    if not joining:
        reason = _reasons(test, "z") or "no single map joins the heads"
        yield Row(site="heads", verdict="absent", reason=reason)
        return
    errors = []
    for layer, block in joining:
        if not block.gated:
            assert block.o_proj is not None
            errors.append(
                apart(_side_by_side(cache[sites.tap(layer, "z")]), test.joined[block.o_proj])
            )
    layer, block = joining[len(joining) // 2]
    assert block.o_proj is not None
    module, given = test.model.layout.modules[block.o_proj], test.joined[block.o_proj]
    nothing = module(mx.zeros_like(given))
    width = given.shape[-1] // block.n_heads
    total = nothing
    for head in range(block.n_heads):
        mine = mx.arange(given.shape[-1]) // width == head
        total = total + (module(mx.where(mine, given, 0)) - nothing)
    errors.append(apart(total, test.joined[f"{block.o_proj} output"]))
    gated = [pair for pair in joining if pair[1].gated]
    if gated:
        errors.append(_gate_error(test, *gated[len(gated) // 2]))
    reason = "each z is multiplied by a gate before the projection" if gated else ""
    yield judged("heads", max(errors), test.rounding, reason)


def _side_by_side(z: mx.array) -> mx.array:
    return z.transpose(0, 2, 1, 3).flatten(2, 3)


def _gate_error(test: Checkup, layer: int, block: Any) -> float:
    """How far the projection's input is from each head's z times a gate that z does not change."""
    seen: list[mx.array] = []

    def halve(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        kept = mx.arange(output.shape[1])[:, None, None] % 2 == 0
        return mx.where(kept, output, 0)

    def keep(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> None:
        seen.append(inputs[0][...])

    test.hooked((sites.tap(layer, "z"), halve), (block.o_proj, keep))
    given = test.joined[block.o_proj]
    width = given.shape[-1] // block.n_heads
    kept = mx.arange(given.shape[-1]) // width % 2 == 0
    return apart(seen[0], mx.where(kept, given, 0))


def _self_patch(test: Checkup) -> Iterator[Row]:
    def copy(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return output * 1

    _, cache = test.read
    hooks: list[tuple[str, Hook]] = [(path, copy) for path in cache]
    yield judged("self_patch", apart(test.hooked(*hooks), test.bare), test.rounding)


def _lens(test: Checkup) -> Iterator[Row]:
    reason = test.model.anatomy.lacks.get("lens")
    if reason:
        yield Row(site="lens", verdict="absent", reason=reason)
        return
    _, cache = test.read
    test.passes += 1
    last = cache[sites.resid_post(len(test.model.layers) - 1)]
    yield judged("lens", apart(test.model.unembed(last), test.bare), test.rounding)


def _resume(test: Checkup) -> Iterator[Row]:
    layer = len(test.model.layers) // 2
    if not test.paths["resid_pre"]:
        yield Row(site="resume", verdict="absent", reason=_reasons(test, "resid_pre"))
        return
    _, cache = test.read
    test.passes += 1
    resid = cache[sites.resid_pre(layer)]
    resumed, _ = test.model.run_from(layer, resid, tokens=test.tokens)
    yield judged("resume", apart(resumed, test.bare), test.rounding)


def _batch(test: Checkup) -> Iterator[Row]:
    short = LENGTH - 3
    other = test.tokens[:, ::-1][:, :short]
    padded = mx.concatenate([other, mx.zeros((1, 3), dtype=other.dtype)], axis=1)
    together = test.plain(mx.concatenate([test.tokens, padded]))
    errors = [
        apart(together[:1], test.bare),
        apart(together[1:, :short], test.plain(other)),
    ]
    yield judged("batch", max(errors), test.rounding)


def _cache(test: Checkup) -> Iterator[Row]:
    from mlx_lm.models.cache import make_prompt_cache

    cache = make_prompt_cache(test.model.model)
    start = LENGTH - 3
    pieces = [test.plain(test.tokens[:, :start], cache)]
    pieces += [test.plain(test.tokens[:, i : i + 1], cache) for i in range(start, LENGTH)]
    yield judged("cache", apart(mx.concatenate(pieces, axis=1), test.bare), test.rounding)


def _rotary(test: Checkup) -> Iterator[Row]:
    """The error is in units of what float32 explains of an angle."""
    written = test.model.written_config
    if written is None:
        yield Row(site="rotary", verdict="absent", reason=_IN_MEMORY)
        return
    found = list(rotary.places(test.model.model, written))
    errors = [error for place in found if (error := rotary.error(place)) is not None]
    mended = sum(isinstance(place.module, rotary.Rotary) for place in found)
    reason = f"{mended} of {len(found)} modules are mlux's, not mlx-lm's" if mended else ""
    if not errors:
        reason = "config.json states no type that has a definition here"
        yield Row(site="rotary", verdict="absent", reason=reason)
    elif max(errors) <= 1:
        yield Row(site="rotary", verdict="exact", reason=reason)
    else:
        reason = "mlx-lm turns otherwise than transformers defines; unproved, so not mended"
        yield Row(site="rotary", verdict="approximate", error=max(errors), reason=reason)


def _config(test: Checkup) -> Iterator[Row]:
    if test.model.written_config is None:
        yield Row(site="config", verdict="absent", reason=_IN_MEMORY)
        return
    found = test.model.unread_settings
    reason = f"not read: {'; '.join(found)}" if found else ""
    yield Row(site="config", verdict="approximate" if found else "exact", reason=reason)


_IN_MEMORY = "the model was not loaded from files"


class _Deliberate(Exception):  # noqa: N818 # it is no error, it is what is tested
    """Raised by a hook to see what it leaves behind."""


def _clean(test: Checkup) -> Iterator[Row]:
    def fail(inputs: tuple[Any, ...], output: Any, wrapper: HookWrapper) -> None:
        raise _Deliberate

    model = test.model
    classes = _classes(model)
    last = next(path for paths in reversed(test.paths.values()) for path in paths)
    _raises(lambda: test.hooked((last, fail)))
    same = _classes(model) == classes and mx.array_equal(
        test.plain(test.tokens), test.bare, equal_nan=True
    )
    yield Row(
        site="clean",
        verdict="exact" if same else "failed",
        reason="" if same else "a failing hook changed the model",
    )


def _raises(run: Callable[[], Any]) -> None:
    try:
        run()
    except _Deliberate:
        return


def _classes(model: "HookedModel") -> list[type]:
    named = model.model.named_modules()  # type: ignore[no-untyped-call] # MLX's
    return [type(module) for _, module in named]
