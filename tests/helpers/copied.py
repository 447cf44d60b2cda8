"""Copies of the tree in which the real tools run, as a person would run them."""

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import yaml

BIN = Path(sys.executable).parent

# Rule -> number of jobs, as the study `ci` needs them.
ACCURACY = {"summary_accuracy": 1, "page_answers": 1}
SUMMARY = {
    "summary_effects": 1, "summary_counts": 1, "summary_comparisons": 1, "summary_attention": 1, "metrics": 1, "claims": 1,
    "page_effects": 1, "page_counts": 1,
}  # fmt: skip
FIGURES = {"figure_to_last": 1, "figure_related_to_question": 1, "figure_overview": 1, "figure_heat_map": 1}
# What shows single questions with their images.
QUESTIONS_SHOWN = {"examples": 1, "explorer": 1}
RECORD = {"provenance": 1, "page_facts": 1, "page_times": 1}
AFTER_KNOCKOUT = {**SUMMARY, **FIGURES, **QUESTIONS_SHOWN, **RECORD}
AFTER_ANSWERS = {"knockout": 1, **ACCURACY, **AFTER_KNOCKOUT}


def jobs_of(output: str) -> dict[str, int]:
    """Rule -> number of jobs that ran, as `snakemake --verbose` prints them, whoever called it."""
    return dict(Counter(re.findall(r"^(?:local)?rule (\w+):$", output, re.MULTILINE)))


class Tree:
    """A folder with the project's files."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, status: int = 0) -> str:
        """Run a tool of the environment and return what it printed; it must succeed, or fail, as expected."""
        environment = os.environ | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            # --verbose: the jobs that DVC starts are counted by the rules that snakemake names.
            "CROSSFLOW_SNAKEMAKE": "--cores 2 --resources gpu=2 --verbose",
            # Nothing of the person who runs the tests, and nothing left in their folders.
            "DVC_GLOBAL_CONFIG_DIR": str(self.root.parent / "dvc-config"),
            "DVC_SITE_CACHE_DIR": str(self.root.parent / "dvc-site"),
            "DVC_NO_ANALYTICS": "1",
            "GIT_CONFIG_GLOBAL": os.devnull,
            **{f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")},
        }
        ran = subprocess.run(
            command, cwd=self.root, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
            env=environment,
        )  # fmt: skip
        assert (ran.returncode != 0) == (status != 0), ran.stdout[-5000:]
        return ran.stdout

    def snakemake(self, *options: str, status: int = 0) -> str:
        """Run snakemake and return what it printed."""
        return self.run("snakemake", "--cores", "2", "--resources", "gpu=2", *options, status=status)

    def planned(self, *options: str) -> dict[str, int]:
        """Job counts of a dry run, without ``all``; empty when there is nothing to do."""
        output = self.snakemake("-n", *options)
        if "Nothing to be done" in output:
            return {}
        _, _, stats = output.partition("Job stats:")
        counts = dict(re.findall(r"^(\w+) +(\d+)$", stats.partition("\n\n")[0], re.MULTILINE))
        return {rule: int(count) for rule, count in counts.items() if rule not in ("all", "total")}

    def edit_parameters(self, entry: str = "studies/ci", **changes: Any) -> None:
        path = self.root / "params.yaml"
        config = yaml.safe_load(path.read_text())
        kind, _, slug = entry.partition("/")
        config[kind][slug].update(changes)
        path.write_text(yaml.safe_dump(config))


class Copy(Tree):
    """A copy of the working tree, without its tests."""

    def __init__(self, repo: Path, root: Path) -> None:
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=repo, capture_output=True, check=True,
        )  # fmt: skip
        super().__init__(root)
        for name in listed.stdout.decode().split("\0"):
            if name and (repo / name).is_file() and not name.startswith(("tests/", "benchmarks/")):
                (root / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(repo / name, root / name)
