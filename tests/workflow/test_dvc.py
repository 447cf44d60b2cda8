"""DVC and snakemake on one tree: neither does the other's work again, and neither keeps an old result as a new one."""

import json
import os
import re
import shutil
from pathlib import Path
from random import Random

import pytest
import yaml

from copied import ACCURACY, AFTER_KNOCKOUT, FIGURES, RECORD, SUMMARY, Copy, Tree, jobs_of
from finished_study import Finished

pytestmark = pytest.mark.workflow

NOTHING: dict[str, int] = {}
OTHER_WINDOW = {"knockout": 1, **AFTER_KNOCKOUT}
EVERYTHING = {"shapes": 1, "random_llava": 1, "hashes": 1, "questions": 1, "answers": 1, **ACCURACY, **OTHER_WINDOW}


class Versioned(Tree):
    """A tree under git in which DVC runs."""

    def repro(self, *options: str, status: int = 0) -> dict[str, int]:
        """`dvc repro`; returns the jobs that it led to."""
        return jobs_of(self.run("dvc", "repro", *options, status=status))

    def is_clean(self) -> bool:
        """What DVC and git say after a finished run: nothing but the lock is new."""
        changed = {line[3:] for line in self.run("git", "status", "--porcelain").splitlines()}
        return "up to date" in self.run("dvc", "status") and changed <= {"dvc.lock", "params.yaml"}

    def commit(self) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "--allow-empty", "-m", "state")


def _clone(source: Versioned, root: Path) -> Versioned:
    source.run("git", "clone", "-q", str(source.root), str(root))
    return Versioned(root)


@pytest.fixture(scope="module")
def origin(finished_ci: Finished, tmp_path_factory: pytest.TempPathFactory) -> Versioned:
    """The study `ci`, reproduced by DVC, committed and pushed to a remote in a folder."""
    root = tmp_path_factory.mktemp("origin") / "tree"
    tree = Versioned(finished_ci.copy_to(root))
    assert finished_ci.jobs == EVERYTHING
    assert tree.is_clean()
    tree.run("dvc", "remote", "add", "-d", "local", str(root.parent / "remote"))
    tree.commit()
    tree.run("dvc", "push", "-q")
    return tree


@pytest.fixture
def clone(origin: Versioned, tmp_path: Path) -> Versioned:
    """A clone elsewhere, pulled, with other modification times and in another order."""
    tree = _clone(origin, tmp_path / "clone")
    tree.run("dvc", "pull", "-q")
    random = Random(0)
    for path in sorted(tree.root.rglob("*")):
        if path.is_file() and not {".git", ".dvc"} & set(path.relative_to(tree.root).parts):
            os.utime(path, (time := random.randrange(10**9, 17 * 10**8), time))
    return tree


def test_after_either_tool_the_other_has_nothing_to_do(origin: Versioned, tmp_path: Path) -> None:
    assert origin.planned() == NOTHING
    assert origin.repro() == NOTHING

    fresh = _clone(origin, tmp_path / "fresh")
    assert jobs_of(fresh.snakemake("--verbose")).keys() - {"all"} == EVERYTHING.keys()
    assert fresh.repro() == NOTHING
    assert fresh.is_clean()
    assert fresh.planned() == NOTHING


def test_a_pulled_clone_is_up_to_date_for_both(clone: Versioned) -> None:
    assert clone.planned() == NOTHING
    assert clone.repro() == NOTHING
    assert clone.is_clean()


def test_a_clone_pulls_everything_from_an_archive(origin: Versioned, tmp_path: Path) -> None:
    script, archive = "workflow/scripts/results_archive.py", str(tmp_path / "results.zip")
    origin.run("python", script, "pack", archive)
    fresh = _clone(origin, tmp_path / "fresh")
    fresh.run("python", script, "pull", archive)
    assert _results(fresh) == _results(origin)
    assert fresh.planned() == NOTHING
    assert fresh.repro() == NOTHING
    assert fresh.is_clean()

    # What DVC does not have stays.
    claims = fresh.root / "results/ci/claims.md"
    claims.write_text("my notes")
    assert "results/ci/claims.md" in fresh.run("python", script, "pull", archive, status=1)
    assert claims.read_text() == "my notes"


