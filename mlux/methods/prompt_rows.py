"""One edit of many prompts: a batch whose rows are prompts of equal length.

Where `sweeps` tries many edits of one prompt, some methods try few edits of every prompt. The rows
of the pass are then the prompts, each edited at its own positions, on the same planner: the pass
starts at the edited layer and unembeds the last position only, and an edit that changes nothing
changes not one bit.
"""

from collections.abc import Sequence

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.memory import below
from mlux.engine.trials import MEMORY
from mlux.methods.budget import batches_in_budget, ceiling
from mlux.methods.edits import Edit, Row, SiteName, Source, layers_with, path_of
from mlux.methods.sweeps import BasePass, inputs_of, sweep


def prompts_in_budget(
    model: HookedModel, n_prompts: int, *, seq: int, site: SiteName, memory: int
) -> int:
    """How many prompts of equal length may be rows of one batch.

    Args:
        model: The model.
        n_prompts: How many there are.
        seq: Tokens of each.
        site: The site that edits replace.
        memory: Bytes that may be held at once beside the model: by a pass over the prompts, one
            over other prompts that replacements come from, and an edited run.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> prompts_in_budget(model, 8, seq=15, site="resid_post", memory=1 << 30)
        8

    Raises:
        ParameterError: If one prompt alone needs more memory.
    """

    def trial(rows: int) -> object:
        tokens = mx.zeros((rows, seq), dtype=mx.int32)
        base, other = (prompts_pass(model, tokens, site=site) for _ in range(2))
        edit = Edit(site=site, layer=layers_with(model, site)[0])
        return base, other, edited_prompts(model, base, other.cache, [edit] * rows)

    return batches_in_budget(
        model, trial, key=("prompts", seq, site), budget=memory, groups=[n_prompts], seq=seq
    ).rows


def prompts_pass(
    model: HookedModel, tokens: mx.array, *, site: SiteName, memory: int = MEMORY
) -> BasePass:
    """An unedited pass over prompts of equal length, scored at their last position.

    Args:
        model: The model.
        tokens: [rows, seq].
        site: The site that edits will replace.
        memory: Bytes that this pass and the edits of it may hold at once beside the model; how
            many rows that allows, `prompts_in_budget` says.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> tokens = model.to_batch(["mary lives in", "john lives in"]).tokens
        >>> prompts_pass(model, tokens, site="resid_post").logits.shape
        (2, 1466)
    """
    rows, seq = tokens.shape
    paths = inputs_of(range(len(model.layers)))
    paths += [path_of(site, layer) for layer in layers_with(model, site)]
    last = mx.full((rows,), seq - 1, dtype=mx.int32)
    top = ceiling(memory)
    with below(top):
        logits, cache = model.run_with_cache(tokens, hooks=dict.fromkeys(paths), positions=last)
        logits = logits[:, 0]
        mx.eval(logits)
    return BasePass(tokens=tokens, cache=cache, logits=logits, top=top)


def edited_prompts(
    model: HookedModel, base: BasePass, source: Source, edits: Sequence[Row]
) -> mx.array:
    """Logits [rows, vocab_size] at the last position, each row after its own edits.

    Args:
        model: The model.
        base: The pass over the prompts.
        source: What the replacements come from, as for `sweep`.
        edits: One row for each prompt; all begin at the same layer.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.sweeps import Edit
        >>> model = HookedModel.from_pretrained("demo")
        >>> tokens = model.to_batch(["mary lives in", "john lives in"]).tokens
        >>> base = prompts_pass(model, tokens, site="resid_post")
        >>> edit = Edit(site="resid_post", layer=2)
        >>> logits = edited_prompts(model, base, base.cache, [edit, edit])
        >>> mx.array_equal(logits, base.logits).item()
        True

    Raises:
        ValueError: If there is not one edit for each prompt, all at one first layer.
    """
    rows, seq = base.tokens.shape
    chunks = list(sweep(model, base, source, edits, position=seq - 1))
    if len(edits) != rows or len(chunks) != 1:
        raise ValueError(f"{len(edits)} edits in {len(chunks)} layers for {rows} prompts")
    return chunks[0][1]
