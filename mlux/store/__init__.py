"""Tables, sessions, writers and readers of the lab notebook.

Names are imported when they are first used: a command that only reads pays for no table classes.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlux.store.annotate import note_run as note_run
    from mlux.store.annotate import tag_run as tag_run
    from mlux.store.catalogue import artifact_summary as artifact_summary
    from mlux.store.catalogue import info as info
    from mlux.store.catalogue import list_models as list_models
    from mlux.store.catalogue import show_model as show_model
    from mlux.store.checks import failed_checks as failed_checks
    from mlux.store.checks import store_checks as store_checks
    from mlux.store.identical import find_identical as find_identical
    from mlux.store.prompt_sets import file_prompt_set as file_prompt_set
    from mlux.store.prompt_sets import find_prompt_set as find_prompt_set
    from mlux.store.prompt_sets import list_prompt_sets as list_prompt_sets
    from mlux.store.reader import list_runs as list_runs
    from mlux.store.reader import load_run as load_run
    from mlux.store.reader import resolve_run as resolve_run
    from mlux.store.records import FinishedTrial as FinishedTrial
    from mlux.store.records import RunSpec as RunSpec
    from mlux.store.records import StoredRun as StoredRun
    from mlux.store.records import TrialSpec as TrialSpec
    from mlux.store.session import Store as Store
    from mlux.store.session import default_location as default_location
    from mlux.store.sql import query as query
    from mlux.store.writer import RunWriter as RunWriter
    from mlux.store.writer import create_run as create_run

_HOMES = {
    "FinishedTrial": "records",
    "RunSpec": "records",
    "RunWriter": "writer",
    "Store": "session",
    "StoredRun": "records",
    "TrialSpec": "records",
    "artifact_summary": "catalogue",
    "create_run": "writer",
    "default_location": "session",
    "failed_checks": "checks",
    "file_prompt_set": "prompt_sets",
    "find_identical": "identical",
    "find_prompt_set": "prompt_sets",
    "list_prompt_sets": "prompt_sets",
    "info": "catalogue",
    "list_models": "catalogue",
    "list_runs": "reader",
    "load_run": "reader",
    "note_run": "annotate",
    "query": "sql",
    "resolve_run": "reader",
    "show_model": "catalogue",
    "store_checks": "checks",
    "tag_run": "annotate",
}

__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"mlux.store.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'mlux.store' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
