"""What the file of an experiment has to say, checked when it is imported.

Every fault is told with its place, `file:line:`, and the way to mend it: what is missing here would
be missing in every run, help page and chart later.
"""

import inspect
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import Field, fields, is_dataclass
from pathlib import Path
from typing import Any

from mlux.errors import ExperimentError
from mlux.results import Metric


def place(thing: Any, attribute: str | None = None) -> str:
    """Where a function or class is defined, as `file:line`; or one of a class's attributes."""
    path = inspect.getsourcefile(thing) or inspect.getfile(thing)
    lines, first = inspect.getsourcelines(thing)
    # A decorated thing begins at its decorators; what people look for is the name.
    keyword = "class " if isinstance(thing, type) else "def "
    wanted = f"{keyword}{thing.__name__}" if attribute is None else f"{attribute}:"
    offsets = [n for n, line in enumerate(lines) if line.strip().startswith(wanted)]
    return f"{path}:{max(first, 1) + (offsets[0] if offsets else 0)}"


def config_of(run: Callable[..., Any]) -> type:
    """The config dataclass of an experiment's function, checked.

    Raises:
        ExperimentError: If the function has another form or no docstring, or the config is not
            frozen or has an option without help.
    """
    name, where = run.__name__, place(run)
    parameters = list(inspect.signature(run, eval_str=True).parameters.values())
    config = parameters[1].annotation if len(parameters) == 3 else None
    if not (isinstance(config, type) and is_dataclass(config)):
        raise ExperimentError(
            f"{where}: {name} must take (model, config, batch), with config annotated by a frozen "
            f"dataclass. Write: def {name}(model, config: Config, batch)"
        )
    if not inspect.getdoc(run):
        raise ExperimentError(
            f"{where}: {name} has no docstring. Give it one; its first line is what "
            "`mlux experiments` lists."
        )
    if not config.__dataclass_params__.frozen:  # type: ignore[attr-defined] # of every dataclass
        raise ExperimentError(
            f"{place(config)}: {config.__name__} is not frozen, so a run could change its options. "
            "Write: @dataclass(frozen=True)"
        )
    for option in fields(config):
        _require_help(config, option)
    return config


def _require_help(config: type, option: "Field[Any]") -> None:
    if not option.metadata.get("help"):
        raise ExperimentError(
            f"{place(config, option.name)}: the option {option.name!r} of {config.__name__} has no "
            f'help. Write: {option.name}: … = field(default=…, metadata={{"help": "…"}})'
        )


def metrics_of(run: Callable[..., Any], metrics: Sequence[Metric]) -> tuple[Metric, ...]:
    """The metrics that an experiment declares, checked.

    Raises:
        ExperimentError: If one is declared twice, or is no `Metric`.
    """
    for metric in metrics:
        if not isinstance(metric, Metric):
            raise ExperimentError(
                f"{place(run)}: {run.__name__} declares {metric!r} among its metrics. Write: "
                'Metric(name="…", unit="…", description="…")'
            )
    twice = [name for name, count in Counter(m.name for m in metrics).items() if count > 1]
    if twice:
        raise ExperimentError(
            f"{place(run)}: {run.__name__} declares the metric {twice[0]!r} twice. Leave one out."
        )
    return tuple(metrics)


def line_of(path: Path, name: str) -> str:
    """Where a file that is not imported seems to define a function, as `file:line`."""
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return str(path)
    found = [n for n, line in enumerate(lines, start=1) if line.startswith(f"def {name}(")]
    return f"{path}:{found[0]}" if found else str(path)
