"""Results as rows for the driver, in the order of their tables' keys.

Rows are made by `zip` while the driver takes them one after another: no list of them is ever there,
and Python uses one tuple for all.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from math import isfinite
from typing import Any

from mlux.errors import StoreError, UnknownNameError
from mlux.provenance import TokenText
from mlux.results import AXES, NOT_APPLICABLE, Generation, TopTokens, Values, first_infinite
from mlux.store.records import FinishedTrial

Row = tuple[Any, ...]

VALUES = "run_id, metric_id, trial, layer, head, position, value"
TOP_TOKENS = "run_id, trial, layer, position, rank, token, logprob"
TRIAL_TOKENS = "run_id, trial, role, position, token"
TOKENS = "tokenizer_id, token_id, text, piece, shown"
GENERATIONS = "run_id, trial, sample, text, token_ids"


def value_rows(
    run: int, batch: Sequence[FinishedTrial], metrics: Mapping[str, int]
) -> Iterator[Row]:
    """Rows of `layer_results`; everything is checked before the first one comes.

    Args:
        run: The run's key.
        batch: Trials that did not fail.
        metrics: Name → key of the metrics that the run declares.

    Raises:
        StoreError: If a value is not a finite number.
        UnknownNameError: If a metric was not declared.
    """
    blocks = []
    for done in batch:
        for values in done.results:
            if not isinstance(values, Values):
                continue
            metric = metrics.get(values.metric)
            if metric is None:
                raise UnknownNameError("metric", values.metric, metrics)
            # Before the database does: SQLite would take a NaN for NULL.
            columns = values.columns()
            if (row := first_infinite(columns)) is not None:
                place = dict(zip(AXES, row[:3], strict=True))
                raise not_finite(values.metric, done.trial, place)
            blocks.append((metric, done.trial, columns))
    blocks.sort(key=lambda block: block[:2])
    return chain.from_iterable(
        zip(repeat(run), repeat(metric), repeat(trial), *columns)  # repeat has no end
        for metric, trial, columns in blocks
    )


def not_finite(what: str, trial: int, place: Mapping[Any, int]) -> StoreError:
    """What to say of a NaN or an infinite number."""
    places = [f"{axis} {at}" for axis, at in place.items() if at != NOT_APPLICABLE]
    where = f" at {', '.join(places)}" if places else ""
    return StoreError(
        f"Trial {trial}: {what} is not a finite number{where}. Nothing of its batch was stored."
    )


def top_rows(run: int, batch: Iterable[FinishedTrial], keys: Mapping[int, int]) -> list[Row]:
    """Rows of `token_predictions`.

    Args:
        run: The run's key.
        batch: Trials that did not fail.
        keys: Model's token id → key in `tokens`.

    Raises:
        StoreError: If a log-probability is not a finite number.
    """
    rows: list[Row] = []
    for done in batch:
        for top in done.results:
            if not isinstance(top, TopTokens):
                continue
            logprobs = list(map(float, top.logprobs))
            if not all(map(isfinite, logprobs)):
                place = {"layer": top.layer, "position": top.position}
                raise not_finite("log probability", done.trial, place)
            rows += [
                (run, done.trial, top.layer, top.position, rank, keys[token], logprob)
                for rank, (token, logprob) in enumerate(zip(top.token_ids, logprobs, strict=True))
            ]
    rows.sort()
    return rows


def token_rows(run: int, batch: Iterable[FinishedTrial], keys: Mapping[int, int]) -> list[Row]:
    """Rows of `trial_tokens`; arguments as of `top_rows`."""
    return sorted(
        (run, done.trial, role, position, keys[token])
        for done in batch
        for role, tokens in done.tokens.items()
        for position, token in enumerate(tokens)
    )


def token_text_rows(tokenizer: int, texts: Iterable[tuple[int, TokenText]]) -> Iterator[Row]:
    """Rows of `tokens`, of a tokenizer by its key."""
    for token, one in texts:
        piece = None if one.piece is None else storable(one.piece)
        yield tokenizer, token, storable(one.text), piece, storable(one.shown)


def text_rows(run: int, batch: Iterable[FinishedTrial]) -> list[Row]:
    """Rows of `generations`."""
    return sorted(
        (run, done.trial, made.sample, storable(made.text), " ".join(map(str, made.token_ids)))
        for done in batch
        for made in done.results
        if isinstance(made, Generation)
    )


def token_ids(batch: Iterable[FinishedTrial]) -> set[int]:
    """The model's ids of all tokens that the rows of these trials refer to."""
    batch = list(batch)
    wanted = {token for done in batch for ids in done.tokens.values() for token in ids}
    for done in batch:
        for top in done.results:
            if isinstance(top, TopTokens):
                wanted.update(top.token_ids)
    return wanted


def storable(text: str) -> str:
    """Text as every database can hold it.

    Half a surrogate pair, which some tokens are, becomes a question mark; the null character, which
    PostgreSQL lacks, becomes its picture.
    """
    return text.encode("utf-8", "replace").decode().replace("\0", "␀")
