"""The experiments that mlux can run: one decorated function a file, found by the file's name.

Listing names reads folders only; a file is imported when its experiment is asked for. Places are
searched in this order: the shipped experiments, the folders of `$MLUX_EXPERIMENTS` or
`--experiments`, and the entry-point group `mlux.experiments`. The same name from two places is an
error, because results filed under one name would come from two codes.
"""

import hashlib
import importlib
import importlib.util
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from importlib.metadata import EntryPoint, entry_points
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

from mlux import gate as gates
from mlux.declaration import config_of, line_of, metrics_of, place
from mlux.errors import ExperimentError, MluxError, UnknownNameError
from mlux.prompts import Prompt
from mlux.results import Fitted, Metric

FOLDERS_VARIABLE = "MLUX_EXPERIMENTS"
SHIPPED = "mlux.experiments"

Run = Callable[[Any, Any, Any], Iterator[tuple[Any, Any]]]
"""fn(model, config, batch) yields (trial, result)."""
MakePrompts = Callable[[Any, Any, int], Sequence[Prompt]]
"""fn(model, config, seed) returns prompts that depend on the model's vocabulary."""
Conditions = Callable[[Any, Mapping[str, Any]], Sequence[Mapping[str, str]]]
"""fn(config, model_config) returns the conditions that every prompt is run under.

A condition with the name `control` controls the one with the same other values and without it. One
with the name `layer_axis` says what `layer` counts in its results, such as depth in percent.
"""
Fit = Callable[..., Fitted]
"""fn(model, config, prompts, seed) learns from all `EncodedPrompt`s what the trials need; with a
parameter `memory` it gets the bytes of the run's budget too, with `solved` which prompts count,
with `steps` what keeps what is learned step by step."""


TOKENS_AT_ONCE = 512
"""Tokens in a batch of a sweep on a CPU; as of `mlux.methods.budget`."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What one trial or a fit costs, for the plan that `--dry-run` prints.

    Attributes:
        forward_passes: Passes through all blocks over one prompt, or their worth: a pass with
            gradients counts as three, one that starts in the middle by the blocks it runs.
        values: Numbers that it stores.
        unembedded: Positions whose logits are made; by default one for each forward pass. With
            gradients a position counts as two.
        looked_at: Positions of those at which a lens finds ranks, divergences and top tokens.
        rows: Passes that run together; by default as many as trials do.
        generated: Tokens that are written one after the other.
        seconds: What else it computes, on a usual core: regressions, say.
    """

    forward_passes: float
    values: int = 0
    unembedded: float | None = None
    looked_at: float = 0.0
    rows: float | None = None
    generated: float = 0.0
    seconds: float = 0.0

    @classmethod
    def of_sweep(
        cls,
        n_layers: int,
        n_edits: float,
        n_tokens: float,
        *,
        share: float = 0.5,
        passes: float = 0.0,
        values: int = 0,
    ) -> "Cost":
        """The cost of editing every layer of one prompt so many times.

        Args:
            n_layers: Layers of the model.
            n_edits: Edits of each layer.
            n_tokens: Tokens of the prompt.
            share: The part of the blocks that an edit runs; those from its own layer on are half
                of them on average.
            passes: Other passes over the prompt.
            values: Numbers that are stored.
        """
        edits = n_layers * n_edits
        rows = max(1.0, min(n_edits, TOKENS_AT_ONCE / n_tokens))
        # Both runs fill a batch of equal rows, and three passes measure what a row holds.
        extra = passes + 2 * rows + 3
        return cls(
            forward_passes=share * edits + extra,
            unembedded=edits + extra,
            rows=rows,
            values=values,
        )

    def __add__(self, other: "Cost") -> "Cost":
        """Both together."""
        passes = self.forward_passes + other.forward_passes
        calls = sum(one.forward_passes / one.rows for one in (self, other) if one.rows)
        return Cost(
            forward_passes=passes,
            values=self.values + other.values,
            unembedded=self.logits + other.logits,
            looked_at=self.looked_at + other.looked_at,
            rows=passes / calls if calls else None,
            generated=self.generated + other.generated,
            seconds=self.seconds + other.seconds,
        )

    def __mul__(self, times: float) -> "Cost":
        """So many times the same."""
        return Cost(
            forward_passes=times * self.forward_passes,
            values=round(times * self.values),
            unembedded=times * self.logits,
            looked_at=times * self.looked_at,
            rows=self.rows,
            generated=times * self.generated,
            seconds=times * self.seconds,
        )

    @property
    def logits(self) -> float:
        """Positions whose logits are made."""
        return self.forward_passes if self.unembedded is None else self.unembedded


Sites = Callable[[Any], Sequence[str]]
"""fn(config) returns the kinds of sites that the model must have in some block."""

