"""Causal tracing: where does the model recall a fact about a subject?"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from mlux.engine import HookedModel
from mlux.engine.spans import subject_span
from mlux.engine.trials import EncodedPrompt, PromptBatch, Trial
from mlux.errors import PromptError
from mlux.methods.causal_tracing import RestoredSite, causal_trace, embedding_std
from mlux.registry import Cost, experiment
from mlux.results import Fitted, Metric, Result, Values, at

MOST_SAMPLES, MOST_NOISE = 1_000, 1_000.0  # more is a slip of the finger, and fills the memory
METRICS = (
    Metric(
        name="indirect_effect",
        unit="probability difference",
        better="higher",
        description="p(answer) with an activation restored, minus p(answer) under noise.",
    ),
    Metric(
        name="indirect_effect_subject",
        unit="probability difference",
        better="higher",
        description="The indirect effect at the subject's last token.",
    ),
    Metric(
        name="indirect_effect_last",
        unit="probability difference",
        better="higher",
        description="The indirect effect at the prompt's last token.",
    ),
    Metric(
        name="total_effect",
        unit="probability difference",
        better="higher",
        description="p(answer) of the clean run minus p(answer) under noise.",
    ),
    Metric(
        name="clean_probability",
        unit="probability",
        better="higher",
        description="The answer's probability in the clean run.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class CausalTracingConfig:
    """Options of causal tracing."""

    sites: tuple[RestoredSite, ...] = field(
        default=("resid_post", "mlp_out", "attn_out"),
        metadata={"help": "what to restore: " + ", ".join(get_args(RestoredSite))},
    )
    noise: float = field(
        default=3.0,
        metadata={"help": "noise in standard deviations of the subjects' embeddings"},
    )
    samples: int = field(default=5, metadata={"help": "draws of the noise for each prompt"})
    window: int = field(
        default=3, metadata={"help": "layers of MLPs or attention restored at once"}
    )
    controls: bool = field(
        default=True, metadata={"help": "also put the noise on as many other tokens"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= MOST_SAMPLES or self.window < 1:
            raise ValueError(
                f"samples is {self.samples} and window {self.window}; "
                f"expected 1 to {MOST_SAMPLES}, and at least 1"
            )
        if not 0 <= self.noise <= MOST_NOISE:
            raise ValueError(f"noise is {self.noise:g}; expected 0 to {MOST_NOISE:g}")


def _conditions(
    config: CausalTracingConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    found: list[dict[str, str]] = []
    for site in config.sites:
        found.append({"restored": site})
        if config.controls:
            found.append({"restored": site, "control": "noise_elsewhere"})
    return found


def _cost(
    config: CausalTracingConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    layers = model["n_layers"]
    edits, values = config.samples * n_tokens, layers * (n_tokens + 2) + 2
    # A window begins half its width before its layer.
    before = 0 if condition["restored"] == "resid_post" else config.window // 2
    share = sum(layers - max(0, layer - before) for layer in range(layers)) / layers**2
    return Cost.of_sweep(layers, edits, n_tokens, share=share, passes=config.samples, values=values)


def _fit(
    model: HookedModel, config: CausalTracingConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> Fitted:
    """The standard deviation of all subjects' embeddings, and the seed of each prompt's noise."""
    spans = [encoded.ids[slice(*subject_span(model.tokenizer, encoded))] for encoded in prompts]
    seeds = {encoded.prompt: seed * 1_000_003 + i for i, encoded in enumerate(prompts)}
    return Fitted(state=(embedding_std(model, spans), seeds))


def _check(
    model: HookedModel, config: CausalTracingConfig, prompts: Sequence[EncodedPrompt], seed: int
) -> None:
    for encoded in prompts:
        subject_span(model.tokenizer, encoded)


@experiment(
    metrics=METRICS,
    prompts="facts:6",
    roles=("subject", "answer"),
    gate="answer",
    conditions=_conditions,
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=lambda config, model, n_prompts, n_tokens: Cost(forward_passes=n_prompts / 4),
    sites=lambda config: ("resid_pre", *config.sites),
    paper="Meng et al. (2022), Locating and Editing Factual Associations in GPT",
)
def causal_tracing(
    model: HookedModel, config: CausalTracingConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Noises the subject's embeddings and restores one token and a few layers at a time.

    The residual stream is restored in one layer, MLP and attention outputs in a window of layers
    around it. The mean over prompts is the average indirect effect. The control puts the noise on
    as many tokens outside the subject, neither the first nor the last of the prompt.
    """
    site: RestoredSite = batch.condition["restored"]  # type: ignore[assignment] # from the config
    std, seeds = batch.fitted
    for trial in batch:
        encoded = trial.encoded
        assert encoded.answer is not None
        start, stop = subject_span(model.tokenizer, encoded)
        noised = list(range(start, stop))
        if "control" in batch.condition:
            noised = _elsewhere(encoded, noised, seeds[encoded.prompt])
        trace = causal_trace(
            model,
            encoded.ids,
            answer=encoded.answer,
            noised=noised,
            sigma=config.noise * std,
            site=site,
            window=1 if site == "resid_post" else config.window,
            samples=config.samples,
            seed=seeds[encoded.prompt],  # the same noise whatever is restored
            memory=batch.memory,
        )
        yield trial, at("clean_probability", trace.clean)
        yield trial, at("total_effect", trace.total_effect)
        effects = trace.indirect_effect
        layers = list(trace.layers)
        yield (
            trial,
            Values(
                metric="indirect_effect",
                values=effects,
                axes=("layer", "position"),
                index={"layer": layers},
            ),
        )
        for metric, place in (
            ("indirect_effect_subject", stop - 1),
            ("indirect_effect_last", len(encoded.ids) - 1),
        ):
            of_place = [row[place] for row in effects]
            yield (
                trial,
                Values(metric=metric, values=of_place, axes=("layer",), index={"layer": layers}),
            )


def _elsewhere(encoded: EncodedPrompt, subject: Sequence[int], seed: int) -> list[int]:
    others = [place for place in range(1, len(encoded.ids) - 1) if place not in subject]
    if not others:
        raise PromptError(
            f"The prompt {encoded.prompt.text[:40]!r} has no tokens between its first and its last "
            "but the subject, so no noise can go elsewhere; leave the control out with "
            "-p controls=false."
        )
    generator = random.Random(seed)
    return sorted(generator.sample(others, min(len(subject), len(others))))
