"""Code versions: which edits change them, and that they cover all code that numbers pass through."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from crossflow.analysis.tables import SUMMARIES
from crossflow.core import code_version
from crossflow.core.code_version import SHAPE_NO_NUMBER, modules_behind
from crossflow.figures.kinds import FIGURES
from tiny import load_tiny

EXPERIMENT = "crossflow.experiments.toy"
FIGURE = "crossflow.figures.toy"

# A small package of the same name, of which `experiments.toy` and `figures.toy` are looked at.
SOURCES = {
    "__init__": '__version__ = "1"\n',
    "experiments/toy": '''"""An experiment."""

import logging

from crossflow import __version__
from crossflow.core import errors, measures
from crossflow.cli.main import verb
from crossflow.engine.near import near

log = logging.getLogger(__name__)
SCALE = 2


def run(value: float, at: int = 3) -> float:
    """Run it."""
    if value < 0:
        raise errors.ToyError(f"{value} is below 0", value)
    log.info("running %s", value)
    return near(value) * SCALE + at
''',
    "engine/near": "def near(value):\n    from crossflow.engine.far import far\n\n    return far(value) + 1\n",
    "engine/far": "def far(value):\n    return value - 1\n",
    "engine/apart": "UNUSED = 1\n",
    "core/errors": "class ToyError(Exception):\n    limit = 1\n",
    "core/measures": 'class Measure:\n    pass\n\n\nCHANGE = Measure("change", words="change (%)", columns=("a", "b"))\n',
    "cli/main": "def verb(value):\n    return value\n",
    "cli/__init__": "X = 0\n",
    "figures/toy": "from crossflow.core.measures import CHANGE\n\n\ndef draw():\n    return CHANGE\n",
}


def _forget() -> None:
    for function in (
        code_version._parsed, code_version._imports, code_version._code_of, code_version.code_version
    ):  # fmt: skip
        function.cache_clear()


class Package:
    """The small package in a folder."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = root / "crossflow"
        for name, text in SOURCES.items():
            self._file(name).parent.mkdir(parents=True, exist_ok=True)
            self._file(name).write_text(text)
        monkeypatch.setattr(code_version, "_PACKAGE", self.folder)

    def _file(self, name: str) -> Path:
        return self.folder / f"{name}.py"

    def edit(self, name: str, old: str, new: str) -> None:
        text = self._file(name).read_text()
        assert text.count(old) == 1, "the edit is of one place"
        self._file(name).write_text(text.replace(old, new))

    def version(self, module: str = EXPERIMENT) -> str:
        _forget()
        return code_version.code_version(module)


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Package]:
    yield Package(tmp_path / "here", monkeypatch)
    _forget()


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("experiments/toy", "SCALE = 2", "SCALE = 2  # twice", id="comment"),
        pytest.param("experiments/toy", '"""Run it."""', '"""Run it, and give what comes of it."""', id="docstring"),
        pytest.param("experiments/toy", '"""An experiment."""', '"""Another text."""', id="docstring of a module"),
        pytest.param("experiments/toy", "near(value) * SCALE + at", "(\n        near(value) * SCALE\n    ) + at", id="formatting"),
        pytest.param("experiments/toy", '"running %s", value', '"now running %s (%s)", value, at', id="log call"),
        pytest.param("experiments/toy", '    log.info("running %s", value)\n', "", id="log call taken away"),
        pytest.param("experiments/toy", 'f"{value} is below 0", value', '"negative"', id="raise message"),
        pytest.param("experiments/toy", "value: float, at: int = 3) -> float", "value: object, at=3)", id="annotations"),
        pytest.param(
            "experiments/toy",
            "from crossflow.core import errors, measures\nfrom crossflow.cli.main import verb\n",
            "from crossflow.cli.main import verb\nfrom crossflow.core import errors, measures\n",
            id="order of imports",
        ),
        pytest.param("cli/main", "return value", "return value + 1", id="command line"),
        pytest.param("cli/__init__", "X = 0", "X = 1", id="command line's package"),
        pytest.param("core/errors", "limit = 1", "limit = 2", id="exempt module"),
        pytest.param("core/measures", "change (%)", "change of the answer (%)", id="label"),
        pytest.param("engine/apart", "UNUSED = 1", "UNUSED = 2", id="module that is not imported"),
    ],
)  # fmt: skip
def test_an_edit_that_shapes_no_number_changes_no_code_version(package: Package, name: str, old: str, new: str) -> None:
    before = package.version()
    package.edit(name, old, new)
    assert package.version() == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        pytest.param("experiments/toy", "SCALE = 2", "SCALE = 3", id="constant"),
        pytest.param("experiments/toy", "* SCALE", "/ SCALE", id="operator"),
        pytest.param("experiments/toy", "at: int = 3", "at: int = 4", id="default"),
        pytest.param("experiments/toy", "value < 0", "value <= 0", id="condition of an error"),
        pytest.param("experiments/toy", "SCALE + at", "SCALE + value", id="variable"),
        pytest.param("experiments/toy", "def run(", "@staticmethod\ndef run(", id="decorator"),
        pytest.param("engine/near", "+ 1", "+ 2", id="imported module"),
        pytest.param("engine/far", "- 1", "- 2", id="module that is imported indirectly, in a function"),
        pytest.param("core/measures", '("a", "b")', '("b", "a")', id="column of a measure"),
        pytest.param("__init__", '"1"', '"2"', id="version"),
    ],
)
def test_an_edit_that_may_shape_a_number_changes_the_code_version(
    package: Package, name: str, old: str, new: str
) -> None:
    before = package.version()
    package.edit(name, old, new)
    assert package.version() != before


