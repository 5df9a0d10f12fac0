"""The notebook is executed as it stands, but for the cluster: its work is done in its own process."""

import os
from pathlib import Path

import nbclient
import nbformat
import pytest

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
WITHOUT_RAY = """\
import orchestrator.cluster.run
from support.command_line import run_here

orchestrator.cluster.run.run_plan = run_here"""


def test_the_notebook_runs_and_finds_what_it_speaks_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(REPOSITORY), str(REPOSITORY / "tests")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(REPOSITORY / "examples" / "quickstart.ipynb", as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(WITHOUT_RAY))
    nbclient.NotebookClient(notebook, timeout=120, resources={"metadata": {"path": str(tmp_path)}}).execute()
    every = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    shown = [output.data for output in every if output.output_type == "execute_result"]
    lines = "".join(output.text for output in every if output.get("name") == "stdout").splitlines()
    assert "image/png" in shown[0]
    assert shown[1]["text/plain"].startswith("{'sample': 1,")
    assert shown[2]["text/plain"].startswith("(dtype('uint16'), (64, 96), ")
    cells = [line for line in lines if "PmIoU" in line]
    assert len(cells) == 2
    assert all("done PmIoU" in line for line in cells)
