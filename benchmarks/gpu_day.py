"""Everything that a GPU has to show, in one command of at most nine minutes: one JSON file and one page of figures.

    PYTHONPATH=workflow python benchmarks/gpu_day.py --output gpu-day
    PYTHONPATH=workflow python benchmarks/gpu_day.py --output trial --device cpu --small    # a trial without a card

Steps run in the order of what is needed first. The file is written after each, so that a run that is stopped keeps what
it has. A step that fails leaves its error there, and the next one begins; no step begins after the limit.
Needs torch, transformers and matplotlib, and neither Snakemake nor DVC. All weights are random, drawn on the device.
"""

import argparse
import contextlib
import json
import platform
import shutil
import subprocess
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from torch.profiler import ProfilerActivity, profile

from crossflow.core.devices import take_device
from crossflow.core.flows import PUBLISHED_FLOWS
from crossflow.engine import shared_prefix_attention as kernels
from crossflow.engine.forward import run_clean
from crossflow.engine.greedy import generate
from crossflow.engine.shared_prefix import run_together
from crossflow.experiments.knocked_out import no_op_rows
from crossflow.models.loading import load_network
from crossflow.models.memory import enough_positions
from crossflow.models.model import DTYPES, MultimodalModel
from crossflow.verify.speed import (
    build_model,
    build_question,
    measure_speed,
    questions_together,
    rows_for,
    run_engine,
    timed,
)

WINDOWS = {"llava15-13b": 9}
WINDOW = 7


@dataclass(frozen=True)
class Day:
    """The machine and what is asked of it.

    Attributes:
        device: The device.
        small: Whether this is a trial: narrow models of few layers.
        models: The published models, in the order in which they are measured.
    """

    device: torch.device
    small: bool
    models: tuple[str, ...] = ("llava15-7b", "llava16-vicuna-7b", "llama3-llava-next-8b", "llava15-13b")

    @property
    def dtype(self) -> str:
        """Type of the weights."""
        return "float32" if self.device.type == "cpu" else "float16"

    def build(self, slug: str) -> MultimodalModel:
        """A published model with random weights."""
        layers, width = (3, 256) if self.small else (None, None)
        return build_model(slug, layers, width, not self.small, self.dtype, self.device)

    def free(self) -> None:
        """Give the memory of the last model back."""
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak(self) -> int:
        """Most bytes that were allocated since the last `free`; 0 on a CPU."""
        return torch.cuda.max_memory_allocated(self.device) if self.device.type == "cuda" else 0


def machine(day: Day) -> dict[str, Any]:
    """Card, driver and versions, and which attention kernels are switched on."""
    card = "none"
    if shutil.which("nvidia-smi"):
        asked = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,power.limit", "--format=csv,noheader"]
        card = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.strip()
    return {
        "card": card,
        "device": str(day.device),
        "python": platform.python_version(),
        "cores": torch.get_num_threads(),
        "versions": {name: metadata.version(name) for name in ("torch", "transformers", "numpy")},
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "cudnn attention": torch.backends.cuda.cudnn_sdp_enabled(),
    }


