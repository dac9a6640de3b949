"""Activation patching: where in the model the difference between two prompts is decided.

Denoising: the corrupted prompt runs, and one activation at a time is replaced by what it is in the
clean run. The effect is normalised so that 0 is the corrupted run and 1 the clean one:

    effect = (patched − corrupted) / (clean − corrupted)

where each stands for logit(answer) − logit(wrong answer) at the last position of that run. Source:
Meng et al. (2022); definitions and metric after Zhang & Nanda (2024), "Towards best practices of
activation patching".
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.trials import MEMORY
from mlux.errors import PromptError
from mlux.methods.sweeps import (
    BasePass,
    Edit,
    Row,
    SiteName,
    base_pass,
    edits_of,
    largest_batch,
    layers_with,
    rows_within,
    sweep,
)


@dataclass(frozen=True, kw_only=True)
class PatchingResult:
    """The effect of every patch, and the two runs it lies between.

    Attributes:
        effects: (edits of a row, logit difference, normalised effect) of every patch.
        clean: The clean run's logit difference.
        corrupted: The corrupted run's logit difference.
    """

    effects: tuple[tuple[Row, float, float], ...]
    clean: float
    corrupted: float


def every_edit(model: HookedModel, site: SiteName, seq: int, *, by_position: bool) -> list[Edit]:
    """One edit a layer, and a head for the site `head`, and with `by_position` a position.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> len(every_edit(model, "head", 10, by_position=False))
        24
    """
    positions = list(range(seq)) if by_position else [None]
    edits = []
    for layer in layers_with(model, site):
        n_heads = model.anatomy.blocks[layer].n_heads
        heads = list(range(n_heads)) if site == "head" else [None]
        edits += [
            Edit(site=site, layer=layer, head=head, position=position)
            for head in heads
            for position in positions
        ]
    return edits


def activation_patching(
    model: HookedModel,
    clean: Sequence[int],
    corrupted: Sequence[int],
    *,
    answer: int,
    wrong_answer: int,
    edits: Sequence[Row],
    memory: int = MEMORY,
) -> PatchingResult:
    """Patches activations of the clean run into the corrupted run, one edit at a time.

    Args:
        model: The model.
        clean: Token ids of the clean prompt.
        corrupted: Token ids of the corrupted prompt, as many.
        answer: The clean prompt's answer token.
        wrong_answer: The corrupted prompt's answer token.
        edits: What to patch, one row each.
        memory: Bytes for what the passes keep.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> clean = model.tokenize("mary and john met , john gave a book to")
        >>> corrupted = model.tokenize("mary and john met , mary gave a book to")
        >>> mary, john = clean[1], clean[3]
        >>> edits = [Edit(site="resid_pre", layer=3)]
        >>> result = activation_patching(
        ...     model, clean, corrupted, answer=mary, wrong_answer=john, edits=edits
        ... )
        >>> result.effects[0][2]  # the whole residual stream is everything
        1.0

    Raises:
        PromptError: If the prompts differ in length, or the model does not tell them apart.
    """
    if len(clean) != len(corrupted):
        raise PromptError(
            f"Patching needs two prompts of equal length; the clean one has {len(clean)} tokens "
            f"and the corrupted one {len(corrupted)}."
        )
    position = len(clean) - 1
    rows = rows_within(model, seq=len(clean), n_edits=largest_batch(edits), budget=memory)
    patched_sites = sorted({edit.site for row in edits for edit in edits_of(row)})

    def run(ids: Sequence[int]) -> BasePass:
        return base_pass(model, ids, rows=rows, position=position, site=patched_sites)

    def logit_diff(logits: mx.array) -> list[float]:
        logits = logits.astype(mx.float32)
        values: list[float] = numbers(logits[:, answer] - logits[:, wrong_answer])
        return values

    base, source = run(corrupted), run(clean)
    low, high = logit_diff(base.logits), logit_diff(source.logits)
    if high[0] == low[0]:
        raise PromptError(
            f"The clean and the corrupted prompt have the same logit difference ({high[0]:.3g}), "
            "so no effect can be normalised."
        )
    effects = []
    for chunk, logits in sweep(model, base, source.cache, edits, position=position):
        for row, (edit, patched) in enumerate(zip(chunk, logit_diff(logits), strict=False)):
            effects.append((edit, patched, (patched - low[row]) / (high[row] - low[row])))
    return PatchingResult(effects=tuple(effects), clean=high[0], corrupted=low[0])