def test_a_label_counts_where_a_figure_shows_it(package: Package) -> None:
    experiment, figure = package.version(), package.version(FIGURE)
    package.edit("core/measures", "change (%)", "change of the answer (%)")
    assert package.version() == experiment
    assert package.version(FIGURE) != figure


def test_the_code_version_is_the_same_in_another_folder(
    package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = package.version()
    Package(tmp_path / "there", monkeypatch)
    assert package.version() == before


def test_every_module_that_is_imported_in_whatever_form_is_behind_the_numbers(package: Package) -> None:
    _forget()
    assert modules_behind(EXPERIMENT) == [
        "crossflow", "crossflow.core.measures", "crossflow.engine.far", "crossflow.engine.near", EXPERIMENT,
    ]  # fmt: skip


def test_an_exempt_module_that_is_named_counts(package: Package) -> None:
    before = package.version("crossflow.core.errors")
    package.edit("core/errors", "limit = 1", "limit = 2")
    assert package.version("crossflow.core.errors") != before


def test_a_module_that_does_not_exist_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"there is no module crossflow\.experiments\.none"):
        modules_behind("crossflow.experiments.none")


# What a study's verbs really run, in an order in which each finds what it needs. A line: name, options.
_RESULTS = [
    "--results",
    "results",
    "--curves",
    "tiny:1",
    "tiny:3",
    "tiny:top",
    "--categories",
    "ChooseAttr",
    "--seed",
    "0",
]
_MODEL = ["--model-path", "tiny", "--prompt", "vicuna-v1", "--max-new-tokens", "2"]
_JOB = ["--questions", "results/questions/ChooseAttr.csv", "--root", "world", "--device", "cpu", *_MODEL]
_ANSWERED = [*_JOB, "--answers", "results/answers/tiny", "--select", "all"]
_FLOWS = [
    "--flows",
    "question->last",
    "image->last",
    "last->last",
    "image->last+image->question",
    "only:image->question",
]
_CONTROLS = ["--controls", "related~random1->question", "related~moved->question", "--stride", "2"]


def _knockout(window: str, *options: str) -> list[str]:
    output = ["--window", window, "--output", f"results/knockout/tiny/w{window}"]
    return ["knockout", *_ANSWERED, *output, *options]


