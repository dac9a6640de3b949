"""Two hops: what the lens shows of the entity between a question and its answer, and back-patching.

A question such as "the capital of the country where bakis lives is" needs the country (the bridge)
before its capital (the answer). The lens after each block tells when either becomes probable, at
the last token of the subject and at the end. Back-patching asks whether the second hop came too
late: the residual stream after a later block is put where an earlier block's was, at the same
position, so that what was resolved late passes through the layers again:

    resid_post[target] ← resid_post[source],  target < source

Source: Biran et al. (2024), "Hopping Too Late"; the rank of the bridge by the lens as in Yang et
al. (2024), "Do Large Language Models Latently Perform Multi-Hop Reasoning?" (Biran et al. read
entities with Patchscopes instead).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import mlx.core as mx

from mlux.engine import HookedModel, sites
from mlux.methods.prompt_rows import edited_prompts
from mlux.methods.scores import answer_logprob, answer_rank
from mlux.methods.sweeps import BasePass, Edit, Source


@dataclass(frozen=True, kw_only=True)
class EntityReadout:
    """What the lens shows of one token after one block, for each row.

    Attributes:
        layer: The block.
        rank: [batch], tokens that are at least as probable; 0 is on top.
        logprob: [batch], natural log.
    """

    layer: int
    rank: mx.array
    logprob: mx.array


def entity_lens(
    model: HookedModel, tokens: mx.array, *, positions: mx.array, entities: Sequence[int]
) -> Iterator[EntityReadout]:
    """The rank of a token of each row by the lens after every block, at one position of each row.

    Args:
        model: The model.
        tokens: [batch, seq].
        positions: [batch], where to look.
        entities: The token to look for in each row.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> batch = model.to_batch("the capital of france is")
        >>> paris = model.tokenize("paris")[-1]
        >>> readouts = entity_lens(
        ...     model, batch.tokens, positions=batch.last, entities=[paris]
        ... )
        >>> [int(readout.rank[0]) for readout in readouts][-1]
        0
    """
    n_layers = len(model.layers)
    paths = [sites.resid_post(layer) for layer in range(n_layers)]
    final, cache = model.run_with_cache(tokens, hooks=paths, positions=positions)
    wanted = mx.array(list(entities))
    for layer, path in enumerate(paths):
        logits = final[:, 0]
        if layer < n_layers - 1:  # the last layer's lens is the model's own logits
            at = mx.take_along_axis(cache[path], positions[:, None, None], axis=1)
            logits = model.unembed(at)[:, 0]
        rank, logprob = answer_rank(logits, wanted), answer_logprob(logits, wanted)
        mx.eval(rank, logprob)
        yield EntityReadout(layer=layer, rank=rank, logprob=logprob)


def back_patches(
    model: HookedModel,
    base: BasePass,
    *,
    source_layer: int,
    targets: Sequence[int],
    positions: Sequence[int],
    source: Source | None = None,
) -> Iterator[tuple[int, mx.array]]:
    """The residual stream after one block, put after each of these blocks, one at a time.

    Args:
        model: The model.
        base: A pass over the prompts that holds `resid_post`, from `prompts_pass`.
        source_layer: The block whose output is put back.
        targets: The blocks whose output is replaced. With `source_layer` itself, nothing changes.
        positions: The position of each row.
        source: Where the residual stream comes from, by path: another pass of as many rows and
            positions; by default the pass itself.

    Example:
        >>> from mlux import HookedModel
        >>> from mlux.methods.prompt_rows import prompts_pass
        >>> model = HookedModel.from_pretrained("demo")
        >>> tokens = model.to_batch("the capital of france is").tokens
        >>> base = prompts_pass(model, tokens, site="resid_post")
        >>> patched = dict(
        ...     back_patches(model, base, source_layer=3, targets=[1, 3], positions=[5])
        ... )
        >>> mx.array_equal(patched[3], base.logits).item()
        True

    Yields:
        The target, and the logits [rows, vocab_size] at the last position.
    """
    for target in targets:
        edits = [
            Edit(site="resid_post", layer=target, source_layer=source_layer, position=position)
            for position in positions
        ]
        yield target, edited_prompts(model, base, source or base.cache, edits)
