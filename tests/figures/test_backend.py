"""Figures are drawn whatever backend of matplotlib the environment names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.long

# As in an environment without the package that a notebook's kernel names.
HIDDEN = """
import importlib.metadata, sys
sys.modules["matplotlib_inline"] = None
found = importlib.metadata.entry_points
importlib.metadata.entry_points = lambda **of: [] if of.get("group") == "matplotlib.backend" else found(**of)
"""
FIGURE = [
    "figure", "--summary", "resources/expected/mini", "--kind", "to-last", "--models", "mini-llava", "--windows", "3",
    "--categories", "ChooseAttr", "--flows", "question->last", "--output",
]  # fmt: skip


def _run(repo: Path, code: str, backend: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", HIDDEN + code], cwd=repo, capture_output=True, text=True, check=False,
        env=os.environ | {"MPLBACKEND": backend, "PYTHONPATH": str(repo / "workflow")},
    )  # fmt: skip


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "inline", "no-such-backend"])
def test_a_job_draws_without_the_backend_that_is_named(repo: Path, tmp_path: Path, backend: str) -> None:
    drawn = tmp_path / "figure.png"
    ran = _run(repo, f"from crossflow.cli.main import main; sys.exit(main({[*FIGURE, str(drawn)]!r}))", backend)
    assert ran.returncode == 0, ran.stderr
    assert drawn.read_bytes().startswith(b"\x89PNG")


def test_the_python_api_keeps_the_backend_and_names_one_that_is_absent(repo: Path) -> None:
    ran = _run(repo, "import crossflow as cf; cf.plot; import matplotlib; print(matplotlib.get_backend())", "svg")
    assert ran.stdout.strip() == "svg", ran.stderr
    ran = _run(repo, "import crossflow as cf; cf.plot", "inline")
    assert ran.stderr.strip().endswith(
        "CrossflowError: The variable MPLBACKEND names a backend of matplotlib that is not installed: install it, or "
        "unset it."
    )
