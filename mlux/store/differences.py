"""What two runs do not share: options, prompts, model, code and environment."""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from mlux.prompts import PromptSet
from mlux.provenance import Environment, ModelIdentity
from mlux.store.records import StoredRun


@dataclass(frozen=True, kw_only=True, slots=True)
class Difference:
    """Something that is not the same in two runs.

    Attributes:
        part: `experiment`, `params`, `prompts`, `model`, `tokenizer`, `environment` or `versions`.
        name: What it is called there.
        a: Its value in the first run; None where it has none.
        b: Its value in the second.
    """

    part: str
    name: str
    a: Any
    b: Any

    def __str__(self) -> str:
        """As in `versions mlx: 0.31.0 → 0.32.2`."""
        return f"{self.part} {self.name}: {_short(self.a)} → {_short(self.b)}"


def differences(a: StoredRun, b: StoredRun) -> list[Difference]:
    """Everything that a number may depend on and that differs between two runs.

    When they ran, and what people said of them, does not count.
    """
    found = [
        Difference(part="experiment", name=name, a=getattr(a, name), b=getattr(b, name))
        for name in ("experiment", "code_hash")
        if getattr(a, name) != getattr(b, name)
    ]
    found += _unequal("params", a.params, b.params)
    how = ("seed", "batch_size", "memory_bytes")
    found += _unequal("run", *({name: getattr(run, name) for name in how} for run in (a, b)))
    found += of_prompts(a.prompts, b.prompts)
    found += of_models(a.model, b.model)
    found += of_environments(a.environment, b.environment)
    return found


def of_prompts(a: PromptSet, b: PromptSet) -> list[Difference]:
    """The first prompt that differs, and how many there are."""
    if a.content_hash == b.content_hash:
        return []
    found = []
    if len(a.prompts) != len(b.prompts):
        count = {"a": len(a.prompts), "b": len(b.prompts)}
        found.append(Difference(part="prompts", name="count", **count))
    for number, (one, other) in enumerate(zip(a.prompts, b.prompts, strict=False), start=1):
        if one != other:
            return found + list(_unequal(f"prompts, number {number},", asdict(one), asdict(other)))
    return found


def of_models(a: ModelIdentity, b: ModelIdentity) -> list[Difference]:
    """What differs between two models and their tokenizers; where they lie does not count."""
    places = ("name", "source", "revision", "adapter_source", "tokenizer")
    one, other = (
        {name: value for name, value in asdict(model).items() if name not in places}
        for model in (a, b)
    )
    tokenizers = (asdict(a.tokenizer), asdict(b.tokenizer))
    return [*_unequal("model", one, other), *_unequal("tokenizer", *tokenizers)]


def of_environments(a: Environment, b: Environment) -> list[Difference]:
    """Machine, git commit and package versions; the process does not count."""
    names = ("device", "host", "platform", "git_commit", "git_dirty")
    places = ({name: getattr(one, name) for name in names} for one in (a, b))
    return [*_unequal("environment", *places), *_unequal("versions", a.versions, b.versions)]


def _unequal(part: str, a: Mapping[str, Any], b: Mapping[str, Any]) -> Iterator[Difference]:
    for name in dict.fromkeys([*a, *b]):
        one, other = a.get(name), b.get(name)
        if one != other:
            yield Difference(part=part, name=name, a=one, b=other)


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    if len(text) == 64 and set(text) <= set("0123456789abcdef"):
        return text[:12]  # a hash: enough to tell two apart
    return text if len(text) <= 60 else f"{text[:57]}…"