def soundness(day: Day) -> dict[str, Any]:
    """Which kernels pass their trial, and how far they are from fp64 at the shapes of a 7 B model."""
    trial = {
        f"{dtype}, heads of {width}": bool(kernels._is_sound(day.device, DTYPES[dtype], width))
        for dtype in ("float16", "bfloat16", "float32")
        for width in (64, 128, 256)
    }
    heads, queries, keys = (2, 29, 61) if day.small else (32, 6 * 29, 613)
    errors = {}
    for dtype in ("float16", "bfloat16", "float32"):
        torch.manual_seed(0)
        query, key, value = (
            torch.randn(1, heads, length, 128, device=day.device, dtype=DTYPES[dtype])
            for length in (queries, keys, keys)
        )
        # One query sees no key at all: what it gets must not reach the others.
        hidden = torch.rand(1, 1, queries, -(-keys // 8) * 8, device=day.device) < 0.3
        hidden[..., 0, :] = True
        bias = torch.zeros(hidden.shape, device=day.device, dtype=DTYPES[dtype]).masked_fill_(hidden, -torch.inf)[
            ..., :keys
        ]
        mixed, total = kernels._kernel(query, key, value, bias, False, 128**-0.5)
        exact, exact_total = kernels._by_products(
            query.double(), key.double(), value.double(), bias.double(), False, 128**-0.5
        )
        errors[dtype] = {
            "mixed": float((mixed.double() - exact)[..., 1:, :].abs().max()),
            "log-sum-exp": float((total.double() - exact_total)[..., 1:].abs().max()),
        }
    return {"sound": trial, "errors": errors}


def lengths(day: Day) -> dict[str, Any]:
    """Milliseconds of a prompt's attention at forty lengths, the first call and a later one, with and without cuDNN."""
    found: dict[str, Any] = {}
    heads = 2 if day.small else 32
    for cudnn in (False, True):
        torch.backends.cuda.enable_cudnn_sdp(cudnn)
        first, later = [], []
        for length in range(600, 640):
            query = torch.randn(1, heads, length, 128, device=day.device, dtype=DTYPES[day.dtype])

            def attention(query: torch.Tensor = query) -> torch.Tensor:
                return functional.scaled_dot_product_attention(query, query, query, is_causal=True)

            first.append(1e3 * timed(attention, day.device)[1])
            later.append(1e3 * min(timed(attention, day.device)[1] for _ in range(3)))
        found["with cuDNN" if cudnn else "without cuDNN"] = {"first": first, "later": later}
    torch.backends.cuda.enable_cudnn_sdp(False)
    return found


def speed(day: Day, slug: str, together: tuple[int | None, ...] = (None,)) -> dict[str, Any]:
    """`crossflow bench` of one model."""
    day.free()
    model = day.build(slug)
    rows = []
    for count in together:
        found = measure_speed(model, WINDOWS.get(slug, WINDOW) if not day.small else 1, 2, 2, count)
        rows.append(
            {
                "together": found.together,
                "positions": found.positions,
                "knockouts": found.rows,
                "seconds": {name: timing.seconds for name, timing in found.timings.items()},
                "ratio": found.timings["published"].seconds / found.timings["engine"].seconds,
                "bound": found.bound,
                "share of the floor": found.floor / found.timings["engine"].seconds,
                "TFLOP/s of products": found.rate / 1e12,
                "differences": found.differences,
                "peak bytes": found.memory,
            }
        )
    return {"runs": rows}


@contextlib.contextmanager
def counted_waits(day: Day) -> Iterator[Counter[str]]:
    """Count where the host waits for the device, by the line that torch names."""
    waits: Counter[str] = Counter()
    if day.device.type != "cuda":
        yield waits
        return
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield waits
        waits.update(
            f"{Path(each.filename).name}:{each.lineno}" for each in caught if "synchroniz" in str(each.message)
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


def profiled(day: Day) -> dict[str, Any]:
    """One batch of knockouts: how busy the device is, its longest kernels, where the host waits, and its memory."""
    day.free()
    model = day.build(day.models[0])
    count = questions_together(model, build_question(model))
    questions = [build_question(model, number) for number in range(count)]
    rows = rows_for(questions[0], PUBLISHED_FLOWS, 1 if day.small else WINDOW, len(model.layers))
    run_engine(model, questions, rows)
    _, seconds = timed(lambda: run_engine(model, questions, rows), day.device)
    with counted_waits(day) as waits:
        run_engine(model, questions, rows)
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if day.device.type == "cuda" else [])]
    with profile(activities=activities) as recorded:
        run_engine(model, questions, rows)
    table = recorded.key_averages()
    name = "self_device_time_total" if day.device.type == "cuda" else "self_cpu_time_total"
    by_time = sorted(table, key=lambda event: -getattr(event, name))
    busy = sum(getattr(event, name) for event in table) / 1e6
    return {
        "questions together": count,
        "seconds": seconds,
        "busy share": busy / seconds,
        "longest": [{"name": each.key, "calls": each.count, "ms": getattr(each, name) / 1e3} for each in by_time[:12]],
        "waits": dict(waits),
        "peak bytes": day.peak,
        "positions that are enough": enough_positions(day.device),
    }


def answers(day: Day) -> dict[str, Any]:
    """Milliseconds of an answer with and without the image, and how often half precision would choose another token."""
    day.free()
    model = day.build(day.models[0])
    model = replace(model, settings=replace(model.settings, max_new_tokens=2))
    found: dict[str, Any] = {"ms": {}}
    for together in (1, 8):
        questions = [build_question(model, number) for number in range(together)]

        def work(questions: list[Any] = questions) -> list[Any]:
            return generate(model, questions, [True] * len(questions), [-1], 2)

        work()
        _, seconds = timed(work, day.device)
        found["ms"][together] = 1e3 * seconds / together
    prompts = 16 if day.small else 64
    other = 0
    for first in range(0, prompts, 8):
        batch = [build_question(model, 100 + first + number) for number in range(8)]
        for seeing, _ in generate(model, batch, [False] * 8, [-1], 1):
            other += int(seeing.logits.half().argmax()) != int(seeing.logits.argmax())
    return found | {"prompts": prompts, "another first token in half precision": other, "peak bytes": day.peak}


def noise(day: Day) -> dict[str, Any]:
    """The largest change of a probability by a knockout of nothing, with and without reduced-precision sums."""
    day.free()
    model = day.build(day.models[0])
    prepared, layers = build_question(model), len(model.layers)
    rows = no_op_rows(rows_for(prepared, PUBLISHED_FLOWS, WINDOW, layers), layers)
    first = min(row.start for row in rows)
    found = {}
    for reduced in (False, True):
        torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = reduced
        clean = run_clean(model, prepared, first)
        (reading,) = run_together(model, [(clean, rows)])
        change = torch.softmax(reading.logits.double(), -1) - torch.softmax(clean.logits.double(), -1)
        found["with reduced sums" if reduced else "without"] = float(change.abs().max())
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return found


def loading(day: Day) -> dict[str, Any]:
    """Seconds to write a model and to load it from the local disk, right after it was written."""
    day.free()
    model = day.build(day.models[0])
    with tempfile.TemporaryDirectory() as folder:
        _, written = timed(partial(model.network.save_pretrained, folder), day.device)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
        sketch = model.network.to("meta")
        day.free()
        _, loaded = timed(
            partial(load_network, replace(model.settings, path=Path(folder)), sketch, day.device), day.device
        )
    return {"GB": size / 1e9, "seconds to write": written, "seconds to load": loaded}


STEPS: dict[str, Callable[[Day], dict[str, Any]]] = {
    "machine": machine,
    "kernels": soundness,
    "lengths": lengths,
    "llava15-7b": lambda day: speed(day, "llava15-7b", (1, 2) if day.small else (1, 6, 8)),
    "profile": profiled,
    "answers": answers,
    "noise": noise,
    "llava16-vicuna-7b": lambda day: speed(day, "llava16-vicuna-7b"),
    "llama3-llava-next-8b": lambda day: speed(day, "llama3-llava-next-8b"),
    "llava15-13b": lambda day: speed(day, "llava15-13b"),
    "loading": loading,
}


def draw(results: dict[str, Any], output: Path) -> None:
    """One page: speed of each model, time of a prompt's attention, longest kernels, questions together."""
    from matplotlib.figure import Figure

    steps = {name: step["found"] for name, step in results.items() if "found" in step}
    figure = Figure(figsize=(11, 8), layout="constrained")
    (top_left, top_right), (low_left, low_right) = figure.subplots(2, 2)
    speeds = {name: step["runs"][-1] for name, step in steps.items() if "runs" in step}
    names = list(speeds)[::-1]
    top_left.barh(names, [speeds[name]["ratio"] for name in names], label="measured")
    bounds = [speeds[name]["bound"] for name in names]
    top_left.scatter(bounds, names, color="black", marker="|", s=900, label="bound by operations")
    top_left.set_xlabel("times faster than the published procedure")
    top_left.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
    for name, times in steps.get("lengths", {}).items():
        top_right.plot(range(600, 640), times["first"], label=f"{name}, first call")
        top_right.plot(range(600, 640), times["later"], linestyle=":", label=f"{name}, later call")
    top_right.set(xlabel="positions", ylabel="attention of one layer (ms)", yscale="log")
    if top_right.lines:
        top_right.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False, fontsize=8)
    longest = steps.get("profile", {}).get("longest", [])[::-1]
    low_left.barh([each["name"][:48] for each in longest], [each["ms"] for each in longest])
    low_left.set_xlabel("ms in a batch of knockouts")
    low_left.tick_params(axis="y", labelsize=7)
    for name, step in steps.items():
        runs = step.get("runs", [])
        if len(runs) > 1:
            low_right.plot(
                [run["together"] for run in runs], [run["seconds"]["engine"] for run in runs], "o-", label=name
            )
    low_right.set(xlabel="questions together", ylabel="knockouts of a question (s)")
    if low_right.lines:
        low_right.legend()
    figure.suptitle(f"card: {steps['machine']['card']}" if "machine" in steps else "")
    figure.savefig(output, dpi=120)