def _results(tree: Versioned) -> set[str]:
    return {path.relative_to(tree.root).as_posix() for path in tree.root.glob("results/ci/**/*") if path.is_file()}


@pytest.mark.parametrize("first", ["dvc", pytest.param("snakemake", marks=pytest.mark.slow)])
def test_a_changed_parameter_in_a_clone_runs_exactly_itsjobs_of(
    origin: Versioned, clone: Versioned, tmp_path: Path, first: str
) -> None:
    clone.edit_parameters(windows=[5])
    assert clone.planned() == OTHER_WINDOW
    if first == "dvc":
        assert clone.repro() == OTHER_WINDOW
    else:
        clone.snakemake()
        assert clone.repro() == NOTHING
    assert clone.is_clean()
    assert clone.planned() == NOTHING
    knockouts = {name for name in _results(clone) if name.endswith("ChooseAttr.parquet") and "/knockout/" in name}
    assert knockouts == {"results/ci/knockout/random-llava/w5/ChooseAttr.parquet"}, "an old result is kept as a new one"

    # What was committed is what was computed.
    clone.commit()
    clone.run("dvc", "push", "-q")
    other = _clone(clone, tmp_path / "other")
    other.run("dvc", "pull", "-q")
    assert _results(other) == _results(clone)
    for name in _results(clone):
        assert (other.root / name).read_bytes() == (clone.root / name).read_bytes()
    assert other.planned() == NOTHING

    # And the older state is up to date again, once it is checked out.
    other.run("git", "checkout", "-q", "HEAD~1")
    other.run("dvc", "pull", "-q")
    assert _results(other) == _results(origin)
    assert other.planned() == NOTHING
    assert other.repro() == NOTHING
    assert other.is_clean()


@pytest.mark.slow
def test_an_experiment_in_a_folder_of_its_own_runs_exactly_itsjobs_of(clone: Versioned) -> None:
    output = clone.run("dvc", "exp", "run", "--temp", "--name", "narrow", "-S", "studies.ci.windows=[1]")
    assert jobs_of(output) == OTHER_WINDOW
    assert clone.is_clean(), "the experiment left something in the workspace"
    assert "studies.ci.windows" in clone.run("dvc", "params", "diff", "main", "narrow")
    metrics = clone.run("dvc", "metrics", "diff", "main", "narrow")
    assert "random-llava.image->last.change" in metrics
    clone.run("dvc", "exp", "apply", "-q", "narrow")
    assert clone.planned() == NOTHING
    assert any("/w1/" in name for name in _results(clone))


@pytest.mark.slow
def test_a_failing_stage_keeps_what_is_finished(clone: Versioned) -> None:
    lock = (clone.root / "dvc.lock").read_bytes()
    # Eight layers: a window of 16 fits nowhere. The answers before it are new and good.
    clone.edit_parameters(windows=[16], questions_per_category=3)
    output = clone.run("dvc", "repro", status=1)
    assert "A window of 16 layers does not fit data/made/random-llava" in output
    assert jobs_of(output) == {"questions": 1, "answers": 1, "knockout": 1}
    assert (clone.root / "dvc.lock").read_bytes() != lock
    clone.edit_parameters(windows=[3])
    assert clone.repro() == {**ACCURACY, **OTHER_WINDOW}, "the accuracies are of the new answers"
    assert clone.is_clean()


def test_absent_raw_data_are_missed_by_nobody_until_they_are_needed(clone: Versioned) -> None:
    shutil.rmtree(clone.root / "data")
    assert clone.planned() == NOTHING
    assert clone.repro("--allow-missing") == NOTHING
    panels = clone.root / "workflow" / "crossflow" / "figures" / "panels.py"
    panels.write_text(panels.read_text().replace("alpha=0.10", "alpha=0.11"))
    assert clone.planned() == {**FIGURES, **RECORD}
    assert clone.repro("--single-item", "figures") == FIGURES