EstimateCost = Callable[[Any, Mapping[str, Any], Mapping[str, str], int], Cost]
"""fn(config, model_config, condition, n_tokens) returns the cost of one trial."""
Check = Callable[[Any, Any, Sequence[Any], int], None]
"""fn(model, config, prompts, seed) raises a MluxError if they do not fit together."""
FitCost = Callable[[Any, Mapping[str, Any], int, float], Cost]
"""fn(config, model_config, n_prompts, n_tokens) returns what fitting costs; n_tokens is a mean."""


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """A registered experiment.

    Attributes:
        name: The function's name, which is also its file's.
        run: `fn(model, config, batch)`, yielding `(trial, result)` pairs for one batch of trials.
        config: The frozen dataclass of its options.
        metrics: What its numbers mean.
        prompts: The shipped set it uses by default, or a function that makes the prompts.
        roles: The prompt roles that it needs.
        aligned: Whether it compares positions of the clean and the corrupted prompt, which then
            have to have as many tokens.
        gate: What it takes for granted of the unedited model; None if nothing.
        conditions: What every prompt is run under; one empty condition by default.
        cost: What one trial costs.
        check: Whether model, options and `EncodedPrompt`s fit together, told before anything runs.
        fit: What is learned from all prompts before the first trial; None if nothing is.
        fit_cost: What fitting costs.
        sites: What it needs of a model, by `fn(config)`: kinds of sites, and `lens`.
        paper: Whose definition it follows.
        place: Where it is defined, as `file:line`.
        code_hash: SHA-256 of the file, stored with every run.
    """

    name: str
    run: Run
    config: type
    metrics: tuple[Metric, ...]
    prompts: str | MakePrompts
    roles: tuple[str, ...]
    aligned: bool
    gate: gates.Kind | None
    conditions: Conditions
    cost: EstimateCost
    check: Check
    fit: Fit | None
    fit_cost: FitCost
    sites: Sites
    paper: str
    place: str
    code_hash: str

    @property
    def description(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.run) or "").partition("\n")[0]

    @property
    def documentation(self) -> str:
        """Its whole docstring."""
        return inspect.getdoc(self.run) or ""

    def __repr__(self) -> str:
        """Name and options, as one would call it."""
        options = ", ".join(field.name for field in fields(self.config))
        return f"Experiment({self.name}: {options})"


def experiment(
    *,
    metrics: Sequence[Metric],
    prompts: str | MakePrompts,
    roles: Sequence[str] = (),
    aligned: bool = False,
    gate: gates.Kind | None = None,
    conditions: Conditions = lambda config, model: [{}],
    cost: EstimateCost = lambda config, model, condition, n_tokens: Cost(
        forward_passes=1, values=1
    ),
    check: Check = lambda model, config, prompts, seed: None,
    fit: Fit | None = None,
    fit_cost: FitCost = lambda config, model, n_prompts, n_tokens: Cost(forward_passes=n_prompts),
    sites: Sequence[str] | Sites = (),
    paper: str = "",
) -> Callable[[Run], Experiment]:
    """Registers the function below it as an experiment.

    Example:
        >>> from mlux import registry
        >>> registry.get("logit_lens").metrics[0].name
        'answer_rank'

    The function's second parameter is annotated with the config dataclass, a frozen one, whose
    fields become the experiment's options.

    Args:
        metrics: The metrics that it yields.
        prompts: A shipped prompt set's name, or `fn(model, config, seed)` that makes prompts.
        roles: Prompt roles that it needs, such as `answer`, which then has to be one token.
        aligned: Whether it compares positions of the clean and the corrupted prompt: prompts where
            the two differ in length are then reported before anything runs.
        gate: What it takes for granted of the unedited model, on a prompt: `pair`, `contrast` or
            `answer` (see `mlux.gate`). Prompts of which it is not true are left out, and said.
        conditions: `fn(config, model_config)`, the conditions every prompt is run under.
        cost: `fn(config, model_config, condition, n_tokens)`, what one trial costs.
        check: `fn(model, config, prompts, seed)`, called once the prompts are in tokens,
            by a plan and by a run alike: raises a `MluxError` if the options, the prompts and the
            model do not fit together. It runs no forward pass; what `fit` or a trial would refuse
            and can be known before belongs here.
        fit: `fn(model, config, prompts, seed)`, run once before the first trial (and again by a
            resume): what it returns is `batch.fitted` in every trial. It may depend on its
            arguments only, so that a resumed run has the same. Where it sweeps, it takes the
            run's budget by a further parameter `memory`, in bytes; with a gate, which prompts
            count, by a further parameter `solved`, a truth value for each; where it searches or
            trains, what keeps every step, by a further parameter `steps` (see `mlux.steps`).
        fit_cost: `fn(config, model_config, n_prompts, n_tokens)`, what `fit` costs, with prompts of
            n_tokens on average; by default one forward pass a prompt.
        sites: The kinds of sites that it needs, such as `resid_post` and `head`, and `lens` if it
            uses the model's head on other layers; or `fn(config)` that says so.
        paper: The paper that it follows.

    Raises:
        ExperimentError: If the function does not take (model, config, batch) with such a config,
            or it, an option or a metric is not described; with the place and the fix.
    """

    def register(run: Run) -> Experiment:
        config = config_of(run)
        _require_gate(run, config, gate, roles)
        return Experiment(
            name=run.__name__,
            run=run,
            config=config,
            metrics=metrics_of(run, [*metrics, *(gates.METRICS if gate else ())]),
            prompts=prompts,
            roles=tuple(roles),
            aligned=aligned,
            gate=gate,
            conditions=conditions,
            cost=cost,
            check=check,
            fit=fit,
            fit_cost=fit_cost,
            sites=sites if callable(sites) else lambda config: sites,
            paper=paper,
            place=place(run),
            code_hash=hashlib.sha256(Path(inspect.getfile(run)).read_bytes()).hexdigest(),
        )

    return register


