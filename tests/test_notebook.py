"""The notebook: kept without outputs, its cells Python, and executed from the first to the last by Jupyter (slow)."""

import ast
import json
from pathlib import Path

import pytest

PATH = Path(__file__).parent.parent / "docs" / "quickstart.ipynb"
BOOK = json.loads(PATH.read_text(encoding="utf-8"))
CODE = ["".join(cell["source"]) for cell in BOOK["cells"] if cell["cell_type"] == "code"]


def test_it_is_kept_clean():
    """No outputs, no numbers of executions, nothing of the machine it was written on; written as Jupyter writes it."""
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in BOOK["cells"] if cell["cell_type"] == "code")
    assert all(cell["metadata"] == {} for cell in BOOK["cells"]) and BOOK["metadata"].keys() == {"kernelspec", "language_info"}
    assert len({cell["id"] for cell in BOOK["cells"]}) == len(BOOK["cells"])
    assert PATH.read_text(encoding="utf-8") == json.dumps(BOOK, indent=1, ensure_ascii=False) + "\n"
    assert all(len(line) <= 132 for cell in BOOK["cells"] for line in "".join(cell["source"]).splitlines())


def test_its_cells_are_python_and_its_commands_are_there():
    calls = [node for text in CODE for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Call)]
    commands = [ast.unparse(node.args[0]).strip("f'\"").split()[0] for node in calls if ast.unparse(node.func) == "run"]
    assert commands == ["train", "evaluate", "predict", "table", "report"]
    assert all((PATH.parent.parent / "experiments" / f"{name}.py").is_file() for name in commands)


@pytest.mark.slow
def test_it_runs(tmp_path, monkeypatch):
    """As on a machine of its own, in an empty folder for its runs; every cell, no error, and what its outputs show is there."""
    monkeypatch.delenv("XLA_FLAGS")   # the eight simulated devices of the other tests
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.reads(PATH.read_text(encoding="utf-8").replace("runs/notebook", str(tmp_path / "runs")), as_version=4)
    nbformat.validate(book)
    nbclient.NotebookClient(book, timeout=900, resources={"metadata": {"path": str(PATH.parent)}}).execute()
    shown = "".join(json.dumps(cell["outputs"]) for cell in book.cells if cell.cell_type == "code")
    assert "image/png" in shown and "<iframe srcdoc=" in shown and "labelled.csv" not in shown.split("<iframe")[1]
    assert "shop encoder" in (tmp_path / "runs" / "table" / "table.md").read_text() and "test/macro_f1" in shown
    for name in ("shop/summary.json", "labelled.csv", "table/report.html"):
        assert (tmp_path / "runs" / name).is_file(), name
