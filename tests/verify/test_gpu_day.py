"""The command for a day with a GPU, tried without one."""

import json
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def command(repo: Path) -> dict[str, Any]:
    return runpy.run_path(str(repo / "benchmarks" / "gpu_day.py"))


def test_a_trial_finds_something_in_every_step_and_draws_its_page(command: dict[str, Any], tmp_path: Path) -> None:
    # One model stands for the others, which differ in nothing but their sizes.
    for name in ("llava16-vicuna-7b", "llama3-llava-next-8b", "llava15-13b"):
        command["STEPS"].pop(name, None)
    day = command["Day"](torch.device("cpu"), small=True)
    results = command["run"](day, tmp_path, 1e9)
    assert json.loads((tmp_path / "gpu-day.json").read_text()).keys() == results.keys() == command["STEPS"].keys()
    assert {name: step for name, step in results.items() if "found" not in step} == {}
    assert (tmp_path / "gpu-day.png").stat().st_size > 10_000
    assert all(results["kernels"]["found"]["sound"].values())
    assert max(results["kernels"]["found"]["errors"]["float32"].values()) < 1e-5
    assert 0 <= results["noise"]["found"]["without"] < 1e-4
    assert [run["together"] for run in results["llava15-7b"]["found"]["runs"]] == [1, 2]


def test_a_step_that_fails_costs_no_other_and_none_begins_after_the_limit(
    command: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(day: object) -> dict[str, Any]:
        raise RuntimeError("the card has vanished")

    steps = {"fails": fails, "machine": command["STEPS"]["machine"]}
    monkeypatch.setitem(command["run"].__globals__, "STEPS", steps)
    day = command["Day"](torch.device("cpu"), small=True)
    results = command["run"](day, tmp_path, 1e9)
    assert results["fails"]["error"] == "RuntimeError: the card has vanished"
    assert results["machine"]["found"]["device"] == "cpu"
    assert set(command["run"](day, tmp_path, -1.0)["machine"]) == {"left out"}
