"""How much the unedited model favours an answer: what the baseline gate judges prompts by."""

from collections.abc import Sequence
from functools import partial

import mlx.core as mx

from mlux.engine import HookedModel
from mlux.engine.arrays import numbers
from mlux.engine.trials import MEMORY, EncodedPrompt
from mlux.errors import PromptError
from mlux.gate import Baseline, Kind, judge
from mlux.methods.budget import batches_in_budget
from mlux.methods.scores import logit_diff, scored_logits
from mlux.steps import UNKEPT, Arrays, Steps


def baselines(
    model: HookedModel,
    prompts: Sequence[EncodedPrompt],
    kind: Kind,
    *,
    min_gap: float,
    memory: int = MEMORY,
    steps: Steps = UNKEPT,
) -> tuple[Baseline, ...]:
    """Runs every prompt as it is, and its corrupted form for a `pair`.

    Args:
        model: The model.
        prompts: With the roles that the kind needs.
        kind: What is taken for granted.
        min_gap: The least difference between the two forms, in logits.
        memory: Bytes that may be held at once beside the model.
        steps: What keeps every pass.

    Raises:
        ParameterError: If one prompt alone needs more memory.

    Example:
        >>> from mlux import HookedModel, prompts
        >>> from mlux.engine.trials import encode
        >>> model = HookedModel.from_pretrained("demo")
        >>> encoded = [encode(model, prompt) for prompt in prompts.load("facts:2").prompts]
        >>> [one.unsolved for one in baselines(model, encoded, "answer", min_gap=1.0)]
        [None, None]
    """
    clean = [prompt.ids for prompt in prompts]
    leads = _leads(model, clean, prompts, kind, memory, steps, "baseline")
    corrupted: Sequence[float | None] = [None] * len(prompts)
    if kind == "pair":
        others = [prompt.corrupted or () for prompt in prompts]
        corrupted = _leads(model, others, prompts, kind, memory, steps, "corrupted_baseline")
    return tuple(
        judge(kind, lead, other, min_gap=min_gap)
        for lead, other in zip(leads, corrupted, strict=True)
    )


def _leads(
    model: HookedModel,
    texts: Sequence[Sequence[int]],
    prompts: Sequence[EncodedPrompt],
    kind: Kind,
    memory: int,
    steps: Steps,
    name: str,
) -> list[float]:
    """The answer's lead after each text; texts of one length run together, so none is padded."""

    def leads(part: Sequence[int]) -> Arrays:
        tokens = mx.array([list(texts[number]) for number in part], dtype=mx.int32)
        logits = _last_logits(model, tokens)
        answers = mx.array([prompts[number].answer for number in part])
        if kind == "answer":
            values = _over_all_others(logits, answers)
        else:
            wrong = mx.array([prompts[number].wrong_answer for number in part])
            values = logit_diff(logits, answers, wrong)
        return {"prompt": list(part), "lead": numbers(values)}

    def said(found: Arrays) -> str:
        each = zip(found["prompt"], found["lead"], strict=True)
        what = name.replace("_", " ")
        return f"{what}, lead of the answer: " + ", ".join(f"prompt {n} {x:.3g}" for n, x in each)

    by_length: dict[int, list[int]] = {}
    for number, ids in enumerate(texts):
        by_length.setdefault(len(ids), []).append(number)
    found: dict[int, float] = {}
    for seq, alike in by_length.items():
        rows = _rows_in_budget(model, len(alike), seq, memory)
        for start in range(0, len(alike), rows):
            part = alike[start : start + rows]
            step = steps.once(f"{name}.{part[0]}-{part[-1]}", partial(leads, part), said)
            found |= dict(zip(part, map(float, step["lead"]), strict=True))
    return [found[number] for number in range(len(texts))]


def _rows_in_budget(model: HookedModel, n_prompts: int, seq: int, memory: int) -> int:
    def trial(rows: int) -> None:
        mx.eval(_last_logits(model, mx.zeros((rows, seq), dtype=mx.int32)))

    return batches_in_budget(
        model, trial, key=("baseline", seq), budget=memory, groups=[n_prompts], seq=seq
    ).rows


def _last_logits(model: HookedModel, tokens: mx.array) -> mx.array:
    """[rows, vocab_size] after texts of equal length, [rows, seq]."""
    last = mx.full((tokens.shape[0],), tokens.shape[1] - 1, dtype=mx.int32)
    return scored_logits(model, tokens, last)


def _over_all_others(logits: mx.array, answers: mx.array) -> mx.array:
    """logit(answer) - the largest other logit, [rows]; below 0 if another token is on top."""
    logits = logits.astype(mx.float32)
    is_answer = mx.arange(logits.shape[-1])[None] == answers[:, None]
    answer = mx.max(mx.where(is_answer, logits, -mx.inf), axis=-1)
    return answer - mx.max(mx.where(is_answer, -mx.inf, logits), axis=-1)


def differ(clean: float, corrupted: float) -> bool:
    """Whether two logit differences are apart by more than rounding.

    Example:
        >>> differ(1.0, 1.0000001), differ(1.0, 2.0)
        (False, True)
    """
    return abs(clean - corrupted) > 1e-6 * max(1.0, abs(clean))


def require_difference(clean: float, corrupted: float) -> None:
    """Stops what would be divided by a difference that is only rounding.

    Raises:
        PromptError: If two runs have the same logit difference.

    Example:
        >>> require_difference(1.0, 2.0)
    """
    if not differ(clean, corrupted):
        raise PromptError(
            f"The clean and the corrupted prompt have the same logit difference ({clean:.3g}), "
            "so no effect can be normalised."
        )
