"""The refusal direction from a set of labelled prompts: dealt, learned from, chosen on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mlux.engine import HookedModel
from mlux.engine.batching import encode_text
from mlux.engine.trials import EncodedPrompt
from mlux.errors import ParameterError
from mlux.methods.refusal import Candidate, candidate_directions, select, validate
from mlux.methods.splits import stratified_split
from mlux.prompts import Prompt
from mlux.steps import UNKEPT, Steps

TRAIN, VALIDATION, TEST = 0, 1, 2


@dataclass(frozen=True, kw_only=True)
class RefusalDirection:
    """The chosen direction, and how it was found.

    Attributes:
        splits: Train, validation or test, for each prompt.
        validated: A validation prompt's place in the scores of the candidates.
        candidates: Every direction with its scores.
        chosen: The best of them.
        tokens: Tokens that begin a refusal.
    """

    splits: Mapping[Prompt, int]
    validated: Mapping[Prompt, int]
    candidates: Sequence[Candidate]
    chosen: Candidate
    tokens: Sequence[int]


def learn_refusal(
    model: HookedModel,
    encoded: Sequence[EncodedPrompt],
    *,
    labels: tuple[str, str],
    shares: tuple[float, float],
    positions: int,
    most_kl: float,
    refusals: Sequence[str],
    seed: int,
    steps: Steps = UNKEPT,
) -> RefusalDirection:
    """Learns candidates on some prompts and chooses on others; see `mlux.methods.refusal`.

    Args:
        model: The model.
        encoded: The prompts. Those of other labels are for the test.
        labels: Of what is refused, and of what is answered.
        shares: Of each label's prompts for training, and for validation.
        positions: How many last tokens to read candidates at.
        most_kl: As in `select`.
        refusals: How refusals begin; used where the harmful prompts have no answers.
        seed: Of the dealing.
        steps: What keeps each candidate.

    Raises:
        ParameterError: If a label has too few prompts, a prompt too few tokens, or no direction
            qualifies.

    Example:
        >>> from mlux import prompts
        >>> from mlux.engine.trials import encode
        >>> model = HookedModel.from_pretrained("demo")
        >>> found = learn_refusal(
        ...     model,
        ...     [encode(model, prompt) for prompt in prompts.load("requests").prompts],
        ...     labels=("harmful", "harmless"),
        ...     shares=(0.4, 0.2),
        ...     positions=1,
        ...     most_kl=0.1,
        ...     refusals=["sorry"],
        ...     seed=0,
        ... )
        >>> found.chosen.position
        -1
    """
    splits = split(encoded, labels, shares, seed)
    require_length(encoded, positions)

    def part(label: str, split: int) -> list[EncodedPrompt]:
        own = [one for one in encoded if one.prompt.label == label]
        return [one for one in own if splits[one.prompt] == split]

    taught = [[one.ids for one in part(label, TRAIN)] for label in labels]
    chosen_on = [part(label, VALIDATION) for label in labels]
    harmful, harmless = ([one.ids for one in of_label] for of_label in chosen_on)
    tokens = _refusal_tokens(model, encoded, labels[0], refusals)
    n_layers: int = model.config["n_layers"]
    directions = candidate_directions(
        model, taught[0], taught[1], layers=range(n_layers), positions=range(-positions, 0)
    )
    candidates = validate(model, directions, harmful, harmless, tokens, steps)
    return RefusalDirection(
        splits=splits,
        validated={
            one.prompt: number for of_label in chosen_on for number, one in enumerate(of_label)
        },
        candidates=candidates,
        chosen=select(candidates, n_layers=n_layers, most_kl=most_kl),
        tokens=tokens,
    )


def require_length(encoded: Sequence[EncodedPrompt], positions: int) -> None:
    """Stops a search that would read candidates before a prompt's first token.

    Raises:
        ParameterError: If a prompt has fewer tokens than candidates are read at.

    Example:
        >>> from mlux import HookedModel, prompts
        >>> from mlux.engine.trials import encode
        >>> model = HookedModel.from_pretrained("demo")
        >>> require_length([encode(model, one) for one in prompts.load("facts:2").prompts], 2)
    """
    shortest = min(len(one.ids) for one in encoded)
    if shortest < positions:
        raise ParameterError(f"A prompt has {shortest} tokens; positions is {positions}.")


def split(
    encoded: Sequence[EncodedPrompt],
    labels: tuple[str, str],
    shares: tuple[float, float],
    seed: int,
) -> dict[Prompt, int]:
    """Prompt → train, validation or test, dealt within each label.

    Raises:
        ParameterError: If a label has too few prompts for all three.

    Example:
        >>> from collections import Counter
        >>> from mlux import HookedModel, prompts
        >>> from mlux.engine.trials import encode
        >>> model = HookedModel.from_pretrained("demo")
        >>> encoded = [encode(model, one) for one in prompts.load("requests:40").prompts]
        >>> parts = split(encoded, ("harmful", "harmless"), (0.4, 0.2), seed=0)
        >>> sorted(Counter(parts.values()).items())
        [(0, 16), (1, 8), (2, 16)]
    """
    own = [one.prompt.label for one in encoded]
    parts = stratified_split(own, shares, seed)
    for label in labels:
        found = {part for part, other in zip(parts, own, strict=True) if other == label}
        if found != {TRAIN, VALIDATION, TEST}:
            raise ParameterError(
                f"{own.count(label)} prompts have the label {label!r}, too few to learn from, "
                "choose on and test. The prompts' labels: "
                f"{', '.join(sorted(set(map(str, own))))}."
            )
    return {one.prompt: part for one, part in zip(encoded, parts, strict=True)}


def _refusal_tokens(
    model: HookedModel, encoded: Sequence[EncodedPrompt], harmful: str, refusals: Sequence[str]
) -> list[int]:
    """The answers of the harmful prompts where they have some, else the first of each refusal."""
    answers = {one.answer for one in encoded if one.prompt.label == harmful}
    tokens = answers - {None} or {
        encode_text(model.tokenizer, text, add_bos=False)[0] for text in refusals
    }
    return sorted(token for token in tokens if token is not None)
