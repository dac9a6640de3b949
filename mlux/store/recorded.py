"""What a run stored for some of its trials, as plain values that can be compared."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import sqlalchemy as sa

from mlux.results import Generation, TopTokens, Values
from mlux.store.records import FinishedTrial
from mlux.store.session import Store


class Place(NamedTuple):
    """Where a value belongs: what it is, of which trial, at which layer, head and position.

    A top token's is named `rank N` and its probability `logprob N`; a text `generation`, with the
    sample as position; the ids that were run `ROLE tokens`. −1 is none.
    """

    trial: int
    layer: int
    head: int
    position: int
    name: str


Recorded = dict[Place, Any]


def recorded(store: Store, uid: str, trials: Sequence[int]) -> Recorded:
    """What is stored of these trials of a run: numbers, token ids and texts by their place."""
    found: Recorded = {}
    with store.reading() as connection:
        for query, name in _QUERIES:
            statement = sa.text(query).bindparams(sa.bindparam("trials", expanding=True))
            for start in range(0, len(trials), 30_000):
                values = {"uid": uid, "trials": list(trials[start : start + 30_000])}
                for row in connection.execute(statement, values):
                    found |= name(*row)
    return found


def computed(finished: Iterable[FinishedTrial]) -> Recorded:
    """The same of trials that have just been computed."""
    found: Recorded = {}
    for done in finished:
        for role, ids in done.tokens.items():
            found |= {Place(done.trial, -1, -1, i, f"{role} tokens"): t for i, t in enumerate(ids)}
        for result in done.results:
            if isinstance(result, Values):
                rows = result.rows()
                found |= {Place(done.trial, *row[:3], result.metric): row[3] for row in rows}
            elif isinstance(result, TopTokens):
                pairs = zip(result.token_ids, result.logprobs, strict=True)
                for rank, (token, logprob) in enumerate(pairs):
                    found |= _top(done.trial, result.layer, result.position, rank, token, logprob)
            elif isinstance(result, Generation):
                found[Place(done.trial, -1, -1, result.sample, "generation")] = " ".join(
                    map(str, result.token_ids)
                )
    return found


def _value(trial: int, layer: int, head: int, position: int, name: str, value: float) -> Recorded:
    return {Place(trial, layer, head, position, name): value}


def _top(trial: int, layer: int, position: int, rank: int, token: int, logprob: float) -> Recorded:
    return {
        Place(trial, layer, -1, position, f"rank {rank}"): token,
        Place(trial, layer, -1, position, f"logprob {rank}"): logprob,
    }


def _token(trial: int, role: str, position: int, token: int) -> Recorded:
    return {Place(trial, -1, -1, position, f"{role} tokens"): token}


def _text(trial: int, sample: int, ids: str) -> Recorded:
    return {Place(trial, -1, -1, sample, "generation"): ids}


_OF = "JOIN runs AS r ON r.id = v.run_id WHERE r.uid = :uid AND v.trial IN :trials"
_TOKEN = "JOIN tokens AS k ON k.id = v.token"
_QUERIES: tuple[tuple[str, Any], ...] = (
    (
        "SELECT v.trial, v.layer, v.head, v.position, m.name, v.value FROM layer_results AS v "
        f"JOIN metrics AS m ON m.id = v.metric_id {_OF}",
        _value,
    ),
    (
        "SELECT v.trial, v.layer, v.position, v.rank, k.token_id, v.logprob "
        f"FROM token_predictions AS v {_TOKEN} {_OF}",
        _top,
    ),
    (
        f"SELECT v.trial, v.role, v.position, k.token_id FROM trial_tokens AS v {_TOKEN} {_OF}",
        _token,
    ),
    (f"SELECT v.trial, v.sample, v.token_ids FROM generations AS v {_OF}", _text),
)
