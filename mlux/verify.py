"""Does a stored run still give the same numbers, and if not, what has changed?

The run is computed again, value by value beside what is stored, and nothing is written. What a
number may depend on is compared too: code, weights, tokenizer, chat template, prompts and versions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from tqdm import tqdm

from mlux.batches import run_batch
from mlux.errors import RunError
from mlux.plan import Prepared, device_name
from mlux.provenance import ModelIdentity, environment
from mlux.runner import prepare_again
from mlux.store import Store, StoredRun, default_location
from mlux.store.differences import Difference, of_environments, of_models
from mlux.store.reader import load_run, resolve_run
from mlux.store.recorded import Place, Recorded, computed, recorded

TOLERANCES = {"float32": 1e-4, "float16": 1e-2, "bfloat16": 5e-2}
"""How far two computations of a value may lie apart, as a part of it, or of 1 if it is smaller."""
OF_ANOTHER_DEVICE = 100.0
"""The same in float32 on another kind of device, whose products may have TF32's 10 bits."""
OF_RANKS = 0.02
"""The same for ranks: far from the top, many tokens are as good as equally probable."""
OF_RANKS_ELSEWHERE = 0.05
"""The same on another kind of device, where any rank may also be one more or less."""
OF_QUANTIZED = 4.0
"""The same for quantised weights, whose products are summed in another order."""

