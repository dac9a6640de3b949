"""A command pays only for what it uses: what a process has imported when it ends."""

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from mlux.cli import main
try:
    main(sys.argv[1:])
finally:
    print("MODULES", *sorted(sys.modules), file=sys.stderr)
"""
HEAVY = {
    "mlx", "mlx_lm", "transformers", "numpy", "pandas", "scipy",
    "sqlalchemy", "alembic", "rich", "tqdm", "altair", "vl_convert",
}  # fmt: skip


def _imported(*arguments: str, cwd: Path) -> set[str]:
    finished = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments], cwd=cwd, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    return set(finished.stderr.splitlines()[-1].split()[1:])


@pytest.mark.parametrize(
    "arguments",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("runs", "list", "--help"),
        ("compare", "--help"),
        ("plot", "--help"),
        ("report", "--help"),
        ("claim", "list", "--help"),
        ("runs", "watch", "--help"),
        ("prompts", "list"),
    ],
    ids=" ".join,
)
def test_help_and_prompts_import_nothing_heavy(arguments: tuple[str, ...], tmp_path: Path) -> None:
    assert not _imported(*arguments, cwd=tmp_path) & HEAVY


def test_the_help_of_the_root_imports_no_command(tmp_path: Path) -> None:
    of_the_root = {"mlux.cli.root", "mlux.cli.groups", "mlux.cli.settings"}
    imported = _imported("--help", cwd=tmp_path)
    assert {name for name in imported if name.startswith("mlux.cli.")} == of_the_root


def test_listing_runs_imports_sqlalchemy_and_nothing_heavier(
    recorded_db: Path, tmp_path: Path
) -> None:
    imported = _imported("--db", str(recorded_db), "runs", "list", cwd=tmp_path)
    assert "sqlalchemy" in imported
    assert not imported & (HEAVY - {"sqlalchemy"})


@pytest.mark.parametrize("module", ["mlux", "mlux.registry", "mlux.prompts", "mlux.results"])
def test_light_modules_stay_light(module: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert not set(finished.stdout.split()) & (HEAVY | {"click"})


@pytest.mark.parametrize(
    "module", ["mlux.compare", "mlux.store", "mlux.charts.choice", "mlux.report"]
)
def test_what_reads_results_does_not_import_mlx(module: str) -> None:
    script = f"import {module}, sys; print(*sys.modules)"
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert not set(finished.stdout.split()) & {"mlx", "mlx_lm", "transformers"}
