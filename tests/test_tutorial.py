"""The tutorial: it runs, and is kept without its output, which the documentation site makes."""

import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

from crossflow.study.config_files import read_config


@pytest.fixture(scope="module")
def tutorial(repo: Path) -> nbformat.NotebookNode:
    return nbformat.read(repo / "docs/tutorial.ipynb", as_version=4)


def test_it_is_kept_without_output(tutorial: nbformat.NotebookNode) -> None:
    nbformat.validate(tutorial)
    code = [cell for cell in tutorial.cells if cell.cell_type == "code"]
    assert len(code) > 10
    assert [cell.outputs or cell.execution_count for cell in code] == [None] * len(code)


def test_it_ends_with_real_models_that_params_yaml_names(repo: Path, tutorial: nbformat.NotebookNode) -> None:
    last = tutorial.cells[-1]
    assert last.cell_type == "markdown"
    models = read_config(repo / "params.yaml")["models"]
    for name in ("llava15-7b", "qwen25-vl-7b"):
        assert f'cf.load("{name}")' in last.source
        assert name in models


@pytest.mark.long
def test_every_cell_runs_and_prints_nothing_on_standard_error(
    repo: Path, tutorial: nbformat.NotebookNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", f"{repo / 'workflow'}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    # Verbs that ran in this process leave their own backend.
    monkeypatch.delenv("MPLBACKEND", raising=False)
    client = NotebookClient(
        tutorial, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(repo / "docs")}}
    )
    client.execute()
    outputs = [output for cell in tutorial.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output.text for output in outputs if output.get("name") == "stderr"]
    drawn = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(drawn) >= 6, "figures and images are shown"
