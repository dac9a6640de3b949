"""The shell lines that make a stored run again."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields

from mlux import prompts
from mlux.gate import GAP, MIN_GAP, GateOptions, split
from mlux.params import as_text
from mlux.store.records import Param, StoredRun


@dataclass(frozen=True, kw_only=True)
class Request:
    """What a person asked of a run.

    Its fields are the arguments of `mlux.run_experiment` and the options of `mlux run`, by the
    same names and with the same defaults; a test holds the three equal. So whatever is asked of a
    run is also asked of its repetition.
    """

    model: str
    prompts: str | None = None
    params: Mapping[str, Param] = field(default_factory=dict)
    seed: int = 0
    tags: Mapping[str, str] = field(default_factory=dict)
    note: str | None = None
    batch_size: int | None = None
    memory: int | None = None
    adapter: str | None = None
    dtype: str | None = None
    bad_prompts: str = "fail"
    keep_unsolved: bool = False
    min_gap: float | None = None

    @classmethod
    def of(cls, run: StoredRun, prompts: str) -> "Request":
        """What has to be asked for to get a stored run again, with its prompts from there."""
        gated = any(metric.name == GAP.name for metric in run.metrics)
        params, gate = split(run.params) if gated else (run.params, GateOptions())
        return cls(
            model=run.model.source,
            prompts=prompts,
            params=params,
            seed=run.seed,
            tags=run.tags,
            note=run.note,
            batch_size=run.batch_size,
            memory=run.memory_bytes,
            adapter=run.model.adapter_source,
            dtype=run.model.dtype,
            # The stored prompts are those that were left: what the run took, it takes again.
            bad_prompts="keep",
            keep_unsolved=gate.keep_unsolved,
            min_gap=None if gate.min_gap == MIN_GAP else gate.min_gap,
        )

    def words(self) -> Iterator[str]:
        """Each field that is not its default, as the options of `mlux run`."""
        for one in fields(self):
            value = getattr(self, one.name)
            if one.default is not MISSING and value == one.default:
                continue
            flag = FLAGS.get(one.name, f"--{one.name.replace('_', '-')}")
            if value is True:
                yield flag
            elif isinstance(value, Mapping):
                for name, item in value.items():
                    yield from (flag, f"{name}={as_text(item)}")
            else:
                yield from (flag, as_text(value))


FLAGS = {"params": "-p", "tags": "--tag"}
"""The options that may be given several times, which are called otherwise than their field."""


def lines(runs: Sequence[StoredRun]) -> Iterator[str]:
    """What to type to make these runs again where only the database is."""
    exported: set[str] = set()
    for run in runs:
        revision = f", of the model's revision {run.model.revision}" if run.model.revision else ""
        yield f"# run {run.uid}{revision}"
        source = run.prompts.name
        if not _is_shipped(run):
            source = _file_name(run)
            if source not in exported:
                yield typed("mlux", "prompts", "export", "--run", run.uid, "-o", source)
            exported.add(source)
        yield typed("mlux", "run", run.experiment, *Request.of(run, source).words())


def _is_shipped(run: StoredRun) -> bool:
    """Whether the name of the run's prompts gives these prompts on any machine."""
    base = run.prompts.name.partition(":")[0]
    if base not in prompts.shipped():
        return False
    return prompts.load(run.prompts.name).content_hash == run.prompts.content_hash


def _file_name(run: StoredRun) -> str:
    """A name that no other prompts have, so that no file of a person is overwritten."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "-", run.prompts.name).strip("-")[:60]
    ending = f"-{run.prompts.content_hash[:12]}"
    return f"{stem.removesuffix(ending) or 'prompts'}{ending}.jsonl"


def typed(*words: str) -> str:
    r"""The words as one line for bash or zsh.

    What cannot be seen, such as a line break or a mark of direction, is written out.

    Example:
        >>> print(typed("mlux", "run", "--note", "It's", "--tag", "a=b c"))
        mlux run --note 'It'"'"'s' --tag 'a=b c'
        >>> print(typed("--note", "two\nlines"))
        --note $'two\nlines'
    """
    return " ".join(shlex.quote(word) if word.isprintable() else _escaped(word) for word in words)


_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r", "\\": "\\\\", "'": "\\'"}


def _escaped(word: str) -> str:
    return "$'" + "".join(map(_character, word)) + "'"


def _character(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())
