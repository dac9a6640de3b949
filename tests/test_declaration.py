"""An experiment's file that breaks a rule is told with file, line and the way to mend it."""

from pathlib import Path

import pytest

from mlux import registry, run_experiment
from mlux.errors import ExperimentError

GOOD = '''from dataclasses import dataclass, field

from mlux import experiment
from mlux.results import Metric, Values

LENGTH = Metric(name="length", unit="tokens", description="Length.")


@dataclass(frozen=True, kw_only=True)
class Config:
    """Options."""

    times: int = field(default=2, metadata={"help": "how often"})


@experiment(metrics=[LENGTH], prompts="facts:2")
def counted(model, config: Config, batch):
    """Counts tokens."""
    for trial in batch:
        yield trial, Values(metric="length", values=1)
'''


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MLUX_EXPERIMENTS", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("before", "after", "line", "message"),
    [
        (
            ', metadata={"help": "how often"}', "", 13,
            r"the option 'times' of Config has no help\. Write: times: … = field\(default=…, meta",
        ),
        ("frozen=True, ", "", 10, r"Config is not frozen, .* Write: @dataclass\(frozen=True\)"),
        ('    """Counts tokens."""\n', "", 17, r"counted has no docstring\. Give it one"),
        ("config: Config, ", "", 17, r"counted must take \(model, config, batch\)"),
        ("config: Config", "config: dict", 17, r"counted must take \(model, config, batch\)"),
        ("[LENGTH]", "[LENGTH, LENGTH]", 17, r"declares the metric 'length' twice"),
        ("[LENGTH]", "['length']", 17, r"declares 'length' among its metrics\. Write: Metric\("),
        ("import Metric", "import Metrics", 4, r"cannot be loaded: ImportError: .*'Metrics'"),
        ("for trial in", "for in", 19, r"cannot be loaded: SyntaxError: invalid syntax"),
        ("def counted", "def other", None, r"no experiment 'counted' is defined here"),
        ('@experiment(metrics=[LENGTH], prompts="facts:2")\n', "", 16, r"no experiment 'counted'"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_place(
    before: str, after: str, line: int | None, message: str, folder: Path
) -> None:
    path = folder / "counted.py"
    assert before in GOOD
    path.write_text(GOOD.replace(before, after))
    with pytest.raises(ExperimentError, match=message) as caught:
        registry.get("counted")
    place = str(path) if line is None else f"{path}:{line}"
    assert str(caught.value).startswith(f"{place}: ")
    assert "\n" not in str(caught.value)


def test_a_good_file_knows_its_place(folder: Path) -> None:
    (folder / "counted.py").write_text(GOOD)
    assert registry.get("counted").place == f"{folder / 'counted.py'}:17"


def test_the_same_name_twice_is_told_with_both_places(folder: Path) -> None:
    (folder / "logit_lens.py").write_text(GOOD.replace("counted", "logit_lens"))
    message = r"logit_lens\.py:17: two experiments are named 'logit_lens'; the other is at .*:\d+\."
    with pytest.raises(ExperimentError, match=message):
        registry.names()


def test_an_undeclared_metric_stops_the_run_with_its_place(folder: Path, fresh_db: Path) -> None:
    (folder / "counted.py").write_text(GOOD.replace('metric="length"', 'metric="lenght"'))
    with pytest.raises(
        ExperimentError,
        match=r"counted\.py:17: counted yields the metric 'lenght', which it does not declare\. "
        r"Did you mean 'length'\? Else add it to the metrics of @experiment\.",
    ):
        run_experiment("counted", model="demo", db=fresh_db)


def test_an_installed_package_brings_experiments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The entry-point group mlux.experiments, as a package's own pyproject.toml declares it."""
    (tmp_path / "their_package.py").write_text(GOOD)
    about = tmp_path / "their_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: their-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mlux.experiments]\ncounted = their_package:counted\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert "counted" in registry.names()
    assert registry.get("counted").description == "Counts tokens."


def test_an_entry_point_has_the_name_of_its_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a run would be filed under the name of another experiment."""
    (tmp_path / "other_package.py").write_text(GOOD.replace("counted", "logit_lens"))
    about = tmp_path / "other_package-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: other-package\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[mlux.experiments]\nmine = other_package:logit_lens\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(
        ExperimentError, match=r"is named 'logit_lens', but its entry point 'mine'\. Give both"
    ):
        registry.get("mine")
