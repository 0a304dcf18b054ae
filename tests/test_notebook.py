"""The notebook runs from its first cell to its last, and is committed without what it printed."""

import json
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).parents[1] / "launch"


@pytest.mark.timeout(600)
def test_the_notebook_runs_and_was_committed_without_outputs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(FOLDER.parent))
    notebook = nbformat.read(FOLDER / "first_hour.ipynb", as_version=4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in code)
    (settings,) = (cell for cell in code if "parameters" in cell.metadata.get("tags", ()))
    settings.source += f"\nSTEPS, IMAGES, RUNS = 3, 200, Path({str(tmp_path / 'runs')!r})"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": FOLDER}}).execute()

    runs = tmp_path / "runs"
    for name in ("phantom", "mine"):
        result = json.loads((runs / name / "result.json").read_text())
        assert result["steps"] == 3 and result["test"]["n"] > 0
    assert len((runs / "predictions.csv").read_text().splitlines()) == 17
    assert len(list((runs / "evidence").iterdir())) == 16
    printed = {cell.id: cell.outputs for cell in code}
    kinds = {key: {kind for out in printed[key] for kind in out.get("data", ())} for key in printed}
    assert all("image/png" in kinds[key] for key in ("curves", "samples", "explain")), kinds
    assert "accuracy on validation images" in printed["loss"][-1]["text"]
