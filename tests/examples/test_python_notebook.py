"""examples/python.ipynb runs from its first cell to its last, and its outputs belong to its sources."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.inference.test_predictor import write_checkpoint

NOTEBOOK = Path(__file__).parents[2] / "examples" / "python.ipynb"


@pytest.fixture
def notebook():
    return nbformat.read(NOTEBOOK, 4)


def execute(notebook, folder):
    NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}}
    ).execute()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")  # of the clients of kernels
def test_every_cell_runs_and_a_cell_that_fails_is_an_error(notebook, tmp_path, monkeypatch):
    write_checkpoint(tmp_path, gpt2={"repeats": 4})
    monkeypatch.setenv("PREFIXVLM_CKPT", str(tmp_path / "x.ckpt"))
    source = nbformat.v4.new_code_cell("model.caption(3)")
    del source["id"]
    notebook.cells.append(nbformat.from_dict({**source, "id": "fails"}))
    with pytest.raises(CellExecutionError, match="an image is of type int"):
        execute(notebook, tmp_path)
    *cells, failed = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    assert all(output.output_type != "error" for cell in cells for output in cell.outputs)
    assert failed.outputs[-1].output_type == "error"


def test_the_committed_outputs_are_whole_small_and_of_no_machine(notebook):
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert len(text) < 100_000
    assert not re.search(r"/(home|work|tmp|root|Users)/", text)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == [*range(1, len(cells) + 1)]
    outputs = [output for cell in cells for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error" or output.get("name") == "stderr"]
    pictures = [output for output in outputs if "<img src=" in str(output.get("data", {}).get("text/html", ""))]
    assert len(pictures) >= 4  # a caption beneath its image
