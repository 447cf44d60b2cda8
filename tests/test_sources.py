"""A rule's source inputs are exactly the modules that its verb imports."""

import subprocess
import sys
from pathlib import Path

import pytest

from crossflow.cli import VERBS
from crossflow.sources import modules_of, sources_of

IMPORTED = """
import sys
from crossflow.cli import main
try:
    main([sys.argv[1], "--help"])
except SystemExit:
    pass
print(*sorted(name for name in sys.modules if name.partition(".")[0] == "crossflow"), sep="\\n", file=sys.stderr)
"""


@pytest.mark.parametrize("verb", VERBS)
def test_the_closure_is_what_is_really_imported(verb: str, repo: Path) -> None:
    environment = {"PYTHONPATH": str(repo / "workflow"), "PATH": ""}
    ran = subprocess.run(
        [sys.executable, "-c", IMPORTED, verb], capture_output=True, text=True, env=environment, check=True
    )
    # `python -m crossflow` is the one module that this way in does not pass through.
    assert {*ran.stderr.split(), "crossflow.__main__"} == modules_of(verb)


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
