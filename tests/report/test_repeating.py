"""The lines of a report that make its runs again: pasted into a shell, they give the same runs."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import MISSING, fields, replace
from html import unescape
from inspect import signature
from pathlib import Path
from typing import Any

import click
import pytest
from adapters import lora_adapter

from mlux import prompts, report, run_experiment
from mlux.cli.run import command
from mlux.errors import PromptError
from mlux.prompts import Prompt, PromptSet
from mlux.report.request import Request
from mlux.store import Store, load_run, query
from mlux.store.differences import differences
from mlux.store.recorded import recorded

# What says where prompts are found, what becomes of faults, or what is printed: the numbers of a
# run that is done do not depend on it.
NOT_REPEATED = {
    "columns": "the prompts are exported, by roles",
    "max_failures": "how long to go on",
    "skip_existing": "whether to run at all",
    "dry_run": "whether to run at all",
    "output": "how it is printed",
}
CALLED = {"models": "model", "text": "note"}
HARD = 'It\'s "$HOME" `id`!\nzwei\tZeilen \\n \u202eש 🐱\u200d\u00a0-x'
OWN = PromptSet(
    name='my "own" ./prompts',
    prompts=(
        Prompt(text="the capital of france is", answer="paris rome", label=HARD),
        Prompt(text='the "capital"\nof italy is', answer="rome", template="chat"),
        Prompt(text="some ids", answer="rome", token_ids=(5, 6, 7)),
    ),
)
IOI = replace(prompts.load("ioi:4"), name="ioi")  # the name of other prompts, which ship
ASKED: dict[str, tuple[str, dict[str, Any]]] = {
    "everything": (
        "logit_lens",
        {
            "prompts": OWN,
            "params": {"top_k": 2, "streams": ("attn_out", "mlp_out"), "positions": "all"},
            "seed": 7,
            "tags": {"why": HARD, "-x": "a=b, c", "empty": ""},
            "note": HARD,
            "batch_size": 3,
            "memory": 300_000_001,
            "adapter": "adapter",
            "dtype": "bfloat16",
            "bad_prompts": "keep",
        },
    ),
    "gate": (
        "activation_patching",
        {
            "prompts": IOI,
            "params": {"sites": "attn_out"},
            "min_gap": 100.5,
            "keep_unsolved": True,
            "note": "-x",
        },
    ),
    "the same prompts": ("logit_lens", {"prompts": IOI, "model": "demo-4bit"}),
    "nothing": ("logit_lens", {}),
    "dropped": ("logit_lens", {"prompts": OWN, "bad_prompts": "drop"}),
    "made": ("induction_heads", {"params": {"n_sequences": 2, "period": 4}}),
}


def _options() -> dict[str, click.Option]:
    """The options of `mlux run` by the names of the fields of a request."""
    found = {str(one.name): one for one in command.params if isinstance(one, click.Option)}
    return {CALLED.get(name, name): one for name, one in found.items() if name != "help"}


def test_every_option_of_a_run_is_a_field_of_the_request_or_changes_no_number() -> None:
    options = _options()
    assert {one.name for one in fields(Request)} == options.keys() - NOT_REPEATED
    assert NOT_REPEATED.keys() < options.keys()
    arguments = signature(run_experiment).parameters
    unasked = {"name", "db", "progress", *NOT_REPEATED}
    assert {one.name for one in fields(Request)} == arguments.keys() - unasked
    with command.make_context("run", ["logit_lens", "--model", "demo"]) as context:
        typed = {CALLED.get(name, name): value for name, value in context.params.items()}
    for one in fields(Request):
        if one.default is not MISSING:
            assert arguments[one.name].default == typed[one.name] == one.default


def test_every_field_of_the_request_is_tried_below() -> None:
    tried = {name for _, asked in ASKED.values() for name in asked}
    assert tried == {one.name for one in fields(Request)}


@pytest.mark.slow
def test_the_lines_of_a_report_pasted_into_bash_give_the_same_runs(tmp_path: Path) -> None:
    adapter = lora_adapter(tmp_path / "adapter dir")
    first, empty = tmp_path / "lab's.db", tmp_path / "empty"
    uids = []
    for name, asked in ASKED.values():
        given = {"model": "demo"} | asked | ({"adapter": adapter} if "adapter" in asked else {})
        uids.append(run_experiment(name, **given, db=first).uid)
    page, text = tmp_path / "report.html", tmp_path / "report.md"
    for form in (page, text):
        report.write(uids, form, question=HARD, across_quantization=True, db=first)
    lines = _lines(page)
    assert lines == _lines(text).replace("-o report.md", "-o report.html")
    empty.mkdir()
    shutil.copy(first, empty)
    done = _paste(lines, empty)
    assert done.returncode == 0, done.stderr
    with Store.open(empty / first.name) as store:
        _, rows = query(store, "SELECT uid FROM runs ORDER BY id")
        made = [uid for (uid,) in rows][len(uids) :]
        assert len(made) == len(uids)
        for old, new in zip(uids, made, strict=True):
            one, other = load_run(store, old), load_run(store, new)
            differ = [line for line in differences(one, other) if line.part != "environment"]
            assert differ == []  # the folder is no repository
            assert (one.note, one.tags) == (other.note, other.tags)
            everything = range(len(one.trials))
            assert recorded(store, old, everything) == recorded(store, new, everything)
    assert (empty / page.name).exists()


def _lines(written: Path) -> str:
    """What a person copies out of a report."""
    text = written.read_text("utf-8")
    block = r"How to repeat it</h2>\n<pre>(.*?)</pre>|How to repeat it\n\n```sh\n(.*?)\n```"
    match = re.search(block, text, re.DOTALL)
    assert match is not None
    return unescape(match[1] or match[2]).strip()


def _paste(lines: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Bash reads the lines from its input, in a folder, with `mlux` on its path."""
    tools = folder.parent / "bin"
    tools.mkdir()
    mlux = tools / "mlux"
    mlux.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlux.cli "$@"\n', "utf-8")
    mlux.chmod(0o755)
    variables = {k: v for k, v in os.environ.items() if not k.startswith("MLUX_")}
    variables |= {"PATH": f"{tools}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8"}
    return subprocess.run(
        ["bash", "-e"],
        input=lines,
        cwd=folder,
        env=variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ((Prompt(text="a"), Prompt(text="b"), Prompt(text="a")), "prompt 3 of 'x': the same"),
        ((Prompt(text="a", label=""),), "label is empty; leave it out instead"),
        ((Prompt(text=""),), "it has no text"),
    ],
)
def test_prompts_of_python_that_no_file_can_hold_are_refused(
    given: tuple[Prompt, ...], message: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=message):
        run_experiment(
            "logit_lens",
            model="demo",
            prompts=PromptSet(name="x", prompts=given),
            db=tmp_path / "x.db",
        )
