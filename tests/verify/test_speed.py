"""The benchmark runs, and its three ways agree; how fast they are is not a test's business."""

import dataclasses
import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from crossflow.cli.main import main
from crossflow.core.flows import PUBLISHED_FLOWS
from crossflow.engine.forward import run_clean
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.verify import clock
from crossflow.verify.clock import Cost
from crossflow.verify.speed import build_model, build_question, operation_bound, rows_for, unavoidable
from crossflow.verify.true_sizes import TRUE_SIZES, true_config

CPU = torch.device("cpu")


def _run(*options: str) -> None:
    assert main(["bench", "--device", "cpu", "--dtype", "float32", "--no-tower", *options]) == 0


@pytest.mark.parametrize(
    ("model", "positions"), [("llava15-7b", 642), pytest.param("llama3-llava-next-8b", 2406, marks=pytest.mark.long)]
)
def test_published_procedure_reference_and_engine_agree(
    model: str, positions: int, capsys: pytest.CaptureFixture[str]
) -> None:
    _run("--model", model, "--layers", "2", "--width", "256", "--repeats", "1", "--forwards", "3", "--window", "2")
    printed = capsys.readouterr().out
    assert f"{positions} positions, 12 knockouts (window 2)" in printed
    for way in ("published", "reference"):
        (line,) = [line for line in printed.splitlines() if line.startswith(way)]
        assert "from 3 of 12 forwards" in line
        assert 0 < float(line.rpartition(" ")[2]) < 1e-5
    bound = 12 * positions * 2 / (positions * 2 + 3 * (1 + 29) * (2 + 2))  # every window begins at layer 0
    assert f"{bound:.1f} x by operations" in printed
    answers, knockouts = (line for line in printed.splitlines() if line.startswith(("  answers", "  knockouts")))
    for line in (answers, knockouts):
        assert "load 0.00, device" in line
    engine = float(re.search(r"engine +([0-9.]+) s a question", printed)[1])
    assert float(knockouts.partition("device ")[2].partition(",")[0]) == pytest.approx(6000 * engine / 3600, abs=0.01)


def test_the_knockouts_that_are_timed_do_something() -> None:
    model = build_model("llava15-7b", 3, 256, False, "float32", CPU)
    prepared = build_question(model)
    rows = rows_for(prepared, PUBLISHED_FLOWS, 7, 3)
    clean = run_clean(model, prepared, min(row.start for row in rows))
    p_clean = clean.logits.double().softmax(-1)
    p_knockout = run_knockouts(model, clean, rows).logits.double().softmax(-1)
    assert float((p_knockout - p_clean).abs().max()) > 0.01


def test_the_bound_of_the_published_lengths_is_known() -> None:
    """Worked out by hand for LLaVA-1.5's counts: 642 positions, 32 layers, windows of 7, suffixes of 1 and 29."""
    model = build_model("llava15-7b", 2, 128, False, "float32", CPU)
    rows = rows_for(build_question(model), PUBLISHED_FLOWS, 7, 32)
    remaining = 4 * 32 + sum(range(4, 32))  # windows begin at layer 0 for centres 0 to 3, then at 1 to 28
    expected = 6 * 32 * 642 * 32 / (642 * 32 + 3 * (1 + 29) * remaining)
    assert operation_bound(rows, 642, 32) == pytest.approx(expected)
    assert round(expected) == 52


def test_unavoidable_operations_grow_with_the_rows_and_exceed_a_clean_forward() -> None:
    model = build_model("llava15-7b", 3, 256, False, "float32", CPU)
    prepared = build_question(model)
    rows = rows_for(prepared, PUBLISHED_FLOWS, 1, 3)
    weights = 3 * 642 * 2 * (4 * 256 * 256 + 3 * 256 * 688)
    assert unavoidable(model, prepared, []) > weights
    assert (
        unavoidable(model, prepared, rows) > unavoidable(model, prepared, rows[:9]) > unavoidable(model, prepared, [])
    )


@pytest.fixture(scope="module")
def grid(repo: Path) -> dict[str, Any]:
    return runpy.run_path(str(repo / "benchmarks" / "grid.py"))


