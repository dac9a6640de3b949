"""What has to be known of a run to compare it: less than the whole run, and many at once."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from mlux.gate import sentence
from mlux.store.reader import param

_FACTS = """
SELECT r.uid, e.name AS experiment, m.label AS model, s.name AS prompts,
  s.content_hash AS prompts_hash, r.seed, r.code_hash, r.status, m.quant_bits, m.quant_group_size,
  m.n_layers, m.dtype,
  (SELECT count(*) FROM trials AS t WHERE t.run_id = r.id AND t.status <> 'done') AS missing,
  (SELECT count(DISTINCT t.prompt_id) FROM trials AS t WHERE t.run_id = r.id) AS n_prompts,
  (SELECT count(DISTINCT t.prompt_id) FROM trials AS t WHERE t.run_id = r.id
    AND t.status = 'done' AND t.error IS NOT NULL) AS n_unsolved
FROM runs AS r
JOIN experiments AS e ON e.id = r.experiment_id
JOIN models AS m ON m.id = r.model_id
JOIN prompt_sets AS s ON s.id = r.prompt_set_id
WHERE r.id IN :runs
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunFacts:
    """A run as far as a comparison asks.

    Attributes:
        uid: Its name.
        prompts: The name of its prompt set.
        prompts_hash: Of the prompts in their order.
        quant_bits: The width of the model's weights; None if they are not quantised.
        n_layers: How deep the model is.
        dtype: What the model computes in.
        missing: How many trials are not done.
        n_unsolved: Prompts, of `n_prompts`, that did not pass the baseline gate.
        params: The experiment's options.
    """

    uid: str
    experiment: str
    model: str
    prompts: str
    prompts_hash: str
    seed: int
    code_hash: str
    status: str
    quant_bits: int | None
    quant_group_size: int | None
    n_layers: int
    dtype: str
    missing: int
    n_prompts: int
    n_unsolved: int
    params: Mapping[str, Any]

    @property
    def gate_sentence(self) -> str | None:
        """What a person has to know of the prompts that are not solved; None if all are."""
        kept = bool(self.params.get("keep_unsolved"))
        return sentence(self.n_unsolved, self.n_prompts, kept=kept)

    @property
    def width(self) -> str:
        """How the model's weights are stored, in words."""
        if self.quant_bits is None:
            return "not quantised"
        return f"quantised to {self.quant_bits} bits (groups of {self.quant_group_size})"


def run_facts(
    connection: sa.Connection, keys: Mapping[str, int], crashed: Collection[str] = ()
) -> list[RunFacts]:
    """The facts of each run, in the order of `keys`.

    Args:
        connection: An open connection.
        keys: Uid → key of the runs.
        crashed: The runs whose process is gone, whatever the notebook says.
    """
    runs = {"runs": list(keys.values())}
    expanding: sa.BindParameter[Any] = sa.bindparam("runs", expanding=True)
    options: dict[str, dict[str, Any]] = {uid: {} for uid in keys}
    query = sa.text(
        "SELECT r.uid, p.name, p.value FROM run_params AS p JOIN runs AS r ON r.id = p.run_id "
        "WHERE r.id IN :runs"
    ).bindparams(expanding)
    for uid, name, value in connection.execute(query, runs):
        options[uid][name] = param(value)
    rows = connection.execute(sa.text(_FACTS).bindparams(expanding), runs).mappings().all()
    found = {
        row["uid"]: RunFacts(
            **row
            | {"params": options[row["uid"]]}
            | ({"status": "crashed"} if row["uid"] in crashed else {})
        )
        for row in map(dict, rows)
    }
    return [found[uid] for uid in keys]
