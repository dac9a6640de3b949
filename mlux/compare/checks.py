"""What makes a comparison invalid, with the reason, and what merely has to be kept in mind."""

from collections.abc import Mapping, Sequence

import sqlalchemy as sa

from mlux.compare.facts import RunFacts
from mlux.errors import RunError


def check_quantization(sides: Sequence[Sequence[RunFacts]], across: bool) -> None:
    """Refuses models of different precision unless that is what is asked.

    Raises:
        RunError: If their weights have different widths and `across` is false.
    """
    if across:
        return
    first = sides[0][0]
    for run in (run for side in sides for run in side):
        if run.width != first.width:
            raise RunError(
                f"{first.model} is {first.width}, {run.model} is {run.width}: a "
                "difference may be due to that alone. If that is the question, say so: "
                "across_quantization=True, or mlux compare --across-quantization."
            )


def check_replicates(side: Sequence[RunFacts]) -> None:
    """Refuses to take runs together that differ in more than their seed.

    Raises:
        RunError: If they differ in experiment, model, prompts or params, or share a seed.
    """
    first = side[0]
    for run in side[1:]:
        for name, mine, its in (
            ("experiment", first.experiment, run.experiment),
            ("model", first.model, run.model),
            ("prompts", first.prompts_hash, run.prompts_hash),
            ("params", first.params, run.params),
        ):
            if mine != its:
                raise RunError(
                    f"Runs {first.uid} and {run.uid} are no replicates: they differ in {name}. "
                    "Runs taken together may differ in their seed alone; "
                    "see in what they do: compare.params_diff."
                )
    seeds = [run.seed for run in side]
    if len(set(seeds)) < len(seeds):
        raise RunError(
            f"Runs {', '.join(run.uid for run in side)} are no replicates: two have the same seed."
        )


def check_metric(connection: sa.Connection, keys: Mapping[str, int], metric: str) -> list[str]:
    """Notes on a metric whose definition changed; refuses one that means something else.

    Raises:
        RunError: If the metric has another unit or direction in one of the runs.
    """
    query = sa.text(
        "SELECT r.uid, k.unit, k.better, k.description FROM run_metrics AS m "
        "JOIN metrics AS k ON k.id = m.metric_id JOIN runs AS r ON r.id = m.run_id "
        "WHERE m.run_id IN :runs AND k.name = :metric"
    ).bindparams(sa.bindparam("runs", expanding=True))
    rows = connection.execute(query, {"runs": list(keys.values()), "metric": metric}).all()
    found = {uid: (unit, better, description) for uid, unit, better, description in rows}
    if len({means[:2] for means in found.values()}) > 1:
        said = "; ".join(
            f"in {uid} it is in {unit or 'no unit'}, better {better}"
            for uid, (unit, better, _) in found.items()
        )
        raise RunError(f"{metric} does not mean the same in these runs: {said}.")
    if len(set(found.values())) > 1:
        said = "; ".join(f"{uid}: {description}" for uid, (*_, description) in found.items())
        return [f"{metric} is described differently ({said})."]
    return []


def notes(a: Sequence[RunFacts], b: Sequence[RunFacts]) -> list[str]:
    """What a person should know before believing a difference."""
    found = []
    first, second = a[0], b[0]
    if first.width != second.width:
        found.append(
            f"{first.model} is {first.width}, {second.model} is {second.width}: "
            "part of a difference may be due to that."
        )
    if first.experiment == second.experiment and first.code_hash != second.code_hash:
        found.append(f"The code of {first.experiment} changed between the two runs.")
    for run in (*a, *b):
        if run.status != "done":
            found.append(f"Run {run.uid} is {run.status}; {run.missing} trials are missing.")
        if run.gate_sentence:
            found.append(f"Run {run.uid}: {run.gate_sentence}")
    return list(dict.fromkeys(found))
