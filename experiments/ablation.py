"""Ablation: what does the model lose without a head, an attention or an MLP?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, get_args

from mlux.engine import HookedModel
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.errors import PromptError
from mlux.methods.ablation import Ablated, Head, Kind, mean_patterns, means, zeros
from mlux.methods.ablation import ablation as ablate
from mlux.methods.edits import HEAD_SITES, Row, SiteName, edits_of
from mlux.methods.induction import prefix_matching
from mlux.methods.patching import (
    every_edit,
    every_head,
    named_heads,
    random_sets,
    require_heads,
    strongest,
    together,
)
from mlux.metrics import ACCURACY, KL, LOGIT_DIFF, LOSS
from mlux.registry import Cost, experiment
from mlux.results import Fitted, Result, at

# First what is 0 where nothing is lost: it is drawn by default.
METRICS = (KL, LOSS, LOGIT_DIFF, ACCURACY)
RANDOM_SETS = 9
"""Sets of random heads of which the median is reported."""


@dataclass(frozen=True, kw_only=True)
class AblationConfig:
    """Options of ablation."""

    kinds: tuple[Kind, ...] = field(
        default=("zero", "mean", "resample"),
        metadata={"help": "what comes in the place of an activation: " + ", ".join(get_args(Kind))},
    )
    sites: tuple[SiteName, ...] = field(
        default=("head", "attn_out", "mlp_out"),
        metadata={"help": "what to ablate, layer by layer: " + ", ".join(get_args(SiteName))},
    )
    heads: tuple[str, ...] = field(
        default=("induction",),
        metadata={
            "help": "heads to ablate together, as in 2.0,2.3; by default the top_k best at "
            "prefix matching, if sites has heads at all"
        },
    )
    top_k: int = field(default=2, metadata={"help": "how many heads `induction` stands for"})

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k is {self.top_k}; expected at least 1")
        if self.heads != ("induction",):
            named_heads(self.heads)

    @property
    def head_set(self) -> bool:
        """Whether heads are ablated together: if some are named, or heads are asked for at all."""
        return self.heads != ("induction",) or any(site in HEAD_SITES for site in self.sites)


@dataclass(frozen=True, kw_only=True)
class _Learned:
    heads: list[Head]
    means: Mapping[str, Any]
    patterns: Mapping[int, Mapping[str, Any]]
    others: Mapping[tuple[int, ...], tuple[int, ...] | None]


def _conditions(config: AblationConfig, model: Mapping[str, Any]) -> Sequence[Mapping[str, str]]:
    found: list[dict[str, str]] = [{"kind": "none"}]
    for kind in config.kinds:
        found += [{"kind": kind, "site": site} for site in config.sites]
        if config.head_set:
            found.append({"kind": kind, "site": "head_set"})
            found.append({"kind": kind, "site": "head_set", "control": "random"})
    # What replaces itself does not depend on the kind, so it is run with one of them.
    kind = "resample" if "resample" in config.kinds else config.kinds[0]
    found += [{"kind": kind, "site": site, "control": "self"} for site in config.sites]
    return found


def _cost(
    config: AblationConfig, model: Mapping[str, Any], condition: Mapping[str, str], n_tokens: int
) -> Cost:
    site = condition.get("site", "")
    if site in ("", "head_set"):
        sets = RANDOM_SETS if "control" in condition else 1
        return Cost(forward_passes=2 * sets + 4, rows=sets, values=4)
    edits = model["n_heads"] if site in HEAD_SITES else 1
    layers = model["n_layers"]
    return Cost.of_sweep(layers, edits, n_tokens, values=4 * layers * edits)


def _fit(
    model: HookedModel, config: AblationConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> Fitted:
    """The heads to ablate together, the means, and the prompt that each is resampled from."""
    rows = [encoded.ids for encoded in prompts]
    wanted = [site for site in dict.fromkeys([*config.sites, "head"]) if site != "pattern"]
    found = means(model, rows, wanted) if "mean" in config.kinds else {}
    pairs = [ids for p in prompts for ids in (p.ids, p.corrupted) if ids]
    patterns = mean_patterns(model, pairs) if _mean_patterns(config) else {}
    generator = random.Random(seed)
    others: dict[tuple[int, ...], tuple[int, ...] | None] = {}
    for encoded in prompts:
        alike = [p.ids for p in prompts if len(p.ids) == len(encoded.ids) and p.ids != encoded.ids]
        others[encoded.ids] = generator.choice(alike) if alike else encoded.corrupted
    heads = _heads(model, config, prompts) if config.head_set else []
    return Fitted(state=_Learned(heads=heads, means=found, patterns=patterns, others=others))


def _mean_patterns(config: AblationConfig) -> bool:
    return "mean" in config.kinds and "pattern" in config.sites


def _check(
    model: HookedModel, config: AblationConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> None:
    """Whether there are heads to ablate together, and as many others to be their control."""
    if not config.head_set:
        return
    if config.heads != ("induction",):
        heads = named_heads(config.heads)
        require_heads(model, heads)
        random_sets(model, heads, 1, random.Random(seed))
    elif all(len(set(encoded.ids)) == len(encoded.ids) for encoded in prompts):
        raise PromptError(
            "No token occurs twice in these prompts, so no head can be seen to match prefixes. "
            "Name the heads to ablate together, as in -p heads=2.0,2.3."
        )


def _heads(
    model: HookedModel, config: AblationConfig, prompts: Sequence[EncodedPrompt]
) -> list[Head]:
    if config.heads != ("induction",):
        return named_heads(config.heads)
    scores: dict[Head, list[float]] = {}
    for encoded in prompts:
        for head, score in prefix_matching(model, encoded.ids).items():
            scores.setdefault(head, []).append(score)
    return strongest(scores, config.top_k)


@experiment(
    metrics=METRICS,
    prompts="induction:8",
    roles=("answer", "wrong_answer"),
    gate="contrast",
    conditions=_conditions,
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=lambda config, model, n_prompts, n_tokens: Cost(
        forward_passes=2.0 * (1 + _mean_patterns(config)) * n_prompts, rows=1
    ),
    sites=lambda config: ("resid_pre", "head", *config.sites),
    paper="Olsson et al. (2022); Wang et al. (2022); Chan et al. (2022), causal scrubbing",
)
def ablation(
    model: HookedModel, config: AblationConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Replaces an activation by nothing, its mean, or another prompt's, and sees what is lost.

    Heads, attention and MLP outputs are ablated layer by layer at all positions. The mean is over
    all tokens of the run's prompts but their first; for patterns over its prompts, corrupted ones
    too, with as many tokens. Another prompt is a random one of the run with as many tokens, or
    where there is none the corrupted prompt. `head_set` ablates several heads together, by default
    the two best at prefix matching, beside the median of nine random sets; without heads among the
    sites, and none named, there is none.
    """
    learned: _Learned = batch.fitted
    kind, site = batch.condition["kind"], batch.condition.get("site")
    for trial in batch:
        ids = trial.encoded.ids
        if site == "head_set":
            sets = [learned.heads]
            if "control" in batch.condition:
                generator = random.Random(f"{batch.seed} {trial.number}")
                sets = random_sets(model, learned.heads, RANDOM_SETS, generator)
            found = _ablate(model, batch, trial, [together(heads) for heads in sets], kind)
            for metric in ("loss", "logit_diff", "kl", "accuracy"):
                yield trial, at(metric, median(getattr(one, metric) for one in found))
            continue
        edits: Sequence[Row] = []
        if site is None:  # nothing is ablated: a head in its own place
            edits = [together([every_head(model)[0]])]
        else:
            edits = every_edit(model, site, len(ids), by_position=False)  # type: ignore[arg-type] # from the config
        for one in _ablate(model, batch, trial, edits, kind):
            place = {} if site is None else _place(one.row)
            for metric in ("loss", "logit_diff", "kl", "accuracy"):
                yield trial, at(metric, getattr(one, metric), **place)


