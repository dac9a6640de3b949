"""Function vectors: which heads carry the task, and does their sum carry it elsewhere?"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.batching import pad
from mlux.engine.trials import MEMORY, EncodedPrompt, PromptBatch, Trial
from mlux.errors import PromptError, UnknownNameError
from mlux.methods.function_vectors import logits_with_vectors, top_heads
from mlux.methods.halves import HALVES, Halves, other_heads, outputs_at_last
from mlux.methods.scores import answer_logprob, answer_rank, scored_logits
from mlux.metrics import ACCURACY, ANSWER_PROBABILITY
from mlux.prompts import Prompt, demo_tasks, in_context, load_tasks, shuffle_labels
from mlux.registry import Cost, experiment
from mlux.results import Artifact, Fitted, Metric, RanTokens, Result, Values

MOST = 1_000  # more is a slip of the finger, and fills the memory
METRICS = (
    ACCURACY,
    ANSWER_PROBABILITY,
    Metric(
        name="indirect_effect",
        unit="probability",
        better="higher",
        description="Gain of the answer's probability in a corrupted prompt by the head's mean "
        "output over few-shot prompts of the task; its mean over prompts is the AIE.",
    ),
)


@dataclass(frozen=True, kw_only=True)
class FunctionVectorsConfig:
    """Options of function vectors."""

    n_heads: int = field(default=4, metadata={"help": "heads of largest AIE that make the vector"})
    n_shots: int = field(default=8, metadata={"help": "examples in a few-shot prompt"})
    n_prompts: int = field(default=8, metadata={"help": "few-shot prompts of each task"})
    tasks: str | None = field(
        default=None, metadata={"help": "file of word pairs by task; none: the built-in model's"}
    )
    corrupt: Literal["mixed", "shuffled"] = field(
        default="mixed",
        metadata={"help": "AIE on prompts whose examples mix tasks, or have shuffled labels"},
    )
    separator: str = field(default="\n", metadata={"help": "what stands between two examples"})
    arrow: str = field(default=" → ", metadata={"help": "what stands between query and answer"})
    natural: str | None = field(
        default="the word {x} is",
        metadata={"help": "text without examples in which the vector is tried too, or none"},
    )
    compose: tuple[str, ...] | None = field(
        default=None,
        metadata={"help": "tasks to try with the sum of others' vectors, as in c=a+b,f=d+e"},
    )
    n_random: int = field(default=3, metadata={"help": "draws of random heads as a control"})

    def __post_init__(self) -> None:
        if min(self.n_heads, self.n_shots, self.n_random) < 1:
            raise ValueError("n_heads, n_shots and n_random are at least 1")
        if max(self.n_prompts, self.n_shots, self.n_random) > MOST:
            raise ValueError(f"n_prompts, n_shots and n_random are at most {MOST}")
        if not self.separator or not self.arrow:
            raise ValueError("separator and arrow are empty; examples have to be told apart")
        if self.natural is not None and "{x}" not in self.natural:
            raise ValueError(f"natural is {self.natural!r}; say with {{x}} where the query stands")
        for entry in self.compose or ():
            whole, _, parts = entry.partition("=")
            if not whole or not all(parts.split("+")):
                raise ValueError(
                    f"compose has {entry!r}; write it as in plural_zorbic=plural+zorbic"
                )

    @property
    def compositions(self) -> dict[str, tuple[str, ...]]:
        """Task → the tasks whose vectors are summed for it."""
        pairs = (entry.partition("=") for entry in self.compose or ())
        return {whole: tuple(parts.split("+")) for whole, _, parts in pairs}


def few_shot_prompts(
    model: HookedModel, config: FunctionVectorsConfig, seed: int
) -> Sequence[Prompt]:
    """Few-shot prompts of every task, with queries that no example shows."""
    tasks = demo_tasks() if config.tasks is None else load_tasks(config.tasks)
    return in_context(
        tasks,
        n_shots=config.n_shots,
        n=config.n_prompts,
        seed=seed,
        corrupt=config.corrupt,
        separator=config.separator,
        arrow=config.arrow,
    ).prompts


@dataclass(frozen=True, kw_only=True)
class Learned:
    """What all prompts taught.

    Attributes:
        number: Prompt's content hash → its place in the run.
        vectors: Kind of vector → for each prompt its task's vector [d_model], made from others.
        effects: Layer → for each prompt the indirect effect of each head.
    """

    number: Mapping[str, int]
    vectors: Mapping[str, Sequence[mx.array | None]]
    effects: Mapping[int, Sequence[Sequence[float]]]


def _fit(
    model: HookedModel,
    config: FunctionVectorsConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
    memory: int = MEMORY,
) -> Fitted:
    tasks = [prompt.prompt.label or "" for prompt in prompts]
    corrupted = [prompt.corrupted or () for prompt in prompts]
    halves = Halves.of(tasks)
    clean_outputs = outputs_at_last(model, [prompt.ids for prompt in prompts])
    corrupted_outputs = outputs_at_last(model, corrupted)
    answers = [prompt.answer or 0 for prompt in prompts]
    effects = halves.effects(model, corrupted, answers, clean_outputs, memory=memory)
    heads = [top_heads(halves.average(effects, half), config.n_heads) for half in HALVES]
    kinds = {"function": (heads, clean_outputs), "corrupted prompts": (heads, corrupted_outputs)}
    for draw in range(1, config.n_random + 1):
        drawn = [other_heads(model, heads[half], f"{seed} {half} {draw}") for half in HALVES]
        kinds[f"random heads {draw}"] = (drawn, clean_outputs)
    made = {kind: halves.vectors(outputs, of) for kind, (of, outputs) in kinds.items()}
    if config.compose:
        made["composed"] = _composed(made["function"], config.compositions, tasks)
    state = Learned(
        number={prompt.prompt.content_hash: index for index, prompt in enumerate(prompts)},
        vectors={kind: halves.for_others(vectors) for kind, vectors in made.items()},
        effects=effects,
    )
    kept = Artifact(
        name="function_vectors",
        kind="vectors",
        arrays={f"{task} half {half}": v for (task, half), v in made["function"].items()},
        metadata={f"heads of half {half}": json.dumps(heads[half]) for half in HALVES},
    )
    return Fitted(state=state, artifacts=[kept])


def _composed(
    vectors: Mapping[tuple[str, int], mx.array],
    compositions: Mapping[str, Sequence[str]],
    tasks: Sequence[str],
) -> dict[tuple[str, int], mx.array]:
    """The sum of the parts' vectors, for each composed task."""
    for whole, parts in compositions.items():
        for task in (whole, *parts):
            if task not in tasks:
                raise UnknownNameError("task", task, tasks)
    return {
        (whole, half): mx.sum(mx.stack([vectors[part, half] for part in parts]), axis=0)
        for whole, parts in compositions.items()
        for half in HALVES
    }