_PLACES = ("host", "platform", "git_commit", "git_dirty")


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """A value that is not what was stored.

    Attributes:
        place: Its trial, layer, head, position and name.
        stored: What the run stored; None if it stored nothing there.
        computed: What is computed now; None if nothing is.
    """

    place: Place
    stored: Any
    computed: Any

    def __str__(self) -> str:
        """As in `trial 3, layer 2, head 1, logit_diff: 0.5 → 0.7`."""
        axes = {"layer": self.place.layer, "head": self.place.head, "position": self.place.position}
        where = [f"trial {self.place.trial}"]
        where += [f"{name} {number}" for name, number in axes.items() if number >= 0]
        return f"{', '.join(where)}, {self.place.name}: {self.stored} → {self.computed}"


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What came out of computing a run again.

    Attributes:
        uid: The run.
        n_trials: Trials that were computed again.
        n_values: Numbers, token ids and texts that were compared.
        n_different: How many of them differ by more than the tolerance.
        largest: The largest difference, as a part of the value or of 1.
        tolerance: What was allowed.
        first: The first that differs, by trial, layer and head.
        changed: What a number may depend on and is no longer as it was.
    """

    uid: str
    n_trials: int
    n_values: int
    n_different: int
    largest: float
    tolerance: float
    first: Divergence | None
    changed: tuple[Difference, ...]


def verify(reference: str, *, db: str | Path | None = None, progress: bool = False) -> Verification:
    """Computes a run again and compares every value with what is stored.

    Args:
        reference: The run's uid, a unique prefix of it, `latest` or `latest:EXPERIMENT`.
        db: The database.
        progress: Whether to show a progress bar on stderr.

    Example:
        >>> import tempfile
        >>> from mlux import run_experiment
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     db = f"{folder}/mlux.db"
        ...     run = run_experiment("logit_lens", model="demo", prompts="facts:4", db=db)
        ...     verify(run.uid, db=db).n_different
        0

    Raises:
        RunError: If no trial of the run is done.
        MluxError: If the experiment or the model is no longer there.
    """
    with Store.open(db or default_location()) as store:
        stored = load_run(store, resolve_run(store, reference))
        done = set(range(len(stored.trials))) - set(stored.pending)
        if not done:
            raise RunError(f"Run {stored.uid} has no trial that is done; nothing can be verified.")
        prepared = prepare_again(stored)
        changed = [*_changed_prompts(store, stored), *_changed(stored, prepared)]
        allowed = tolerance(stored.model, stored.environment.device, device_name())
        compared = list(_compared(store, stored.uid, prepared, done, allowed, progress))
    ranks = {metric.name for metric in stored.metrics if metric.unit == "rank"}
    elsewhere = stored.environment.device != device_name()
    gaps = [(_gap(one.stored, one.computed), one) for one in compared]
    different = [
        one
        for gap, one in gaps
        if gap > allowed and not (one.place.name in ranks and _near(one, gap, elsewhere))
    ]
    return Verification(
        uid=stored.uid,
        n_trials=len(done),
        n_values=len(compared),
        n_different=len(different),
        largest=max(gap for gap, _ in gaps),
        tolerance=allowed,
        first=min(different, key=lambda one: one.place, default=None),
        changed=tuple(changed),
    )


def tolerance(model: ModelIdentity, before: str, now: str) -> float:
    """How far two computations of a model's values may lie apart.

    Args:
        model: The model: its dtype, and whether it is quantised.
        before: The device of the first.
        now: The device of the second.
    """
    allowed = TOLERANCES.get(model.dtype, TOLERANCES["bfloat16"])
    if before != now:
        allowed = max(allowed, TOLERANCES["float32"] * OF_ANOTHER_DEVICE)
    return allowed * (OF_QUANTIZED if model.quant_bits else 1.0)


def _changed(stored: StoredRun, prepared: Prepared) -> Iterator[Difference]:
    code = (stored.code_hash, prepared.experiment.code_hash)
    if code[0] != code[1]:
        yield Difference(part="experiment", name="code", a=code[0], b=code[1])
    yield from of_models(stored.model, prepared.model.identity)
    for difference in of_environments(stored.environment, environment(device_name())):
        if difference.name not in _PLACES:
            yield difference


def _changed_prompts(store: Store, stored: StoredRun) -> Iterator[Difference]:
    """Prompts that are no longer what their hash in the notebook says."""
    query = sa.text(
        "SELECT i.position, p.content_hash FROM runs AS r "
        "JOIN prompt_set_items AS i ON i.prompt_set_id = r.prompt_set_id "
        "JOIN prompts AS p ON p.id = i.prompt_id WHERE r.uid = :uid ORDER BY i.position"
    )
    with store.reading() as connection:
        filed = connection.execute(query, {"uid": stored.uid}).all()
    for (position, known), prompt in zip(filed, stored.prompts.prompts, strict=True):
        if prompt.content_hash != known:
            name = f"number {position + 1}, {prompt.text[:40]!r}"
            yield Difference(part="prompt", name=name, a=known, b=prompt.content_hash)


def _compared(
    store: Store, uid: str, prepared: Prepared, done: set[int], allowed: float, progress: bool
) -> Iterator[Divergence]:
    """Every value of every trial that is done, as it was stored beside what it is now."""
    from mlux.engine import memory

    memory.seed(prepared.seed)
    fitted = prepared.fit()
    title = f"verify {prepared.experiment.name} [{uid}]"
    with tqdm(
        total=len(done), desc=title, unit="trial", disable=not progress, dynamic_ncols=True
    ) as bar:
        for number, batch in enumerate(prepared.batches):
            wanted = [trial for trial in batch if trial in done]
            if wanted:
                finished = run_batch(prepared, fitted.state, number, batch)
                again = computed(finished[trial] for trial in wanted)
                yield from _pairs(recorded(store, uid, wanted), again, allowed)
                bar.update(len(wanted))


def _pairs(before: Recorded, now: Recorded, allowed: float) -> Iterator[Divergence]:
    for place in before.keys() | now.keys():
        pair = Divergence(place=place, stored=before.get(place), computed=now.get(place))
        yield (
            pair if not _is_tie(pair, before, now, allowed) else replace(pair, computed=pair.stored)
        )


def _is_tie(pair: Divergence, before: Recorded, now: Recorded, allowed: float) -> bool:
    """Whether two tokens changed ranks that are equally probable, as far as can be told."""
    kind, _, rank = pair.place.name.partition(" ")
    if kind != "rank" or None in (pair.stored, pair.computed):
        return False
    probability = pair.place._replace(name=f"logprob {rank}")
    return _gap(before[probability], now[probability]) <= allowed


def _near(rank: Divergence, gap: float, elsewhere: bool) -> bool:
    """Whether two ranks differ by no more than equally probable tokens explain."""
    if not elsewhere or gap == float("inf"):
        return gap <= OF_RANKS
    return gap <= OF_RANKS_ELSEWHERE or abs(rank.stored - rank.computed) <= 1


def _gap(stored: Any, now: Any) -> float:
    """The difference as a part of the value, or of 1; infinite between what is no number."""
    if stored == now:
        return 0.0
    if not (isinstance(stored, float) and isinstance(now, float)):
        return float("inf")
    return abs(stored - now) / max(1.0, abs(stored))
