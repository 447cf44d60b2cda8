"""What an edit reruns: exactly the jobs whose numbers it may change, by both tools; a killed job never mixes two codes."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from copied import AFTER_ANSWERS, AFTER_KNOCKOUT, BIN, FIGURES, RECORD, Copy, Tree, jobs_of
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import read_parquet
from finished_study import Finished

pytestmark = pytest.mark.workflow

PACKAGE = Path("workflow/crossflow")
Edit = Callable[[Path], None]


def _replacing(module: str, old: str, new: str) -> Edit:
    def edit(root: Path) -> None:
        file = root / PACKAGE / module
        text = file.read_text()
        assert text.count(old) >= 1, f"{module} does not hold {old!r} any more"
        file.write_text(text.replace(old, new, 1))

    return edit


def _appending(module: str, text: str) -> Edit:
    def edit(root: Path) -> None:
        with (root / PACKAGE / module).open("a") as file:
            file.write(text)

    return edit


def _both(*edits: Edit) -> Edit:
    def edit(root: Path) -> None:
        for each in edits:
            each(root)

    return edit


def _adding(module: str, text: str) -> Edit:
    return lambda root: (root / PACKAGE / module).write_text(text) and None


NEW_TABLE = _both(
    _adding("analysis/sizes.py", 'def tables(results):\n    return {"sizes": [{"n": len(results.categories)}]}\n'),
    _replacing(
        "analysis/tables.py",
        "SUMMARIES = {",
        'SUMMARIES = {\n    "sizes": Summary("crossflow.analysis.sizes", {"sizes": {"n": Column(WHOLE, "x")}}, ("answers",)),',
    ),
)
NEW_FIGURE = _both(
    _adding("figures/blank.py", "from matplotlib.figure import Figure\n\n\ndef draw(figure):\n    return Figure()\n"),
    _replacing(
        "figures/kinds.py",
        "FIGURES = {",
        'FIGURES = {\n    "heat-map-2": FigureKind("crossflow.figures.blank", "blank-{model}", ("effects",), "none"),',
    ),
)
MODEL_JOBS = {"answers": 1, **AFTER_ANSWERS}
SHOWN = {**FIGURES, "examples": 1, "explorer": 1, **RECORD}

EDITS: dict[str, tuple[Edit, dict[str, int]]] = {
    "a help text": (
        _replacing("experiments/knockouts.py", "flows: Flows, source->target,", "flows: Some flows,"), {},
    ),
    "a message": (_replacing("core/flows.py", "would knock out the whole model", "would be too wide"), {}),
    "a logged line": (_replacing("experiments/selection.py", "a no-op knockout changes", "nothing changes"), {}),
    "a comment": (_appending("data/gqa.py", "\n# a comment\n"), {}),
    "a docstring": (_replacing("models/attention.py", '"""', '"""Now. '), {}),
    "formatting": (_replacing("engine/edges.py", "MOVED, Flow", "MOVED,  Flow"), {}),
    "a type annotation": (
        _replacing("analysis/counts.py", "def noise(table: Knockouts) -> dict[str, Any]:", "def noise(table):"), {},
    ),
    "the planning of memory": (_replacing("engine/planning.py", "AT_ONCE = 8", "AT_ONCE = 4"), {}),
    "a new verb": (_replacing("cli/verbs.py", "VERBS = {", 'VERBS = {\n    "new": "crossflow.new:run",'), {}),
    "a label of a measure": (
        _replacing("core/measures.py", "flipped answers (fraction)", "answers that flip"),
        {"examples": 1, "explorer": 1, **RECORD},
    ),
    "a new summary table": (NEW_TABLE, {"summary_sizes": 1, **RECORD}),
    "a new figure": (NEW_FIGURE, {"figure_heat_map_2": 1, **RECORD}),
    "a colour": (_replacing("figures/style.py", "#D55E00", "#D55E01"), SHOWN),
    "a measure": (
        _replacing("experiments/measures.py", "/ p_clean * 100", "/ p_clean * 200"),
        {"knockout": 1, **AFTER_KNOCKOUT},
    ),
    "the attention function": (_appending("models/attention.py", "\nCHANGED = True\n"), MODEL_JOBS),
}  # fmt: skip


@pytest.fixture(scope="module")
def finished(finished_ci: Finished, tmp_path_factory: pytest.TempPathFactory) -> Tree:
    """The study `ci`, finished by DVC through snakemake."""
    return Tree(finished_ci.copy_to(tmp_path_factory.mktemp("edits") / "tree"))


@pytest.fixture
def restored(finished: Tree) -> Iterator[Tree]:
    """The finished study, with its sources put back afterwards."""
    sources = {path: path.read_bytes() for path in (finished.root / PACKAGE).rglob("*.py")}
    yield finished
    for path in (finished.root / PACKAGE).rglob("*.py"):
        if path not in sources:
            path.unlink()
    for path, content in sources.items():
        path.write_bytes(content)


@pytest.mark.parametrize("name", EDITS)
def test_an_edit_plans_exactly_the_jobs_whose_numbers_it_may_change(restored: Tree, name: str) -> None:
    edit, jobs = EDITS[name]
    edit(restored.root)
    assert restored.planned() == jobs


@pytest.mark.parametrize(
    "name",
    ["a message", *(pytest.param(name, marks=pytest.mark.slow) for name in ("a help text", "a comment", "a new verb"))],
)
def test_an_edit_that_shapes_no_number_starts_no_job_by_dvc_either(restored: Tree, name: str) -> None:
    EDITS[name][0](restored.root)
    assert jobs_of(restored.run("dvc", "repro")) == {}


def _killed_in_the_middle(copy: Copy, table: Path) -> None:
    """Run the knockout job and kill it, with all its processes, after its first finished questions."""
    journal = table.with_name(f"{table.stem}.journal.jsonl")
    command = [str(BIN / "snakemake"), "--cores", "1", "--resources", "gpu=1", "--", str(table.relative_to(copy.root))]
    process = subprocess.Popen(
        command, cwd=copy.root, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    while process.poll() is None and not (journal.exists() and journal.read_bytes().count(b"\n") > 1):
        time.sleep(0.005)
    assert process.poll() is None, "the job ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    copy.snakemake("--unlock")
    assert not table.exists()


def test_a_killed_job_that_resumes_after_an_edit_has_no_row_of_the_old_code(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path)
    parameters = copy.root / "params.yaml"
    parameters.write_text(parameters.read_text().replace("study: mini", "study: ci"))
    copy.edit_parameters(questions_per_category=120)
    copy.snakemake("--until", "answers")
    table = copy.root / "results/ci/knockout/random-llava/w3/ChooseAttr.parquet"
    wanted = str(table.relative_to(copy.root))
    log = copy.root / "logs/ci/knockout/random-llava/w3.log"

    _killed_in_the_middle(copy, table)
    copy.snakemake("--", wanted)
    assert "resuming from" in log.read_text(), "without an edit, what was finished is kept"
    before = _changes(table)
    np.testing.assert_allclose(before["change_percent"], 100 * before["relative"], rtol=1e-9, atol=1e-9)

    table.unlink()
    _killed_in_the_middle(copy, table)
    EDITS["a measure"][0](copy.root)
    said = "belongs to another study or version: set aside as"
    assert said in copy.snakemake("--", wanted), "a warning of a job is shown on the console, too"
    assert said in log.read_text()
    after = _changes(table)
    np.testing.assert_allclose(after["change_percent"], 200 * after["relative"], rtol=1e-9, atol=1e-9)
    assert len(after["relative"]) == len(before["relative"])


def _changes(table: Path) -> dict[str, np.ndarray]:
    rows, _ = read_parquet(table, KNOCKOUT)
    rows = rows[rows.edges > 0]
    assert rows.change_percent.abs().max() > 1
    relative = (rows.p_knockout - rows.p_clean) / rows.p_clean
    return {"change_percent": rows.change_percent.to_numpy(), "relative": relative.to_numpy()}