@pytest.mark.parametrize("slug", ["llava15-7b", "llava15-13b", "llava16-vicuna-7b", "llama3-llava-next-8b"])
def test_the_grids_operations_are_those_that_torch_counts(grid: dict[str, Any], slug: str) -> None:
    """At true size, without memory: the hours of the published studies follow from these numbers."""
    model = build_model(slug, None, None, True, "float16", torch.device("meta"))
    prepared = build_question(dataclasses.replace(model, device=CPU))
    pixels = prepared.inputs["pixel_values"].to("meta")
    prepared = dataclasses.replace(prepared, inputs={**prepared.inputs, "pixel_values": pixels})
    tiles = pixels.flatten(0, -4).shape[0]
    size = dataclasses.replace(grid["MODELS"][slug], positions=prepared.length, tiles=tiles)
    assert size.layers == len(model.layers)
    rows = rows_for(prepared, PUBLISHED_FLOWS, size.window, size.layers)
    counted = unavoidable(model, prepared, rows)
    assert grid["knockouts"](size, size.window) == pytest.approx(counted, rel=0.01)


def test_the_hours_of_the_published_study_count_every_part(grid: dict[str, Any], repo: Path) -> None:
    study = yaml.safe_load((repo / "params.yaml").read_text())["studies"]["published"]
    questions, clocks = grid["clocks"](study)
    assert questions == 5525
    knocked_out = sum(each.knockouts.device for each in clocks.values()) / 3600
    assert 0.7 < knocked_out < 1
    for name, each in clocks.items():
        size = grid["MODELS"][name]
        # Answers and logit lens: one forward. Two loads: one for them, one for the knockouts of the one window.
        assert each.answers.device * grid["RATE"] == pytest.approx(questions * grid["forward"](size))
        assert each.answers.load + each.knockouts.load == pytest.approx(
            2 * (clock.IMPORTS + size.weights * 1e9 / clock.DISK)
        )
        assert each.total == sum(job.load + max(job.device, job.host, job.images) for job in each)
    assert sum(each.total for each in clocks.values()) / 3600 < 1.6


def test_the_pages_give_the_hours_of_the_clock(grid: dict[str, Any], repo: Path) -> None:
    studies = yaml.safe_load((repo / "params.yaml").read_text())["studies"]
    hours = {}
    for name in ("paper", "published", "window-sweep"):
        found = grid["clocks"](studies[name])[1].values()
        parts = (sum(each.knockouts.total - each.knockouts.load for each in found), sum(each.total for each in found))
        hours[name] = tuple(f"{part / 3600:.1f}" for part in parts)
    readme, page = ((repo / name).read_text() for name in ("README.md", "docs/howto/published.md"))
    assert "\n{} GPU-hours and all its jobs, loads included, {};".format(*hours["paper"]) in readme
    for name, both in hours.items():
        (line,) = [line for line in page.splitlines() if line.startswith(f"| `{name}` |")]
        assert line.endswith("| {} | {} |".format(*both))
    assert f"takes {hours['paper'][1]} GPU-hours" in (repo / "docs/explanation/performance.md").read_text()


def test_a_job_takes_the_longest_of_its_parts_on_a_gpu_and_all_of_them_on_a_cpu() -> None:
    gpu = Cost(10, tiled=False, grouped=False, weights=5e9, answer=0.001, knockouts=(0.5, 0.7))
    answers, knockouts = clock.clock_of(gpu, 1000)
    assert answers.load == clock.IMPORTS + 5
    assert answers.total == answers.load + answers.host > answers.load + answers.device
    assert (knockouts.load, knockouts.device) == (2 * answers.load, pytest.approx(1200))
    assert knockouts.total == knockouts.load + knockouts.device
    grouped = clock.clock_of(dataclasses.replace(gpu, grouped=True), 1000)
    assert grouped.knockouts.host > knockouts.host
    assert grouped.answers == answers
    on_cpu = clock.clock_of(dataclasses.replace(gpu, beside=False), 1000)
    assert on_cpu.knockouts.host == 0
    assert on_cpu.knockouts.images == clock.WORKERS * knockouts.images
    assert on_cpu.knockouts.total == sum(on_cpu.knockouts[:-1])


@pytest.mark.parametrize("slug", TRUE_SIZES)
def test_a_narrower_model_keeps_the_proportions(slug: str) -> None:
    full, small = true_config(slug).text_config, true_config(slug, 4, full_width(slug) // 8).text_config
    assert small.num_hidden_layers == 4
    for name in ("hidden_size", "intermediate_size", "num_attention_heads"):
        assert getattr(full, name) == 8 * getattr(small, name)
    group = full.num_attention_heads // full.num_key_value_heads
    assert small.num_attention_heads // small.num_key_value_heads == min(group, small.num_attention_heads)


def full_width(slug: str) -> int:
    return int(true_config(slug).text_config.hidden_size)