def _figure(kind: str) -> list[str]:
    options = ["--summary", "results/summary", "--kind", kind, "--models", "tiny", "--windows", "1"]
    return ["figure", *options, "--categories", "ChooseAttr", "--output", f"{kind}.png"]


_CHOSEN = [
    "--output",
    "results/questions/ChooseAttr.csv",
    "--rejections",
    "results/questions/ChooseAttr.rejections.csv",
]
_PAIRED = [
    "--questions", "results/questions/ChooseAttr.csv", "--category", "ChooseAttr", "--root", "world", "--split",
    "val_balanced",
]  # fmt: skip
RUNS: list[tuple[str, list[str]]] = [
    ("mini.world", ["mini-world", "--scenes", "3", "--seed", "0", "--root", "world"]),
    ("mini.random_model", ["random-model", "--seed", "0", "--output", "random"]),
    (
        "data.choice",
        ["questions", "--root", "world", "--split", "val_balanced", "--category", "ChooseAttr", "--number", "2", *_CHOSEN],
    ),
    (
        "mini.pairs",
        ["mini-pairs", *_PAIRED, "--output", "pairs.csv", "--images", "pairs.zip", "--rejections", "pairs.rejections.csv"],
    ),
    ("data.pairs", ["pairs", *_PAIRED, "--output", "pairs.csv", "--rejections", "pairs.rejections.csv"]),
    (
        "experiments.answers",
        ["answers", *_JOB, "--baselines", "zeroed", "swapped", "--output", "results/answers/tiny",
         "--logit-lens", "results/lens/tiny", "--select", "all"],
    ),
    ("experiments.knockouts", _knockout("1", *_FLOWS, *_CONTROLS, "--whole-answer")),
    ("experiments.knockouts", _knockout("3", "--flows", "image->last", "--engine", "reference")),
    ("experiments.knockouts", _knockout("top", "--flows", "image->last", "image->all")),
    ("experiments.knockouts", _knockout("2", "--flows", "image=swapped->question", "image=mean->question", "image_sinks->last")),
    ("experiments.heads", ["heads", *_ANSWERED, "--flows", "image->last", "text_sinks->last", "--subsets", "2", "--output", "results/heads/tiny"]),
    ("experiments.patching", ["patching", *_ANSWERED, "--pairs", "results/questions", "--stride", "2", "--output", "results/patching/tiny"]),
    ("experiments.image_lens", ["image-lens", *_ANSWERED, "--output", "results/image_lens/tiny"]),
    *(
        (summary.module.removeprefix("crossflow."), ["summary", "--summary", name, *_RESULTS])
        for name, summary in SUMMARIES.items()
    ),
    (
        "analysis.metrics",
        ["metrics", "--effects", "results/summary/effects.csv", "--answers", "results/summary/answers.csv",
         "--output", "results/metrics.json"],
    ),
    ("analysis.claims_text", ["claims", *_RESULTS, "--lens", "--output", "results/claims.json"]),
    (
        "analysis.expected",
        ["compare", "--summary", "results/summary", "--expected", "results/summary", "--output", "comparison.csv"],
    ),
    *(
        (FIGURES[kind].module.removeprefix("crossflow."), _figure(kind))
        for kind in ("to-last", "overview", "heat-map", "model-comparison", "logit-lens", "fusion-depth", "heads", "head-subsets", "attention", "patching", "image-lens")
    ),
    ("figures.examples", ["examples", *_RESULTS, "--root", "world", *_MODEL, "--output", "e.pdf", "e.png"]),
    ("figures.explorer", ["explorer", *_RESULTS, "--root", "world", "--maps", "--output", "explorer.html"]),
    ("figures.table_page", ["page", "--table", "results/summary/effects.csv", "--title", "T", "--output", "e.html"]),
]  # fmt: skip