def _require_gate(run: Run, config: type, gate: gates.Kind | None, roles: Sequence[str]) -> None:
    try:
        gates.require_fitting(gate, roles, [option.name for option in fields(config)])
    except ExperimentError as error:
        raise ExperimentError(f"{place(run)}: {run.__name__}: {error}") from None


def names() -> list[str]:
    """The names of all experiments, without importing any of them."""
    return sorted(_places())


def get(name: str) -> Experiment:
    """The experiment of this name.

    Raises:
        UnknownNameError: If there is none; the message has close matches.
        MluxError: If its file cannot be imported, or defines no experiment of that name.
    """
    places = _places()
    if name not in places:
        raise _unknown(name, places)
    origin, load = places[name]
    # First, so that a fast BLAS is loaded before the experiment's file may import MLX itself.
    importlib.import_module("mlux.engine")
    loaded = load()
    found = loaded if isinstance(loaded, Experiment) else getattr(loaded, name, None)
    if not isinstance(found, Experiment):
        raise ExperimentError(
            f"{line_of(Path(origin), name)}: no experiment {name!r} is defined here. Decorate a "
            "function of that name with @experiment, or begin the file's name with _ if it is no "
            "experiment."
        )
    return found


def _unknown(name: str, places: Mapping[str, object]) -> UnknownNameError:
    error = UnknownNameError("experiment", name, places)
    if error.close_matches:
        return error
    own = f"Your own are found with --experiments DIR or ${FOLDERS_VARIABLE}."
    return UnknownNameError("experiment", name, (), f"Known: {', '.join(sorted(places))}. {own}")


class _Place(NamedTuple):
    """Where an experiment is, for people, and what imports it."""

    origin: str
    load: Callable[[], Any]


def _places() -> dict[str, _Place]:
    """Every experiment's name and its place."""
    places: dict[str, _Place] = {}
    shipped = Path(str(files(SHIPPED)))

    def add(name: str, origin: str, load: Callable[[], Any]) -> None:
        if name in places:
            first, second = (line_of(Path(p), name) for p in (places[name].origin, origin))
            raise ExperimentError(
                f"{second}: two experiments are named {name!r}; the other is at {first}. Rename "
                "the function and its file."
            )
        places[name] = _Place(origin, load)

    for name in _stems(shipped):
        path = shipped / f"{name}.py"
        add(name, str(path), lambda n=name: importlib.import_module(f"{SHIPPED}.{n}"))  # type: ignore[misc] # mypy does not infer a lambda's default
    for folder in filter(None, os.environ.get(FOLDERS_VARIABLE, "").split(os.pathsep)):
        if not Path(folder).is_dir():
            raise MluxError(f"No folder of experiments at {folder!r} (from ${FOLDERS_VARIABLE}).")
        for name in _stems(Path(folder)):
            path = Path(folder) / f"{name}.py"
            add(name, str(path), lambda p=path: _import_own(str(p), lambda: _import_file(p)))  # type: ignore[misc] # as above
    for point in entry_points(group=SHIPPED):
        add(point.name, point.value, lambda p=point: _import_named(p))  # type: ignore[misc] # as above
    return places


def _stems(folder: Path) -> list[str]:
    return sorted(p.stem for p in folder.glob("*.py") if not p.stem.startswith("_"))


def _import_named(point: EntryPoint) -> Any:
    """Imports an experiment of a package, which has to bear the name of its entry point."""
    loaded = _import_own(point.value, point.load)
    name = loaded.name if isinstance(loaded, Experiment) else point.name
    if name != point.name:
        raise ExperimentError(
            f"{point.value}: the experiment is named {name!r}, but its entry point {point.name!r}. "
            "Give both one name, or its results are filed under another."
        )
    return loaded


def _import_own(origin: str, load: Callable[[], Any]) -> Any:
    """Imports what a user wrote; an error in it is theirs to mend, not a bug of mlux."""
    try:
        return load()
    except MluxError:
        raise
    except (Exception, SystemExit) as error:  # whatever the code of somebody else may raise
        reason = f"{type(error).__name__}: {error}"
        where = f"{origin}:{_line(error, origin)}".removesuffix(":0")
        raise ExperimentError(f"{where}: the experiment cannot be loaded: {reason}") from error


def _line(error: BaseException, path: str) -> int:
    """The line of a file at which an error was raised in it, or in what it called; 0 if none."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return error.lineno or 0
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno or 0 for frame in frames if frame.filename == path]
    return lines[-1] if lines else 0


def _import_file(path: Path) -> Any:
    module_name = f"mlux_user_experiments.{path.stem}"
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # Registered before it runs: dataclasses look their module up while it is being executed.
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[module_name]
        raise
    return module