def _conditions(
    config: FunctionVectorsConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    contexts = ["few_shot", "zero_shot", "corrupted"]
    contexts += ["shuffled"] * (config.corrupt == "mixed") + ["natural"] * bool(config.natural)
    controls = ["corrupted prompts", *(f"random heads {i + 1}" for i in range(config.n_random))]
    return [
        *({"context": context} for context in contexts),
        {"context": "corrupted", "patch": "each head"},
        *({"context": context, "vector": "function"} for context in contexts[1:]),
        *({"context": "zero_shot", "vector": "function", "control": name} for name in controls),
        *[{"context": "zero_shot", "vector": "composed"}] * bool(config.compose),
    ]


def _cost(
    config: FunctionVectorsConfig,
    model: Mapping[str, Any],
    condition: Mapping[str, str],
    n_tokens: int,
) -> Cost:
    if "patch" in condition:
        return Cost(forward_passes=0, values=model["n_layers"] * model["n_heads"])
    layers = model["n_layers"] if "vector" in condition else 1
    passes = 1 + layers / 2 if "vector" in condition else 1
    return Cost(forward_passes=passes, values=2 * layers)


@experiment(
    metrics=METRICS,
    prompts=few_shot_prompts,
    roles=("corrupted", "answer", "label"),
    conditions=_conditions,
    cost=_cost,
    fit=_fit,
    fit_cost=lambda config, model, n: n * (2 + model["n_heads"] * (1 + model["n_layers"] / 2)),
    sites=("resid_pre", "resid_post", "attn_out", "head"),
    paper="Todd et al. (2024), Function Vectors in Large Language Models",
)
def function_vectors(
    model: HookedModel, config: FunctionVectorsConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Which heads carry what task a few-shot prompt shows, and does their sum carry it elsewhere?

    The vector of a task is the sum of mean outputs of the heads of largest average indirect
    effect. It is added after each layer at the last token of prompts without examples, in corrupted
    examples and in natural text. No vector is tried on prompts that it was made from.
    """
    context, learned = batch.condition["context"], batch.fitted
    if "patch" in batch.condition:
        for trial in batch:
            number = learned.number[trial.encoded.prompt.content_hash]
            for layer, effects in learned.effects.items():
                yield trial, _values("indirect_effect", effects[number], layer, "head")
        return
    kind = batch.condition.get("control") or batch.condition.get("vector")
    chosen = list(_with_vectors(batch, kind))
    if not chosen:  # none of these tasks is composed
        return
    trials = [trial for trial, _ in chosen]
    rows = [_row(model, config, context, trial) for trial in trials]
    answers = mx.array([trial.encoded.answer for trial in trials])
    if context not in ("few_shot", "corrupted"):
        for trial, ids in zip(trials, rows, strict=True):
            yield trial, RanTokens(role=context, token_ids=ids)
    prompts = pad(rows)
    if kind is None:
        yield from _scored(
            trials, scored_logits(model, prompts.tokens, prompts.last), answers, None
        )
        return
    stacked = mx.stack([vector for _, vector in chosen])
    for layer, logits in logits_with_vectors(model, prompts, stacked):
        yield from _scored(trials, logits, answers, layer)


def _with_vectors(batch: PromptBatch, kind: str | None) -> Iterator[tuple[Trial, Any]]:
    """The trials, each with its vector; without those of tasks that have none of this kind."""
    for trial in batch:
        if kind is None:
            yield trial, None
            continue
        number = batch.fitted.number[trial.encoded.prompt.content_hash]
        vector = batch.fitted.vectors[kind][number]
        if vector is not None:
            yield trial, vector


def _row(
    model: HookedModel, config: FunctionVectorsConfig, context: str, trial: Trial
) -> Sequence[int]:
    """The token ids of a trial's query in a context."""
    encoded = trial.encoded
    prompt = encoded.prompt
    if context == "few_shot":
        return encoded.ids
    if context == "corrupted":
        assert encoded.corrupted is not None
        return encoded.corrupted
    if context == "zero_shot":
        return model.tokenize(prompt.text.rpartition(config.separator)[2])
    if context == "shuffled":
        return model.tokenize(
            shuffle_labels(prompt.text, separator=config.separator, arrow=config.arrow)
        )
    assert config.natural is not None
    if prompt.subject is None:
        raise PromptError(
            f"The prompt {prompt.text[-40:]!r} has no subject, so it cannot be put into "
            "natural text. Give it one, or leave that out: -p natural=none"
        )
    return model.tokenize(config.natural.replace("{x}", prompt.subject))


def _scored(
    trials: Sequence[Trial], logits: mx.array, answers: mx.array, layer: int | None
) -> Iterator[tuple[Trial, Result]]:
    right = numbers(answer_rank(logits, answers) == 0)
    probability = numbers(mx.exp(answer_logprob(logits, answers)))
    for row, trial in enumerate(trials):
        yield trial, _values("accuracy", right[row], layer)
        yield trial, _values("answer_probability", probability[row], layer)


def _values(metric: str, value: Any, layer: int | None, *axes: Any) -> Values:
    if layer is None:
        return Values(metric=metric, values=value)
    return Values(metric=metric, values=[value], axes=("layer", *axes), index={"layer": [layer]})