def _place(row: Row) -> dict[str, int | None]:
    (edit,) = edits_of(row)
    return {"layer": edit.layer, "head": edit.head}


def _ablate(
    model: HookedModel, batch: PromptBatch, trial: Trial, edits: Sequence[Row], kind: str
) -> list[Ablated]:
    learned: _Learned = batch.fitted
    encoded = trial.encoded
    source: Any = encoded.ids  # kind none, and the control self
    if batch.condition.get("control") == "self" or kind == "none":
        pass
    elif kind == "zero":
        source = zeros(edits)
    elif kind == "mean" and batch.condition["site"] == "pattern":
        source = learned.patterns.get(len(encoded.ids))
        if source is None:
            raise PromptError(
                f"No other prompt has {len(encoded.ids)} tokens, and there is no corrupted one, so "
                f"there is no mean pattern for {encoded.prompt.text[:40]!r}."
            )
    elif kind == "mean":
        source = learned.means
    else:
        source = learned.others[encoded.ids]
        if source is None or len(source) != len(encoded.ids):
            raise PromptError(
                f"No other prompt has {len(encoded.ids)} tokens, and there is no corrupted one, so "
                f"nothing can be resampled for {encoded.prompt.text[:40]!r}."
            )
    assert encoded.answer is not None
    found = ablate(
        model,
        encoded.ids,
        edits,
        source=source,
        answer=encoded.answer,
        wrong_answer=encoded.wrong_answer,
        memory=batch.memory,
    )
    return list(found)
