"""The notebooks run from top to bottom, in a folder of their own, and show what they promise."""

import os
from pathlib import Path

import nbformat
import pytest
from example_copy import copy_of_example
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "docs" / "notebooks"
NAMES = ("first_hour", "function_vectors", "steering", "sql")


def test_these_are_the_notebooks_and_they_are_stored_without_output() -> None:
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == set(NAMES)
    for name in NAMES:
        notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
        nbformat.validate(notebook)
        assert not any(cell.get("outputs") for cell in notebook.cells)
        assert notebook.cells[0].source.startswith("# ")


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_notebook_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("MLUX_EXPERIMENTS", "IPYTHONDIR", "JUPYTER_CONFIG_DIR"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    database = tmp_path / "mlux.db"
    if name == "sql":
        copy_of_example(database)
    monkeypatch.setenv("MLUX_DB", str(database))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    client = NotebookClient(notebook, resources={"metadata": {"path": str(tmp_path)}})
    client.execute(env=dict(os.environ))
    shown = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    kinds = {kind for output in shown for kind in output.get("data", {})}
    assert {"text/html", "image/svg+xml"} <= kinds  # tables and charts
    assert not [output for output in shown if output.output_type == "error"]
    # tqdm says so where its widgets are not installed; anything else would be ours.
    said = [out.text for out in shown if out.get("name") == "stderr"]
    assert [text for text in said if "IProgress not found" not in text] == []
