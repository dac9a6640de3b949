"""Where runs come from, as a table: a row a fact, a column a run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlux.params import as_text
from mlux.store.records import StoredRun


@dataclass(frozen=True, kw_only=True)
class Fact:
    """One fact of every run.

    Attributes:
        values: As text, in the order of the runs; empty where a run has none.
        differs: Whether the runs differ in it, and it was set up so: no two take the same time.
    """

    name: str
    values: tuple[str, ...]
    differs: bool


def facts(runs: Sequence[StoredRun]) -> tuple[Fact, ...]:
    """What is known of where these runs come from; what none of them has is left out."""
    rows = [(name, [read(run) for run in runs]) for name, read in _FACTS.items()]
    rows += _named("param", runs, lambda run: {k: as_text(v) for k, v in run.params.items()})
    rows += _named("tag", runs, lambda run: run.tags)
    rows += _named("version", runs, lambda run: run.versions)
    return tuple(
        Fact(
            name=name,
            values=tuple(values),
            differs=len(set(values)) > 1 and name not in _ALWAYS_DIFFER,
        )
        for name, values in rows
        if any(values)
    )


def _named(
    kind: str, runs: Sequence[StoredRun], read: Callable[[StoredRun], object]
) -> list[tuple[str, list[str]]]:
    """A row for each name that occurs, such as each parameter."""
    found: list[dict[str, str]] = [dict(read(run)) for run in runs]  # type: ignore[call-overload] # mappings
    names = sorted({name for row in found for name in row})
    return [(f"{kind} {name}", [row.get(name, "") for row in found]) for name in names]


def _quantised(run: StoredRun) -> str:
    bits, group = run.model.quant_bits, run.model.quant_group_size
    return f"{bits} bits, groups of {group}" if bits else "no"


def _commit(run: StoredRun) -> str:
    commit = run.environment.git_commit or ""
    return f"{commit[:12]}{' with changes' if run.environment.git_dirty else ''}" if commit else ""


def _memory(run: StoredRun) -> str:
    return f"{run.peak_memory_bytes / 1e6:.0f} MB" if run.peak_memory_bytes else ""


def _trials(run: StoredRun) -> str:
    failed = run.counts.get("failed", 0)
    return f"{run.counts['done']}/{len(run.trials)}{f', {failed} failed' if failed else ''}"


_ALWAYS_DIFFER = ("started", "computing", "peak memory", "hook calls", "note", "trials")
_FACTS: dict[str, Callable[[StoredRun], str]] = {
    "experiment": lambda run: run.experiment,
    "status": lambda run: run.status,
    "trials": _trials,
    "note": lambda run: run.note or "",
    "model": lambda run: run.model_label,
    "model from": lambda run: run.model.source,
    "revision": lambda run: run.model.revision or "",
    "adapter": lambda run: run.model.adapter_source or "",
    "architecture": lambda run: (
        f"{run.model.model_type}: {run.model.n_layers} layers, {run.model.n_heads} heads, "
        f"d_model {run.model.d_model}, {run.model.n_parameters / 1e6:,.1f} M parameters"
    ),
    "quantised": _quantised,
    "dtype": lambda run: run.model.dtype,
    "weights": lambda run: run.model.weights_hash[:12],
    "tokenizer": lambda run: run.model.tokenizer.content_hash[:12],
    "chat template": lambda run: (run.model.tokenizer.chat_template_hash or "")[:12],
    "prompts": lambda run: f"{run.prompts.name}, {len(run.prompts.prompts)} prompts",
    "prompts' hash": lambda run: run.prompts.content_hash[:12],
    "seed": lambda run: str(run.seed),
    "batch size": lambda run: str(run.batch_size or ""),
    "experiment's code": lambda run: run.code_hash[:12],
    "git commit": _commit,
    "device": lambda run: run.environment.device,
    "platform": lambda run: run.environment.platform,
    "started": lambda run: (run.started_at or "")[:19],
    "computing": lambda run: f"{run.seconds:.1f} s" if run.seconds is not None else "",
    "peak memory": _memory,
    "hook calls": lambda run: f"{run.hook_fires:,}" if run.hook_fires else "",
}