def test_a_touched_source_runs_nothing_and_an_edited_one_exactly_itsjobs_of(clone: Versioned) -> None:
    source = clone.root / "workflow" / "crossflow" / "analysis" / "bootstrap.py"
    before = source.read_text()
    source.touch()
    assert clone.repro() == NOTHING
    source.write_text(before + "\nUNUSED = 1\n")
    # Neither counts nor examples have intervals. The tables come out the same, so there is nothing new to record.
    with_intervals = {**SUMMARY, **ACCURACY, **FIGURES, "explorer": 1}
    assert clone.repro() == {
        rule: n for rule, n in with_intervals.items() if rule not in ("summary_counts", "page_counts")
    }
    assert clone.planned() == NOTHING
    source.write_text(before)
    assert "up to date" not in clone.run("dvc", "status")


@pytest.mark.slow
def test_an_edited_rule_runs_exactly_itsjobs_of(clone: Versioned) -> None:
    report = clone.root / "workflow" / "rules" / "provenance.smk"
    report.write_text(report.read_text().replace("sort_keys=True", "sort_keys=True, indent=1"))
    assert clone.repro() == RECORD
    assert clone.planned() == NOTHING


@pytest.mark.slow
def test_a_lock_that_a_killed_snakemake_left_is_removed(clone: Versioned) -> None:
    locks = clone.root / ".snakemake" / "locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("results/ci/knockout\n")
    (locks / "0.output.lock").write_text("results/ci/knockout/random-llava/w5/ChooseAttr.parquet\n")
    clone.edit_parameters(windows=[5])
    assert clone.repro() == OTHER_WINDOW


def test_wrong_parameters_are_one_sentence(clone: Versioned) -> None:
    clone.edit_parameters(flows=[])
    output = clone.run("dvc", "repro", status=1)
    assert "params.yaml, studies.ci.flows: " in output
    assert "Traceback" not in output


def test_the_committed_lock_is_of_these_sources_and_parameters(repo: Path, tmp_path: Path) -> None:
    fresh = Versioned(Copy(repo, tmp_path / "tree").root)
    fresh.run("git", "init", "-q")
    changed = {
        name
        for stage in json.loads(fresh.run("dvc", "status", "--json")).values()
        for entry in stage
        if isinstance(entry, dict)
        for name, how in entry.get("changed deps", {}).items()
        if how != "deleted"  # nothing is computed here yet
    }
    assert not changed, "run `dvc repro` and commit dvc.lock"


def test_plots_need_no_network(origin: Versioned) -> None:
    origin.run("dvc", "plots", "show", "--out", "page")
    page = (origin.root / "page" / "index.html").read_text()
    shutil.rmtree(origin.root / "page")
    assert "vegaEmbed" in page
    assert '"flow": "image->last"' in page
    assert not re.search(r"<(script|link)[^>]*(src|href)=", page)


def test_the_pipeline_keeps_every_result_and_nothing_that_is_fetched(repo: Path, origin: Versioned) -> None:
    stages = yaml.safe_load((repo / "dvc.yaml").read_text())["stages"]
    kept = []
    for stage in stages.values():
        each = stage.get("do", stage)  # one stage, or one per item of its foreach
        for item in stage.get("foreach", [""]):
            for out in [*each["outs"], *each.get("metrics", [])]:
                ((name, options),) = out.items()
                assert options == {"persist": True}
                kept.append(name.replace("${item}", item))
    folders = [name.replace("${study}", "ci") for name in kept]
    for result in _results(origin):
        assert any(result == folder or result.startswith(f"{folder}/") for folder in folders), result
    # data/gqa and data/models are the user's own or fetched, under licences of their own.
    assert [folder for folder in folders if folder.startswith("data")] == ["data/made"]
