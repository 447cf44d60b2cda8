"""A rule's source inputs are exactly the modules that its verb imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from crossflow.cli.main import VERBS
from crossflow.core.code_version import modules_of, sources_of

# The libraries are loaded once, and each verb by a process of its own that begins with them.
IMPORTED = """
import contextlib, io, os, sys
import matplotlib.pyplot, pandas, pyarrow.parquet, torch, transformers

for verb in sys.argv[1:]:
    if not (child := os.fork()):
        from crossflow.cli import main
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            main([verb, "--help"])
        print(verb, *(name for name in sys.modules if name.partition(".")[0] == "crossflow"), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
"""


@pytest.fixture(scope="module")
def imported(repo: Path) -> dict[str, set[str]]:
    environment = {"PYTHONPATH": str(repo / "workflow"), "PATH": ""}
    command = [sys.executable, "-c", IMPORTED, *VERBS]
    ran = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    return {verb: set(modules) for verb, *modules in map(str.split, ran.stdout.splitlines())}


@pytest.mark.parametrize("verb", VERBS)
def test_the_closure_is_what_is_really_imported(verb: str, imported: dict[str, set[str]]) -> None:
    # `python -m crossflow` is the one module that this way in does not pass through.
    assert {*imported[verb], "crossflow.__main__"} == modules_of(verb)


def test_sources_are_files_relative_to_the_root(repo: Path) -> None:
    for verb in VERBS:
        files = sources_of(verb, repo)
        assert files == sorted(files)
        assert all((repo / file).is_file() and not Path(file).is_absolute() for file in files)


def test_light_verbs_do_not_depend_on_the_engine(repo: Path) -> None:
    engine = "workflow/crossflow/knockout.py"
    assert engine in sources_of("knockout", repo)
    for verb in ("questions", "summary", "figure", "shapes"):
        assert engine not in sources_of(verb, repo)