def run(day: Day, output: Path, limit: float) -> dict[str, Any]:
    """Run all steps, each of which begins before ``limit`` seconds have passed, and write their results."""
    output.mkdir(parents=True, exist_ok=True)
    begin = time.monotonic()
    results: dict[str, Any] = {}
    for name, step in STEPS.items():
        started = time.monotonic()
        if started - begin > limit:
            results[name] = {"left out": f"{limit:.0f} seconds had passed"}
        else:
            try:
                results[name] = {"found": step(day)}
            except Exception as error:  # noqa: BLE001 (a card's fault must not cost the steps behind it)
                results[name] = {"error": f"{type(error).__name__}: {error}"}
            results[name]["seconds"] = round(time.monotonic() - started, 1)
        print(f"{name}: {json.dumps(results[name])[:300]}", flush=True)
        (output / "gpu-day.json").write_text(json.dumps(results, indent=1))
    draw(results, output / "gpu-day.png")
    return results


def main() -> None:
    """Run everything."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="folder of gpu-day.json and gpu-day.png")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda:N")
    parser.add_argument("--small", action="store_true", help="narrow models of few layers, to try the command itself")
    parser.add_argument("--limit", type=float, default=420.0, help="seconds after which no step begins")
    given = parser.parse_args()
    results = run(Day(take_device(given.device), given.small), given.output, given.limit)
    failed = [name for name, result in results.items() if "error" in result]
    print(f"{given.output}/gpu-day.json and gpu-day.png; steps that failed: {', '.join(failed) or 'none'}")


if __name__ == "__main__":
    main()
