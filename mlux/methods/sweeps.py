"""Many edits of one prompt, planned instead of looped.

A sweep tries one intervention a row: it starts at the first edited layer from the cached residual
stream (the layers before are never computed), puts many interventions into one batch and unembeds
only the scored position; on a CPU several batches run side by side. Every batch has the same number
of rows as the base pass, and a row is compared with its own row of the base pass: the same kernels
on the same shapes, so an edit that changes nothing changes not one bit, whatever the matrix library
does with the edges of a batch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import mlx.core as mx

from mlux.engine import ActivationCache, HookedModel, sites
from mlux.engine.lanes import side_by_side
from mlux.engine.passes import Hook
from mlux.engine.trials import MEMORY
from mlux.errors import PromptError
from mlux.methods.budget import batches_in_budget, ceiling
from mlux.methods.edits import (
    HEAD_SITES,
    SITES,
    Edit,
    Row,
    SiteName,
    Source,
    by_first_layer,
    edits_of,
    every_edit,
    layers_with,
    path_of,
    replacing,
)
from mlux.methods.scores import kl_divergence

__all__ = [
    "HEAD_SITES", "SITES", "BasePass", "Edit", "Kept", "Row", "SiteName", "Source", "Swept",
    "base_pass", "base_passes", "edits_of", "every_edit", "inputs_of", "layers_with", "path_of",
    "sweep", "sweep_edits",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BasePass:
    """An unedited pass with every row the same prompt, and what its sites hold.

    Attributes:
        tokens: What was run, [rows, seq].
        cache: Activations by path, [rows, …].
        logits: At the scored position, [rows, vocab_size].
        hooks: What is part of the base itself, such as the noise of a causal trace.
        lanes: Batches of its edits computed side by side; see `engine.lanes`.
        top: Bytes up to which MLX may work ahead in them; None for no limit.
    """

    tokens: mx.array
    cache: ActivationCache
    logits: mx.array
    hooks: tuple[tuple[str, Hook], ...] = ()
    lanes: int = 1
    top: int | None = None


@dataclass(frozen=True, kw_only=True)
class Kept:
    """A prompt of which a base pass is wanted, and what is kept of it.

    Attributes:
        ids: Token ids.
        paths: The activations to keep.
        hooks: What is done to the base itself.
    """

    ids: Sequence[int]
    paths: Iterable[str]
    hooks: Sequence[tuple[str, Hook]] = ()


@dataclass(frozen=True, kw_only=True)
class Swept:
    """Some rows of a sweep and what became of them.

    Attributes:
        rows: The rows, n of them.
        logits: After their edits, [n, vocab_size].
        base: Without them, [n, vocab_size], each from the row in which the edits were made.
        source: Of the prompt that the replacements come from, [n, vocab_size], likewise; None for
            a source of arrays.
    """

    rows: tuple[Row, ...]
    logits: mx.array
    base: mx.array
    source: mx.array | None


def base_pass(
    model: HookedModel,
    ids: Sequence[int],
    *,
    rows: int,
    position: int,
    site: SiteName | Sequence[SiteName] = (),
) -> BasePass:
    """Runs a prompt once in every row and keeps what edits of any layer need.

    Args:
        model: The model.
        ids: The prompt's token ids.
        rows: Rows of the batch.
        position: The scored position.
        site: Sites to keep in every layer that has them.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("mary lives in")
        >>> base_pass(model, ids, rows=2, position=3, site="attn_out").logits.shape
        (2, 1466)
    """
    paths = inputs_of(range(len(model.layers)))
    for name in [site] if isinstance(site, str) else site:
        paths += [path_of(name, layer) for layer in layers_with(model, name)]
    return base_passes(model, [Kept(ids=ids, paths=paths)], rows=rows, position=position)[0]


def inputs_of(layers: Iterable[int]) -> list[str]:
    """The paths of what blocks take in, where sweeps start.

    Example:
        >>> inputs_of([2, 3])
        ['model.layers.2.input', 'model.layers.3.input']
    """
    return [sites.resid_pre(layer) for layer in layers]


def base_passes(
    model: HookedModel,
    prompts: Sequence[Kept],
    *,
    rows: int,
    position: int,
    lanes: int = 1,
    memory: int | None = None,
) -> list[BasePass]:
    """Base passes of several prompts, side by side where there are lanes.

    Args:
        model: The model.
        prompts: The prompts, of equal length.
        rows: Rows of each batch.
        position: The scored position.
        lanes: Batches to compute side by side.
        memory: Bytes that they and their edits may hold at once; `batches_in_budget` says what
            rows and lanes that allows. None for no limit.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> prompts = [Kept(ids=[1, 2, 3], paths=inputs_of([0])), Kept(ids=[1, 4, 3], paths=())]
        >>> [list(one.cache) for one in base_passes(model, prompts, rows=2, position=2)]
        [['model.layers.0.input'], []]
    """
    positions = mx.full((rows,), position, dtype=mx.int32)

    def build(one: Kept) -> tuple[mx.array, mx.array, ActivationCache]:
        tokens = mx.broadcast_to(mx.array(list(one.ids), dtype=mx.int32), (rows, len(one.ids)))
        paths = dict.fromkeys(one.paths)
        logits, cache = model.run_with_cache(
            tokens, hooks=paths, positions=positions, edits=one.hooks, lazy=True
        )
        return tokens, logits[:, 0], cache

    top = None if memory is None else ceiling(memory)
    built = side_by_side((partial(build, one) for one in prompts), lanes, top=top)
    return [
        BasePass(
            tokens=tokens,
            cache=cache,
            logits=logits,
            hooks=tuple(one.hooks),
            lanes=lanes,
            top=top,
        )
        for one, (tokens, logits, cache) in zip(prompts, built, strict=True)
    ]


def sweep(
    model: HookedModel,
    base: BasePass,
    source: Source,
    edits: Sequence[Row],
    *,
    position: int,
) -> Iterator[tuple[tuple[Row, ...], mx.array]]:
    """The logits at one position after each row's edits of the base pass.

    Args:
        model: The model.
        base: The pass that is edited.
        source: What the replacements come from: the cache of another base pass of as many rows
            (patching), or any arrays by path, such as zeros or means (ablation).
        edits: What to try, one row each. They are run in the order of their first layers.
        position: The scored position.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids, others = model.tokenize("mary lives in"), model.tokenize("john lives in")
        >>> base, source = (
        ...     base_pass(model, row, rows=2, position=3, site="mlp_out") for row in (ids, others)
        ... )
        >>> edits = [Edit(site="mlp_out", layer=layer) for layer in range(3)]
        >>> [len(chunk) for chunk, _ in sweep(model, base, source.cache, edits, position=3)]
        [1, 1, 1]

    Yields:
        Some of the rows, and the logits [rows, vocab_size] whose first rows are theirs, evaluated.
    """
    rows = base.logits.shape[0]
    positions = mx.full((rows,), position, dtype=mx.int32)

    def build(chunk: Sequence[Row]) -> mx.array:
        edited = list(map(edits_of, chunk))
        layer = min(edit.layer for edit in edited[0])
        logits, _ = model.run_from(
            layer,
            base.cache[sites.resid_pre(layer)],
            hooks=[*base.hooks, *replacing(edited, source)],
            positions=positions,
            tokens=base.tokens,
        )
        return logits[:, 0]

    chunks = [
        tuple(of_layer[start : start + rows])
        for _, of_layer in by_first_layer(edits)
        for start in range(0, len(of_layer), rows)
    ]
    yield from zip(
        chunks,
        side_by_side((partial(build, chunk) for chunk in chunks), base.lanes, top=base.top),
        strict=True,
    )


def sweep_edits(
    model: HookedModel,
    ids: Sequence[int],
    edits: Sequence[Row],
    *,
    source: Sequence[int] | Source,
    position: int | None = None,
    memory: int = MEMORY,
) -> Iterator[Swept]:
    """Plans a sweep within a memory budget and runs it: passes, batches and all.

    Only the inputs of layers at which edits begin and the sites that they replace are kept.

    Args:
        model: The model.
        ids: The prompt that is edited.
        edits: What to try, one row each.
        source: The prompt that replacements come from, as long as the first; or arrays by path.
        position: The scored position; by default the last.
        memory: Bytes that it may hold at once, beside the model and the arrays of a source.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids, others = model.tokenize("mary lives in"), model.tokenize("john lives in")
        >>> edits = every_edit(model, "head", len(ids), by_position=False)
        >>> sum(len(part.rows) for part in sweep_edits(model, ids, edits, source=others))
        24

    Raises:
        PromptError: If the prompts differ in length.
        ParameterError: If one row alone needs more memory.
    """
    other = None if isinstance(source, Mapping) else list(source)
    arrays: Source = source if isinstance(source, Mapping) else {}
    if other is not None and len(ids) != len(other):
        raise PromptError(
            f"Patching needs two prompts of equal length; they have {len(ids)} and {len(other)} "
            "tokens."
        )
    if not edits:
        return
    position = len(ids) - 1 if position is None else position
    starts = [layer for layer, _ in by_first_layer(edits)]
    taken = sorted({edit.source_path for row in edits for edit in edits_of(row)})

    wanted = [Kept(ids=ids, paths=inputs_of(starts))]
    if other is not None:
        wanted.append(Kept(ids=other, paths=taken))

    def passes(rows: int, **shares: int) -> tuple[BasePass, BasePass | None]:
        base, *given = base_passes(model, wanted, rows=rows, position=position, **shares)
        return base, given[0] if given else None

    kinds = _one_of_each_kind(edits)

    def trial(rows: int) -> object:
        base, given = passes(rows)
        held = [kl_divergence(base.logits, base.logits), base.logits + 0]
        batches = sweep(
            model, base, given.cache if given else arrays, [kinds] * rows, position=position
        )
        for _, logits in batches:
            mx.eval(held, kl_divergence(base.logits, logits))
        return held

    rows, lanes = batches_in_budget(
        model,
        trial,
        key=("sweep", len(ids), tuple(starts), tuple(taken), other is None, len(kinds)),
        budget=memory,
        groups=[len(of_layer) for _, of_layer in by_first_layer(edits)],
        seq=len(ids),
    )
    base, given = passes(rows, lanes=lanes, memory=memory)
    replacements = given.cache if given else arrays
    for chunk, logits in sweep(model, base, replacements, edits, position=position):
        n = len(chunk)
        yield Swept(
            rows=chunk,
            logits=logits[:n],
            base=base.logits[:n],
            source=given.logits[:n] if given else None,
        )


def _one_of_each_kind(edits: Sequence[Row]) -> tuple[Edit, ...]:
    """For each path and origin one edit: the most that the hooks of any batch could hold."""
    kinds: dict[object, Edit] = {}
    for row in edits:
        for edit in edits_of(row):
            kinds.setdefault(
                (edit.path, edit.source_path, edit.source_head, edit.source_position), edit
            )
    return tuple(kinds.values())
