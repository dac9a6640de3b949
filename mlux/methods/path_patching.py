"""Path patching: how much of an effect goes from one place to another directly.

The prompt runs with a sender (the z of a head, or an MLP's output) as it is in another prompt, and
everything between it and a receiver as it was, so that the change reaches the receiver through the
residual stream alone, or besides through chosen MLPs, which are computed anew. What the receiver
then reads (a head's query, key or value) is put into a run that is otherwise untouched. With the
logits as the receiver, only the final norm and the unembedding see the change:

    effect = (patched - base) / (source - base),    each logit(answer) - logit(wrong answer)

Source: Wang et al. (2022), "Interpretability in the wild"; Goldowsky-Dill et al. (2023),
"Localizing model behavior with path patching".
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import mlx.core as mx

from mlux.engine import HookedModel, HookWrapper, sites
from mlux.engine.arrays import numbers
from mlux.engine.lanes import side_by_side
from mlux.engine.passes import Hook
from mlux.engine.trials import MEMORY
from mlux.errors import ModelError, PromptError
from mlux.methods.baseline import require_difference
from mlux.methods.budget import batches_in_budget
from mlux.methods.edits import Edit, every_edit, layers_with, replacing
from mlux.methods.scores import logit_diff
from mlux.methods.sweeps import BasePass, Kept, base_passes, inputs_of

INPUTS = ("q", "k", "v")


class PathEffect(NamedTuple):
    """What a sender does by way of a path.

    Attributes:
        sender: Its place.
        logit_diff: logit(answer) - logit(wrong answer) with the path patched.
        effect: Normalised: 0 is the prompt's own run, 1 the run of the other prompt.
    """

    sender: Edit
    logit_diff: float
    effect: float


@dataclass(frozen=True, kw_only=True)
class _Plan:
    """What one call of `path_patching` is about.

    Attributes:
        through: The layers whose MLPs are computed anew.
        itself: Whether senders hold what they hold in the patched prompt itself.
    """

    model: HookedModel
    ids: Sequence[int]
    others: Sequence[int]
    receivers: Sequence[Edit]
    through: frozenset[int]
    starts: Sequence[int]
    frozen: Sequence[str]
    sent: Sequence[str]
    itself: bool

    def passes(self, rows: int, **shares: int) -> tuple[BasePass, BasePass]:
        """The run that is patched and the one that senders are taken from."""
        paths = [*inputs_of(self.starts), *self.frozen, *(self.sent if self.itself else ())]
        prompts = [Kept(ids=self.ids, paths=paths), Kept(ids=self.others, paths=self.sent)]
        base, source = base_passes(
            self.model, prompts, rows=rows, position=len(self.ids) - 1, **shares
        )
        return base, source


def every_sender(model: HookedModel) -> list[Edit]:
    """Every head and every MLP.

    Example:
        >>> from mlux import HookedModel
        >>> len(every_sender(HookedModel.from_pretrained("demo")))
        30
    """
    heads = every_edit(model, "head", 1, by_position=False)
    return heads + every_edit(model, "mlp_out", 1, by_position=False)


def require_sum(model: HookedModel) -> None:
    """Raises ModelError where freezing attention and MLP does not leave the stream as it was.

    Example:
        >>> from mlux import HookedModel
        >>> require_sum(HookedModel.from_pretrained("demo"))
    """
    reasons = [
        f"block {layer}: {block.lacks['sum']}"
        for layer, block in enumerate(model.anatomy.blocks)
        if "sum" in block.lacks
    ]
    if model.anatomy.stream_axis is not None:
        reasons.append("it has several residual streams, which are mixed on the way")
    if reasons:
        raise ModelError(f"This model has no paths to patch: {reasons[0]}.")


def path_patching(
    model: HookedModel,
    ids: Sequence[int],
    others: Sequence[int],
    *,
    answer: int,
    wrong_answer: int,
    senders: Sequence[Edit],
    receivers: Sequence[Edit] = (),
    through: Sequence[int] = (),
    itself: bool = False,
    memory: int = MEMORY,
) -> list[PathEffect]:
    """Patches the path from each sender to the receivers, many senders in one batch.

    Args:
        model: The model.
        ids: Token ids of the prompt that is patched.
        others: Token ids of the prompt that senders are taken from, as many.
        answer: The token that one prompt favours.
        wrong_answer: The token that the other favours.
        senders: Edits of `head` or `mlp_out`.
        receivers: Edits of `q`, `k` or `v` of heads, all patched together; none for the logits. A
            receiver that does not lie after a sender gets nothing from it.
        through: Layers whose MLPs may pass the change on; all else between is frozen.
        itself: Take senders from the patched prompt itself, which must change nothing: a control.
        memory: Bytes that it may hold at once beside the model.

    Returns:
        The effect of each sender, in the order of layers.

    Example:
        >>> from mlux import HookedModel
        >>> model = HookedModel.from_pretrained("demo")
        >>> clean = model.tokenize("mary and john met , john gave a book to")
        >>> other = model.tokenize("mary and john met , mary gave a book to")
        >>> found = path_patching(
        ...     model, clean, other, answer=clean[1], wrong_answer=clean[3],
        ...     senders=every_sender(model),
        ... )
        >>> max(found, key=lambda one: one.effect).sender.layer  # its MLP
        3

    Raises:
        ModelError: If a block changes the stream by more than attention and MLP.
        PromptError: If the prompts differ in length, or the model does not tell them apart.
        ParameterError: If one row alone needs more memory.
    """
    require_sum(model)
    if len(ids) != len(others):
        raise PromptError(
            f"Path patching needs two prompts of equal length; they have {len(ids)} and "
            f"{len(others)} tokens."
        )
    plan = _plan(model, ids, others, senders, receivers, through, itself)
    groups = _groups(senders)

    def trial(rows: int) -> object:
        base, source = plan.passes(rows)
        (_, of_first), *_ = groups
        logits = _logits(plan, base, source, of_first[:1] * rows)
        mx.eval(logits)
        return logits, base, source

    rows, lanes = batches_in_budget(
        model,
        trial,
        key=(
            "paths",
            len(ids),
            tuple(sorted(plan.frozen)),
            tuple(plan.sent),
            bool(receivers),
            itself,
        ),
        budget=memory,
        groups=[len(group) for _, group in groups],
        seq=len(ids),
    )
    base, source = plan.passes(rows, lanes=lanes, memory=memory)
    low, high = (numbers(logit_diff(x.logits, answer, wrong_answer)) for x in (base, source))
    require_difference(low[0], high[0])
    chunks = list(_chunks(groups, rows))
    builders = (partial(_logits, plan, base, source, chunk) for chunk in chunks)
    found = []
    for chunk, logits in zip(chunks, side_by_side(builders, lanes, top=base.top), strict=True):
        patched = numbers(logit_diff(logits, answer, wrong_answer))
        for i, sender in enumerate(chunk):
            effect = (patched[i] - low[i]) / (high[i] - low[i])
            found.append(PathEffect(sender, patched[i], effect))
    return found


def _plan(
    model: HookedModel,
    ids: Sequence[int],
    others: Sequence[int],
    senders: Sequence[Edit],
    receivers: Sequence[Edit],
    through: Sequence[int],
    itself: bool,
) -> _Plan:
    for edit in senders:
        if edit.site not in ("head", "mlp_out"):
            raise ValueError(f"a sender is a head or mlp_out, not {edit.site}")
    for edit in receivers:
        if edit.site not in INPUTS:
            raise ValueError(f"a receiver is q, k or v of a head, not {edit.site}")
    first = min(edit.layer for edit in senders)
    last = max((edit.layer for edit in receivers), default=len(model.layers))
    frozen = [sites.attn_out(i) for i in layers_with(model, "attn_out") if first < i < last]
    frozen += [
        sites.mlp_out(i)
        for i in layers_with(model, "mlp_out")
        if first <= i < last and i not in through
    ]
    starts = {edit.layer for edit in senders} | {edit.layer for edit in receivers}
    return _Plan(
        model=model,
        ids=ids,
        others=others,
        receivers=receivers,
        through=frozenset(through),
        starts=sorted(starts),
        frozen=frozen,
        sent=sorted({edit.source_path for edit in senders}),
        itself=itself,
    )


def _groups(senders: Sequence[Edit]) -> list[tuple[tuple[int, str], list[Edit]]]:
    """Senders of one layer and kind, which are frozen alike."""
    groups: dict[tuple[int, str], list[Edit]] = {}
    for sender in senders:
        groups.setdefault((sender.layer, sender.site), []).append(sender)
    return sorted(groups.items())


def _chunks(
    groups: Sequence[tuple[tuple[int, str], list[Edit]]], rows: int
) -> Iterator[list[Edit]]:
    for _, group in groups:
        yield from (group[start : start + rows] for start in range(0, len(group), rows))


def _logits(plan: _Plan, base: BasePass, source: BasePass, senders: Sequence[Edit]) -> mx.array:
    """The last logits [rows, vocab_size] with the path from each row's sender patched, lazy."""
    layer, site = senders[0].layer, senders[0].site
    rows, seq = base.tokens.shape
    positions = mx.full((rows,), seq - 1, dtype=mx.int32)
    reached = [edit for edit in plan.receivers if edit.layer > layer]
    if plan.receivers and not reached:
        return base.logits
    sources = (base if plan.itself else source).cache
    hooks = replacing([[sender] for sender in senders], sources)
    for path in plan.frozen:
        place = sites.parse(path)
        assert place is not None
        assert place.layer is not None
        own = place.layer == layer and (site == "mlp_out" or place.kind == "attn_out")
        if place.layer >= layer and not own:
            hooks.append((path, _always(base.cache[path])))
    sent, captured = plan.model.run_from(
        layer,
        base.cache[sites.resid_pre(layer)],
        hooks=hooks,
        captures=sorted({edit.path for edit in reached}),
        positions=positions,
        tokens=base.tokens,
    )
    if reached:
        start = min(edit.layer for edit in reached)
        sent, _ = plan.model.run_from(
            start,
            base.cache[sites.resid_pre(start)],
            hooks=replacing([reached] * len(senders), captured),
            positions=positions,
            tokens=base.tokens,
        )
    return sent[:, 0]


def _always(value: mx.array) -> Hook:
    def put(inputs: tuple[Any, ...], output: mx.array, wrapper: HookWrapper) -> mx.array:
        return value

    return put
