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
from mlux.errors import ParameterError, PromptError
from mlux.methods.composition import Composition, composed
from mlux.methods.function_vectors import logits_with_vectors, top_heads
from mlux.methods.halves import HALVES, Halves, other_heads, outputs_at_last
from mlux.methods.patching import every_head
from mlux.methods.scores import answer_logprob, answer_rank, scored_logits
from mlux.metrics import ACCURACY, ANSWER_PROBABILITY
from mlux.prompts import (
    Prompt,
    demo_tasks,
    in_context,
    load_tasks,
    mix_examples,
    shuffle_labels,
)
from mlux.registry import Cost, experiment
from mlux.results import Artifact, Fitted, Metric, RanTokens, Result, Values
from mlux.steps import UNKEPT, Steps

MOST = 1_000  # more is a slip of the finger, and fills the memory
METRICS = (
    ACCURACY,
    ANSWER_PROBABILITY,
    Metric(
        name="probability_gain",
        unit="probability difference",
        better="higher",
        description="The answer's probability with the vector minus without, in the same prompt.",
    ),
    Metric(
        name="indirect_effect",
        unit="probability difference",
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
        metadata={"help": "tasks to try with a signed sum of others' vectors, as in d=a+b-c"},
    )
    n_random: int = field(
        default=3,
        metadata={
            "help": "draws of random heads as a control without examples; elsewhere it is one"
        },
    )

    def __post_init__(self) -> None:
        if min(self.n_heads, self.n_shots, self.n_random) < 1:
            raise ValueError("n_heads, n_shots and n_random are at least 1")
        if max(self.n_prompts, self.n_shots, self.n_random) > MOST:
            raise ValueError(f"n_prompts, n_shots and n_random are at most {MOST}")
        if not self.separator or not self.arrow:
            raise ValueError("separator and arrow are empty; examples have to be told apart")
        if self.natural is not None and "{x}" not in self.natural:
            raise ValueError(f"natural is {self.natural!r}; say with {{x}} where the query stands")
        composed_tasks = [one.task for one in self.compositions]
        for task in composed_tasks:
            if composed_tasks.count(task) > 1:
                raise ValueError(f"compose has {task!r} twice; give one sum for each task")

    @property
    def compositions(self) -> list[Composition]:
        """The signed sums of vectors that are tried on tasks."""
        return [Composition.of(entry) for entry in self.compose or ()]


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
        mixed: For each prompt its query after other tasks' examples, where nothing else has that.
    """

    number: Mapping[str, int]
    vectors: Mapping[str, Sequence[mx.array | None]]
    effects: Mapping[int, Sequence[Sequence[float]]]
    mixed: Sequence[str | None]


def _check(
    model: HookedModel,
    config: FunctionVectorsConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
) -> None:
    tasks = [prompt.prompt.label or "" for prompt in prompts]
    for one in config.compositions:
        one.terms(tasks)
    if config.corrupt == "shuffled":
        texts = [prompt.prompt for prompt in prompts]
        mix_examples(texts, separator=config.separator, arrow=config.arrow, seed=seed)
    Halves.of(tasks)
    n_heads: int = len(every_head(model))
    if config.n_heads > n_heads:
        raise ParameterError(f"n_heads is {config.n_heads}; this model has {n_heads} heads.")


def _fit(
    model: HookedModel,
    config: FunctionVectorsConfig,
    prompts: Sequence[EncodedPrompt],
    seed: int,
    memory: int = MEMORY,
    solved: Sequence[bool] = (),
    steps: Steps = UNKEPT,
) -> Fitted:
    tasks = [prompt.prompt.label or "" for prompt in prompts]
    sums = {one.task: one.terms(tasks) for one in config.compositions}
    corrupted = [prompt.corrupted or () for prompt in prompts]
    mixed: list[str | None] = []
    if config.corrupt == "shuffled":
        texts = [prompt.prompt for prompt in prompts]
        mixed = mix_examples(texts, separator=config.separator, arrow=config.arrow, seed=seed)
    halves = Halves.of(tasks)
    clean_outputs = outputs_at_last(model, [prompt.ids for prompt in prompts])
    corrupted_outputs = outputs_at_last(model, corrupted)
    answers = [prompt.answer or 0 for prompt in prompts]
    effects = halves.effects(model, corrupted, answers, clean_outputs, memory=memory, steps=steps)
    heads = [top_heads(halves.average(effects, half, solved), config.n_heads) for half in HALVES]
    kinds = {"function": (heads, clean_outputs), "corrupted prompts": (heads, corrupted_outputs)}
    for draw in range(1, config.n_random + 1):
        drawn = [other_heads(model, heads[half], f"{seed} {half} {draw}") for half in HALVES]
        kinds[f"random heads {draw}"] = (drawn, clean_outputs)
    made = {kind: halves.vectors(outputs, of) for kind, (of, outputs) in kinds.items()}
    if sums:
        made["composed"] = composed(made["function"], sums, HALVES)
    state = Learned(
        number={prompt.prompt.content_hash: index for index, prompt in enumerate(prompts)},
        vectors={kind: halves.for_others(vectors) for kind, vectors in made.items()},
        effects=effects,
        mixed=mixed,
    )
    kept = [
        Artifact(
            name=f"{kind}_vectors",
            kind="vectors",
            arrays={f"{task} half {half}": v for (task, half), v in made[kind].items()},
            metadata={f"heads of half {half}": json.dumps(heads[half]) for half in HALVES},
        )
        for kind in ("function", "composed")
        if kind in made
    ]
    return Fitted(state=state, artifacts=kept)


def _conditions(
    config: FunctionVectorsConfig, model: Mapping[str, Any]
) -> Sequence[Mapping[str, str]]:
    other = "shuffled" if config.corrupt == "mixed" else "mixed"
    contexts = ["zero_shot", "corrupted", other, *["natural"] * bool(config.natural)]
    controls = ["corrupted prompts", *(f"random heads {i + 1}" for i in range(config.n_random))]
    with_vectors = [{"context": context, "vector": "function"} for context in contexts]
    return [
        *({"context": context} for context in ("few_shot", *contexts)),
        {"context": "corrupted", "patch": "each head"},
        *with_vectors,
        *({**with_vectors[0], "control": name} for name in controls),
        *({**condition, "control": "random heads 1"} for condition in with_vectors[1:]),
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
    if "vector" not in condition:
        return Cost(forward_passes=1, values=2)
    layers = model["n_layers"]
    passes = 1 + (layers + 1) / n_tokens
    return Cost(forward_passes=passes, unembedded=layers + 2, values=3 * layers)


def _fit_cost(
    config: FunctionVectorsConfig, model: Mapping[str, Any], n_prompts: int, n_tokens: float
) -> Cost:
    # Each head in a row of its own, which computes the last token alone; once edited, once not.
    heads: int = model["n_layers"] * model["n_heads"]
    effects = Cost(forward_passes=2 * heads / n_tokens, unembedded=2 * heads, rows=heads / n_tokens)
    return (Cost(forward_passes=3, unembedded=2) + effects) * n_prompts


@experiment(
    metrics=METRICS,
    prompts=few_shot_prompts,
    roles=("corrupted", "answer", "label"),
    gate="answer",
    conditions=_conditions,
    cost=_cost,
    check=_check,
    fit=_fit,
    fit_cost=_fit_cost,
    sites=("resid_pre", "resid_post", "attn_out", "head"),
    paper="Todd et al. (2024), Function Vectors in Large Language Models",
)
def function_vectors(
    model: HookedModel, config: FunctionVectorsConfig, batch: PromptBatch
) -> Iterator[tuple[Trial, Result]]:
    """Which heads carry what task a few-shot prompt shows, and does their sum carry it elsewhere?

    The vector of a task is the sum of mean outputs of the heads of largest average indirect
    effect. It is added after each layer at the last token of prompts without examples, in corrupted
    examples and in natural text, each with a control of random heads. No vector is tried on prompts
    that it was made from.
    """
    context, learned = batch.condition["context"], batch.fitted
    if "patch" in batch.condition:
        for trial in batch:
            number = learned.number[trial.encoded.prompt.content_hash]
            for layer, effects in learned.effects.items():
                yield trial, _values("indirect_effect", effects[number], layer, "head")
        return
    kind = batch.condition.get("control") or batch.condition.get("vector")
    chosen = [
        (trial, row, vector)
        for trial in batch
        if (vector := _vector(learned, trial, kind)) is not False
        and (row := _row(model, config, context, trial, learned)) is not None
    ]
    if not chosen:  # none of these tasks is composed, or there are no others to mix with
        return
    trials = [trial for trial, _, _ in chosen]
    rows = [row for _, row, _ in chosen]
    answers = mx.array([trial.encoded.answer for trial in trials])
    if context not in ("few_shot", "corrupted"):
        for trial, ids in zip(trials, rows, strict=True):
            yield trial, RanTokens(role=context, token_ids=ids)
    prompts = pad(rows)
    if kind is None:
        logits = scored_logits(model, prompts.tokens, prompts.last)
        yield from _scored(trials, logits, answers)
        return
    stacked = mx.stack([vector for _, _, vector in chosen])
    without: mx.array | None = None
    for layer, logits in logits_with_vectors(model, prompts, stacked):
        if layer is None:
            without = logits
            continue
        yield from _scored(trials, logits, answers, layer, without)


def _vector(learned: Learned, trial: Trial, kind: str | None) -> Any:
    """The trial's vector of a kind; None if it gets none, False if its task has none."""
    if kind is None:
        return None
    vector = learned.vectors[kind][learned.number[trial.encoded.prompt.content_hash]]
    return False if vector is None else vector


def _row(
    model: HookedModel,
    config: FunctionVectorsConfig,
    context: str,
    trial: Trial,
    learned: Learned,
) -> Sequence[int] | None:
    """The token ids of a trial's query in a context; None if it has no such context."""
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
    if context == "mixed":
        mixed = learned.mixed[learned.number[prompt.content_hash]]
        return None if mixed is None else model.tokenize(mixed)
    assert config.natural is not None
    if prompt.subject is None:
        raise PromptError(
            f"The prompt {prompt.text[-40:]!r} has no subject, so it cannot be put into "
            "natural text. Give it one, or leave that out: -p natural=none"
        )
    return model.tokenize(config.natural.replace("{x}", prompt.subject))


def _scored(
    trials: Sequence[Trial],
    logits: mx.array,
    answers: mx.array,
    layer: int | None = None,
    without: mx.array | None = None,
) -> Iterator[tuple[Trial, Result]]:
    right = numbers(answer_rank(logits, answers) == 0)
    probability = mx.exp(answer_logprob(logits, answers))
    values = {"accuracy": right, "answer_probability": numbers(probability)}
    if without is not None:
        before = mx.exp(answer_logprob(without, answers))
        values["probability_gain"] = numbers(probability - before)
    for row, trial in enumerate(trials):
        for metric, of_rows in values.items():
            yield trial, _values(metric, of_rows[row], layer)


def _values(metric: str, value: Any, layer: int | None, *axes: Any) -> Values:
    if layer is None:
        return Values(metric=metric, values=value)
    return Values(metric=metric, values=[value], axes=("layer", *axes), index={"layer": [layer]})
