"""What a user installs: the archives hold everything, and the wheel works where no checkout is."""

import json
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SETUPTOOLS = PROJECT["tool"]["setuptools"]
# What belongs to a package although it is no module, by the folder it lies in.
DATA = (
    "mlux/py.typed",
    "mlux/demo/model/",
    "mlux/demo/prompts/",
    "mlux/demo/tasks.json",
    "mlux/charts/templates/",
    "mlux/report/templates/",
)
JUNK = shutil.ignore_patterns("__pycache__", "*.egg-info")


def _run(*command: str | Path, cwd: Path) -> str:
    finished = subprocess.run(
        list(map(str, command)), cwd=cwd, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, f"{command}:\n{finished.stdout}\n{finished.stderr}"
    return finished.stdout


def _packages() -> dict[str, Path]:
    """Every folder with an `__init__.py` that is part of mlux: package name → folder."""
    places = {"mlux": "mlux", **SETUPTOOLS["package-dir"]}
    return {
        ".".join((name, *init.parent.relative_to(ROOT / folder).parts)): init.parent
        for name, folder in places.items()
        for init in (ROOT / folder).rglob("__init__.py")
    }


def test_the_package_list_is_the_tree() -> None:
    # A package that is not listed is left out of the wheel without a word.
    assert sorted(SETUPTOOLS["packages"]) == sorted(_packages())


def test_every_module_lies_in_a_package() -> None:
    folders = set(_packages().values())
    for folder in ("mlux", "experiments", "migrations"):
        for module in (ROOT / folder).rglob("*.py"):
            assert module.parent in folders, f"{module.parent} has no __init__.py"


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source archive, and the wheel that is built from it, from a copy of the checkout."""
    copy = tmp_path_factory.mktemp("source")
    for name in ("mlux", "experiments", "migrations"):
        shutil.copytree(ROOT / name, copy / name, ignore=JUNK)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    out = tmp_path_factory.mktemp("dist")
    # No isolation: the tools are here already, and the test needs no network.
    _run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy, cwd=copy)
    (source,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return source, wheel


def _expected_files() -> set[str]:
    """Every file of every package, by its path in the wheel."""
    expected = set()
    for package, folder in _packages().items():
        prefix = PurePosixPath(*package.split("."))
        for path in folder.rglob("*"):
            name = str(prefix / path.relative_to(folder).as_posix())
            is_code = path.suffix == ".py" and path.parent == folder
            if path.is_file() and (is_code or name.startswith(DATA)):
                expected.add(name)
    return {name for name in expected if "__pycache__" not in name}


@pytest.mark.slow
def test_the_wheel_holds_every_module_and_the_built_in_model(archives: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(archives[1]) as wheel:
        held = set(wheel.namelist())
    assert _expected_files() <= held
    assert any(name.startswith("mlux/experiments/logit_lens") for name in held)
    assert any(name.startswith("mlux/migrations/versions/r0001") for name in held)
    assert "mlux/demo/model/model.safetensors" in held
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"mlux"}


@pytest.mark.slow
def test_the_source_archive_builds_the_wheel(archives: tuple[Path, Path]) -> None:
    with tarfile.open(archives[0]) as source:
        held = {str(PurePosixPath(*PurePosixPath(name).parts[1:])) for name in source.getnames()}
    assert {"pyproject.toml", "LICENSE", "README.md", "experiments/logit_lens.py"} <= held


@pytest.fixture(scope="module")
def installed(archives: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new virtual environment with the wheel in it; the folder of its programs.

    What mlux depends on is lent by the environment of the tests, as a plain folder behind the new
    one's own: a .pth file in a lent folder is not read, so an editable mlux there stays unseen.
    """
    place = tmp_path_factory.mktemp("venv")
    venv.create(place, with_pip=False)
    programs = place / "bin"
    pip = (sys.executable, "-m", "pip", "--python", programs / "python")
    _run(*pip, "install", "--no-deps", "--no-index", archives[1], cwd=place)
    paths = json.loads(
        _run(
            programs / "python",
            "-c",
            "import json, sysconfig; print(json.dumps(sysconfig.get_paths()))",
            cwd=place,
        )
    )
    lent = sorted({sysconfig.get_path("purelib"), sysconfig.get_path("platlib")})
    Path(paths["purelib"], "lent.pth").write_text("\n".join(lent), "utf-8")
    return programs


@pytest.mark.slow
def test_the_wheel_runs_an_experiment_outside_the_checkout(installed: Path, tmp_path: Path) -> None:
    where = "import mlux, mlux.experiments, mlux.migrations as m; print(mlux.__file__, m.__file__)"
    for module in _run(installed / "python", "-c", where, cwd=tmp_path).split():
        assert Path(module).is_relative_to(installed.parent)
    mlux = installed / "mlux"
    _run(mlux, "--db", "x.db", "run", "logit_lens", "--model", "demo", cwd=tmp_path)
    (run,) = json.loads(_run(mlux, "--db", "x.db", "runs", "list", "--json", cwd=tmp_path))
    assert (run["experiment"], run["status"]) == ("logit_lens", "done")
    assert run["model"] == "demo"


def test_the_repository_names_what_each_dependency_is_for() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    start = text.index("\ndependencies = [")
    lines = text[start : text.index("\n]", start)].splitlines()[2:]
    assert all("#" in line for line in lines)