# What an import runs does not count: all modules are imported first, and bodies of modules and classes are left out.
PROFILED = """
import importlib, inspect, json, pkgutil, sys, threading

import crossflow

for each in pkgutil.walk_packages(crossflow.__path__, "crossflow."):
    if each.name != "crossflow.__main__":
        importlib.import_module(each.name)
runs = json.load(sys.stdin)
called = {}

def note(frame, event, argument):
    if event == "call":
        called[frame.f_code] = frame.f_globals

from crossflow.cli.main import main

found = []
for module, command in runs:
    called.clear()
    threading.setprofile(note)
    sys.setprofile(note)
    status = main(command)
    sys.setprofile(None)
    threading.setprofile(None)
    assert status == 0, command
    names = {
        scope.get("__name__") or "" for code, scope in called.items() if code.co_flags & inspect.CO_OPTIMIZED
    }
    found.append([module, sorted(name for name in names if name.partition(".")[0] == "crossflow")])
json.dump(found, open("called.json", "w"))
"""


@pytest.fixture(scope="module")
def called(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Module that a rule asks for the code version of -> all modules of which its verb called a function."""
    folder = tmp_path_factory.mktemp("called")
    load_tiny(folder / "tiny", layers=2, width=32)
    environment = os.environ | {"PYTHONPATH": str(repo / "workflow"), "OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [sys.executable, "-c", PROFILED], cwd=folder, env=environment, input=json.dumps(RUNS), capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-3000:]
    found: dict[str, set[str]] = {}
    for module, names in json.loads((folder / "called.json").read_text()):
        found.setdefault(module, set()).update(names)
    return found


def _asked_with(module: str) -> list[str]:
    """What rules name: a summary or figure together with the module that calls it by its entry in a table."""
    callers = dict.fromkeys((summary.module for summary in SUMMARIES.values()), "crossflow.analysis.summary")
    callers |= dict.fromkeys((figure.module for figure in FIGURES.values()), "crossflow.figures.figure")
    return [module, *([callers[module]] if module in callers else [])]


@pytest.mark.long
@pytest.mark.parametrize("module", dict.fromkeys(module for module, _ in RUNS))
def test_the_code_version_of_a_verb_covers_every_module_that_it_passes_through(
    module: str, called: dict[str, set[str]]
) -> None:
    needed = {name for name in called[module] if not f"{name}.".startswith("crossflow.cli.")} - SHAPE_NO_NUMBER
    assert f"crossflow.{module}" in needed, "the verb runs what its rule asks for"
    missing = needed - set(modules_behind(*_asked_with(f"crossflow.{module}")))
    assert not missing, f"the code version of {module} misses {', '.join(sorted(missing))}"


def test_an_edit_of_the_python_api_reruns_no_job() -> None:
    behind = modules_behind(*(name for module, _ in RUNS for name in _asked_with(f"crossflow.{module}")))
    assert "crossflow" in behind, "the version of the package counts"
    assert "crossflow.api" not in behind


def test_the_rules_ask_for_the_code_versions_that_are_tested(repo: Path) -> None:
    """Every module that a rule names is run above, or is said here to be run elsewhere."""
    texts = [rules.read_text() for rules in (repo / "workflow/rules").glob("*.smk")]
    asked = {name for text in texts for name in re.findall(r'\bcode\("([\w.]+)"\)', text)}
    for caller, named in (("analysis.summary", "summary.module"), ("figures.figure", "FIGURES[kind].module")):
        assert any(f'code("{caller}", {named}.removeprefix("crossflow."))' in text for text in texts)
    # Too long here, or in need of the published sets, of records or of downloads.
    elsewhere = {"mini.training", "mini.model_card", "data.published_overlap", "analysis.provenance"}
    elsewhere |= {"data.gqa_parquet", "data.parquet_table"}
    tables = {entry.module.removeprefix("crossflow.") for entry in (*SUMMARIES.values(), *FIGURES.values())}
    assert (asked | tables) - {module for module, _ in RUNS} == elsewhere
