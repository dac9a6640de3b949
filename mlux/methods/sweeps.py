"""Many edits of one prompt, planned instead of looped.

A sweep tries one intervention a row: it starts at the first edited layer from the cached residual
stream (the layers before are never computed), puts many interventions into one batch and unembeds
only the scored position. Every batch has the same number of rows as the base pass, and a row is
compared with its own row of the base pass: the same kernels on the same shapes, so an edit that
changes nothing changes not one bit, whatever the matrix library does with the edges of a batch.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import ActivationCache, HookedModel, sites
from mlux.engine.memory import below
from mlux.engine.passes import Hook
from mlux.engine.trials import MEMORY
from mlux.errors import PromptError
from mlux.methods.budget import ceiling, rows_in_budget
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
    largest_batch,
    layers_with,
    path_of,
    replacing,
)
from mlux.methods.scores import kl_divergence

__all__ = [
    "HEAD_SITES", "SITES", "BasePass", "Edit", "Row", "SiteName", "Source", "Swept", "base_pass",
    "edits_of", "every_edit", "largest_batch", "layers_with", "path_of", "row_hooks",
    "rows_within", "sweep", "sweep_edits",
]  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class BasePass:
    """An unedited pass with every row the same prompt, and what its sites hold.

    Attributes:
        tokens: What was run, [rows, seq].
        cache: Activations by path, [rows, …].
        logits: At the scored position, [rows, vocab_size].
        hooks: What is part of the base itself, such as the noise of a causal trace.
    """

    tokens: mx.array
    cache: ActivationCache
    logits: mx.array
    hooks: tuple[tuple[str, Hook], ...] = ()


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
    starts: Sequence[int] | None = None,
    keep: Sequence[str] = (),
    hooks: Sequence[tuple[str, Hook]] = (),
) -> BasePass:
    """Runs a prompt once in every row and keeps what edits need.

    Args:
        model: The model.
        ids: The prompt's token ids.
        rows: Rows of the batch.
        position: The scored position.
        site: Sites to keep in every layer that has them.
        starts: The layers at which edits begin, whose input is kept; by default all.
        keep: Further paths to keep.
        hooks: What is done to the base itself.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> ids = model.tokenize("mary lives in")
        >>> base_pass(model, ids, rows=2, position=3, site="attn_out").logits.shape
        (2, 1466)
    """
    tokens = mx.broadcast_to(mx.array(list(ids), dtype=mx.int32), (rows, len(ids)))
    starts = range(len(model.layers)) if starts is None else starts
    paths = [sites.resid_pre(layer) for layer in starts]
    for name in [site] if isinstance(site, str) else site:
        paths += [path_of(name, layer) for layer in layers_with(model, name)]
    logits, cache = model.run_with_cache(
        tokens,
        hooks=dict.fromkeys([*paths, *keep]),
        positions=mx.full((rows,), position, dtype=mx.int32),
        edits=hooks,
    )
    return BasePass(tokens=tokens, cache=cache, logits=logits[:, 0], hooks=tuple(hooks))


def rows_within(model: HookedModel, *, seq: int, n_edits: int, budget: int = 1 << 30) -> int:
    """A guess at how many rows fit, from the width of what passes keep; see `rows_in_budget`.

    Args:
        model: The model.
        seq: Tokens of the prompt.
        n_edits: Edits of one layer.
        budget: Bytes for what the two base passes keep.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> rows_within(model, seq=15, n_edits=90), rows_within(model, seq=15, n_edits=90, budget=1)
        (90, 1)
    """
    config = model.config
    widths: int = config["d_model"] + max(config["d_model"], config["n_heads"] * config["d_head"])
    per_row = 2 * len(model.layers) * seq * widths * model.resid_dtype.size
    return max(1, min(n_edits, budget // per_row))


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
    for layer, of_layer in by_first_layer(edits):
        for start in range(0, len(of_layer), rows):
            chunk = tuple(of_layer[start : start + rows])
            logits, _ = model.run_from(
                layer,
                base.cache[sites.resid_pre(layer)],
                hooks=[*base.hooks, *replacing(list(map(edits_of, chunk)), source)],
                positions=mx.full((rows,), position, dtype=mx.int32),
                tokens=base.tokens,
            )
            logits = logits[:, 0]
            mx.eval(logits)
            yield chunk, logits


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

    def passes(rows: int) -> tuple[BasePass, BasePass | None]:
        base = base_pass(model, ids, rows=rows, position=position, starts=starts)
        if other is None:
            return base, None
        return base, base_pass(model, other, rows=rows, position=position, starts=(), keep=taken)

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

    rows = rows_in_budget(
        model,
        trial,
        key=("sweep", len(ids), tuple(starts), tuple(taken), other is None, len(kinds)),
        budget=memory,
        most=largest_batch(edits),
        seq=len(ids),
    )
    top = ceiling(memory)
    with below(top):
        base, given = passes(rows)
    replacements = given.cache if given else arrays
    batches = sweep(model, base, replacements, edits, position=position)
    while True:
        with below(top):
            batch = next(batches, None)
        if batch is None:
            return
        chunk, logits = batch
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


def row_hooks(
    rows: Sequence[Sequence[Edit]], base: BasePass, source: Source
) -> list[tuple[str, Hook]]:
    """As `replacing`; the base pass, whose shapes it once needed, is not looked at.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> base = base_pass(
        ...     model, model.tokenize("mary lives in"), rows=1, position=3, site="attn_out"
        ... )
        >>> edit = Edit(site="attn_out", layer=2)
        >>> [path for path, _ in row_hooks([[edit]], base, base.cache)]
        ['model.layers.2.self_attn']
    """
    return replacing(rows, source)
