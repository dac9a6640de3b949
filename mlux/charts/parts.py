"""The parts of conditions, such as `at=last, source_layer=3`: which one is a number, which divide.

What varies by a number is drawn along an axis; what varies by a name becomes a line or a panel.
"""

from collections.abc import Iterator, Sequence

import pandas as pd

from mlux.charts import data, labels
from mlux.errors import ParameterError


def layers_of(frame: pd.DataFrame) -> tuple[str, pd.DataFrame]:
    """What `layer` counts, and the frame with conditions that no longer say so.

    A part `layer_axis=depth in percent`, the same in all conditions, names it.
    """
    texts = data.distinct(frame, "condition")
    split = {text: condition_parts(text) for text in texts}
    names = {own.get("layer_axis") for own in split.values()} - {None}
    if len(names) != 1 or not all("layer_axis" in own for own in split.values()):
        return "layer", frame
    rest = {text: _but(own, "layer_axis") for text, own in split.items()}
    return str(names.pop()), frame.assign(condition=frame["condition"].astype(object).map(rest))


def doses(frame: pd.DataFrame, dose: str | None) -> tuple[str, pd.Series, pd.Series]:
    """The strength's name, its value in each row, and what is left of each row's condition.

    Raises:
        ParameterError: If no strength, or more than one, can be found.
    """
    nothing = pd.Series("", index=frame.index)
    if dose is None and "dose" in frame.columns:  # as compare.dose_response returns it
        dose = "dose"
    if dose is not None and dose in frame.columns:
        rest = frame["condition"] if "condition" in frame.columns else nothing
        return dose, pd.to_numeric(frame[dose]), rest
    frame = data.need(frame, ("condition",), "dose_response")
    parts = {text: condition_parts(text) for text in data.distinct(frame, "condition")}
    names = dict.fromkeys(name for values in parts.values() for name in values)
    found = {name: {values.get(name) for values in parts.values()} for name in names}
    numeric = [
        name
        for name, values in found.items()
        if len(values) > 1 and all(value is None or is_number(value) for value in values)
    ]
    if dose is None and len(numeric) == 1:
        dose = numeric[0]
    if dose is None or dose not in names:
        wanted = f"no strength named {dose!r}" if dose else f"{len(numeric)} strengths that vary"
        raise ParameterError(
            f"dose_response: these conditions have {wanted}. "
            f"Choose with dose=: {', '.join(numeric or names) or 'they have no values'}."
        )
    chosen = {text: values.get(dose) for text, values in parts.items()}
    bad = [value for value in chosen.values() if value is not None and not is_number(value)]
    if bad:
        raise ParameterError(f"dose_response: {dose} is {bad[0]!r}, which is not a number.")
    rests = {text: _but(values, dose) for text, values in parts.items()}
    texts = frame["condition"].astype(object)
    return dose, pd.to_numeric(texts.map(chosen)), texts.map(rests)


def numeric_part(frame: pd.DataFrame) -> str | None:
    """The only part of the conditions that is a number and has more than two values."""
    values: dict[str, set[str]] = {}
    for label in data.distinct(frame, "condition"):
        for name, value in condition_parts(label).items():
            values.setdefault(name, set()).add(value)
    found = [name for name, own in values.items() if len(own) > 2 and all(map(is_number, own))]
    return found[0] if len(found) == 1 else None


def panels(frame: pd.DataFrame, most: int) -> tuple[pd.Series, pd.Series]:
    """The panel and the series of each row, so that a panel has at most so many series.

    Panels are models, experiments, or the values of one part that every condition has; of several
    ways the one with the fewest panels. If no way leaves at least two series to compare in a
    panel, or none is needed, there is one panel, and its name is empty.
    """
    whole = pd.Series("", index=frame.index), data.series(frame)
    if whole[1].nunique() <= most:
        return whole
    return min(_ways(frame, most), key=lambda way: int(way[0].nunique()), default=whole)


def _ways(frame: pd.DataFrame, most: int) -> Iterator[tuple[pd.Series, pd.Series]]:
    """Every way to divide the series of a frame into panels of two to so many."""
    for panel, less, but in [*_by_name(frame), *_by_part(frame)]:
        series = data.series(less, but=but)
        sizes = series.groupby(panel).nunique()
        if len(sizes) > 1 and 2 <= sizes.max() <= most:
            yield panel, series


def _by_name(frame: pd.DataFrame) -> Iterator[tuple[pd.Series, pd.DataFrame, Sequence[str]]]:
    for name in ("experiment", "model"):
        if len(data.distinct(frame, name)) > 1:
            shown = frame[name].astype(object).map(lambda text: labels.short(str(text), 50))
            yield shown, frame, [name]


def _by_part(frame: pd.DataFrame) -> Iterator[tuple[pd.Series, pd.DataFrame, Sequence[str]]]:
    """A panel for each value of a part; the conditions keep their other parts."""
    conditions = {text: condition_parts(text) for text in data.distinct(frame, "condition")}
    names = dict.fromkeys(name for own in conditions.values() for name in own)
    for name in names:
        if all(name in own for own in conditions.values()):
            texts = frame["condition"].astype(object)
            panel = texts.map({text: f"{name}={own[name]}" for text, own in conditions.items()})
            # What has no further part is told from the controls beside it.
            nothing = f"no {' or '.join(other for other in names if other != name)}"
            rest = {text: _but(own, name) or nothing for text, own in conditions.items()}
            yield panel, frame.assign(condition=texts.map(rest)), []


def _but(parts: dict[str, str], name: str) -> str:
    return ", ".join(f"{key}={value}" for key, value in parts.items() if key != name)


def condition_parts(label: str) -> dict[str, str]:
    """`alpha=0.5,site=head` as a mapping."""
    pairs = (part.partition("=") for part in label.split(","))
    return {name.strip(): value for name, equals, value in pairs if equals}


def is_number(text: str) -> bool:
    """Whether the value of a part is a number."""
    try:
        float(text)
    except ValueError:
        return False
    return True
