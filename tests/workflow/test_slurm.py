"""The workflow on a real Slurm: jobs wait for the one GPU, are cancelled, lose their node, and give the local tables."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import pytest

from copied import Copy
from slurm_cluster import Cluster, eventually, slurm

pytestmark = pytest.mark.workflow
# What a cluster without accounting asks for, and no patience: jobs of tests take seconds. Rounding on a CPU depends on
# the number of threads, so that is the local run's.
ON_SLURM = (
    "--workflow-profile", "profiles/slurm", "--slurm-status-command", "squeue", "--slurm-no-account",
    "--slurm-init-seconds-before-status-checks", "3", "--set-threads", "answers=1", "answers_2=1", "knockout=1", "knockout_2=1",
)  # fmt: skip
GPU_RULES = ("answers", "knockout")
TABLES = ("questions/*.csv", "answers/*/*", "knockout/*/*/*.parquet", "lens/*/*.parquet", "summary/*.csv")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    pytest.importorskip("snakemake_executor_plugin_slurm")
    with slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def _tables(tree: Copy, study: str) -> dict[str, bytes]:
    results = tree.root / "results" / study
    return {
        path.relative_to(results).as_posix(): path.read_bytes()
        for pattern in TABLES
        for path in sorted(results.glob(pattern))
        if path.is_file()
    }


def _require_one_at_a_time(cluster: Cluster, earlier: set[str]) -> None:
    """No two GPU jobs at the same time: there is one GPU."""
    rules = {number: comment for number, _, comment in cluster.jobs() if number not in earlier}
    ended = cluster.ended()
    spans = sorted(ended[number][1:] for number, comment in rules.items() if any(rule in comment for rule in GPU_RULES))
    assert len(spans) > 1
    for (_, end), (start, _) in pairwise(spans):
        assert end <= start


def test_a_cancelled_job_and_a_drained_node_change_no_table(cluster: Cluster, repo: Path, tmp_path: Path) -> None:
    here, there = Copy(repo, tmp_path / "here"), Copy(repo, tmp_path / "there")
    for tree in (here, there):
        # Long enough to be caught at work.
        tree.edit_parameters(questions_per_category=30)
    with ThreadPoolExecutor() as threads:
        run = threads.submit(there.run, "snakemake", *ON_SLURM, "--config", "study=ci")
        eventually(lambda: run.done() or bool(cluster.of_rule("answers", "RUNNING")), 600, "the answers are running")
        (cancelled,) = cluster.of_rule("answers", "RUNNING")
        cluster.ask("scancel", cancelled)
        eventually(lambda: len(cluster.of_rule("answers", "COMPLETED")) == 1, 600, "the answers were tried again")
        cluster.ask("scontrol", "update", f"nodename={cluster.node}", "state=drain", "reason=test")
        eventually(
            lambda: run.done() or bool(cluster.of_rule("knockout", "PENDING")), 600, "the knockouts wait for a node"
        )
        cluster.ask("scontrol", "update", f"nodename={cluster.node}", "state=resume")
        said = run.result()
    assert re.search(r"^(\d+) of \1 ", said, re.MULTILINE)
    assert cluster.ended()[cancelled].state == "CANCELLED"
    _require_one_at_a_time(cluster, set())
    here.snakemake("--config", "study=ci")
    tables = _tables(here, "ci")
    assert len(tables) > 8
    assert [name for name, content in _tables(there, "ci").items() if content != tables.get(name)] == []
    assert _tables(there, "ci").keys() == tables.keys()


@pytest.mark.slow
def test_the_mini_study_on_a_cluster_gives_the_local_tables(cluster: Cluster, repo: Path, tmp_path: Path) -> None:
    earlier = {number for number, _, _ in cluster.jobs()}
    here, there = Copy(repo, tmp_path / "here"), Copy(repo, tmp_path / "there")
    there.run("snakemake", *ON_SLURM)
    here.snakemake()
    tables = _tables(here, "mini")
    assert len(tables) > 30
    assert [name for name, content in _tables(there, "mini").items() if content != tables.get(name)] == []
    assert _tables(there, "mini").keys() == tables.keys()
    _require_one_at_a_time(cluster, earlier)
