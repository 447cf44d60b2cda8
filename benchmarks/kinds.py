"""What each kind of knockout costs a question, in one run, beside the operations that it takes.

    PYTHONPATH=workflow .venv/bin/python benchmarks/kinds.py --help

The model and the prompt are those of `crossflow bench`: LLaVA-1.5's token counts, random weights, a tiny vision tower.
The kinds take turns, so that all see the machine in the same moods: a clean run; the six published flows; the same with
controls (random source sets, further flows); substitutions of the image's and the question's keys and values beside
knockouts of the same edges; module knockouts; all heads of all layers for two flows to the last position, one by one
and in random subsets; patches of text positions and of the image at every layer, by one other run; a forward that finds
sinks. Attention to the blocked edges is measured with flows. Operations are those of the matrix products that were
really run, counted by PyTorch's own counter.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from crossflow.core.flows import CONTROL_FLOWS, PUBLISHED_FLOWS, SWAPPED, Window, blocking_of, parse_flow, with_controls
from crossflow.core.head_subsets import draw_subsets
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.edges import Row, edges_of, patched_row, rows_of
from crossflow.engine.forward import run_clean, run_clean_together
from crossflow.engine.patches import Patch
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.engine.sinks import find_sinks
from crossflow.experiments.heads import heads_of
from crossflow.models.model import DTYPES, MultimodalModel, Prepared
from crossflow.verify.speed import build_model, build_question

SUBSTITUTIONS = ["image=swapped->question", "related=swapped->question", "question=swapped->last"]
HEADS = ["image->last", "question->last"]
MODULES = ["attn:question", "mlp:question"]
SUBSETS = 16


def run_flows(model: MultimodalModel, prepared: Prepared, flows: list[str], stride: int, window: int) -> int:
    """One question with some flows, controls at every ``stride``-th layer; the number of rows."""
    layers = len(model.layers)
    found = {name: edges_of(parse_flow(name), prepared.positions, 0, "benchmark") for name in flows}
    found = {name: edges for name, edges in found.items() if edges}
    rows = [
        row
        for name, edges in found.items()
        for row in rows_of(name, edges, str(window), layers, range(0, layers, stride if name not in flows[:6] else 1))
    ]
    first = min(row.start for row in rows)
    if any(row.donors for row in rows):
        clean, donor = run_clean_together(model, [prepared, prepared], [first, prepared.length - 1])
        clean = replace(clean, donors={SWAPPED: donor.as_donor})
    else:
        clean = run_clean(model, prepared, first)
    run_knockouts(model, clean, rows)
    attention_mass(clean, list(found.values()))
    return len(rows)


def run_heads(model: MultimodalModel, prepared: Prepared, flows: list[str]) -> int:
    """One question with some flows in every head of every layer; the number of rows."""
    rows = [
        Row(name, layer, Window(layer, layer), edges_of(parse_flow(name), prepared.positions, 0, ""), ((layer, head),))
        for name in flows
        for layer in range(len(model.layers))
        for head in range(heads_of(model))
    ]
    run_knockouts(model, run_clean(model, prepared, min(row.start for row in rows)), rows)
    return len(rows)


def run_subsets(model: MultimodalModel, prepared: Prepared, flows: list[str], count: int) -> int:
    """One question with some flows in random halves of all heads; the number of rows."""
    layers, heads = len(model.layers), heads_of(model)
    subsets = draw_subsets(0, "benchmark", count, 0.5, range(layers), (layers, heads))
    rows = [
        Row(name, number, Window(0, layers - 1), edges_of(parse_flow(name), prepared.positions, 0, ""), chosen)
        for name in flows
        for number, chosen in enumerate(tuple(map(tuple, np.argwhere(subset).tolist())) for subset in subsets)
    ]
    run_knockouts(model, run_clean(model, prepared, min(row.start for row in rows)), rows)
    return len(rows)


def run_patches(model: MultimodalModel, prepared: Prepared, sets: list[str]) -> int:
    """One question, patched at some sets at every layer with the states of another run; the number of rows."""
    found = {name: prepared.positions[name] for name in sets}
    first = min(int(positions[0]) for positions in found.values())
    clean, other = run_clean_together(model, [prepared, prepared], [first, first])
    rows = [
        patched_row(
            Patch(torch.from_numpy(positions).to(model.device), other.entering, first), int(positions[0]), layer
        )
        for positions in found.values()
        for layer in range(len(model.layers) + 1)
    ]
    run_knockouts(model, clean, rows)
    return len(rows)


def run_sinks(model: MultimodalModel, prepared: Prepared) -> int:
    """The forward that finds the sinks."""
    find_sinks(model, [prepared])
    return 0


def run_alone(model: MultimodalModel, prepared: Prepared) -> int:
    """A clean run."""
    run_clean(model, prepared, prepared.length - 1)
    return 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--draws", type=int, default=3)
    parser.add_argument("--stride", type=int, default=1)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each; the medians count")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    model = build_model("llava15-7b", arguments.layers, arguments.width, False, arguments.dtype, device)
    prepared = build_question(model)
    published = list(PUBLISHED_FLOWS)
    of_flows = partial(run_flows, model, prepared, stride=arguments.stride, window=arguments.window)
    kinds: dict[str, Callable[[], int]] = {
        "clean run": partial(run_alone, model, prepared),
        "published flows": partial(of_flows, published),
        "with controls": partial(of_flows, published + with_controls(published, arguments.draws, CONTROL_FLOWS)),
        "knockouts": partial(of_flows, [blocking_of(flow) for flow in SUBSTITUTIONS]),
        "substitutions": partial(of_flows, SUBSTITUTIONS),
        "modules": partial(of_flows, MODULES),
        "heads to last": partial(run_heads, model, prepared, HEADS),
        "head subsets": partial(run_subsets, model, prepared, HEADS, SUBSETS),
        "patched text": partial(run_patches, model, prepared, ["question", "instruction", "last"]),
        "patched image": partial(run_patches, model, prepared, ["image"]),
        "sinks": partial(run_sinks, model, prepared),
    }
    rows: dict[str, int] = {}
    operations: dict[str, int] = {}
    for name, kind in kinds.items():  # the first run pays for memory and thread pools, and counts
        with FlopCounterMode(display=False) as counter:
            rows[name] = kind()
        operations[name] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in tqdm(range(arguments.repeats), desc="all in turn", unit="run"):
        for name, kind in kinds.items():
            start = time.perf_counter()
            kind()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)

    print(f"prompt {prepared.positions.length} positions; {arguments.layers} layers of width {arguments.width}")
    print("kind               rows   operations       s  (spread)        against the clean run: operations, time")
    for name in kinds:
        median, spread = float(np.median(seconds[name])), f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        counted = operations[name] / operations["clean run"]
        ratio = median / float(np.median(seconds["clean run"]))
        print(
            f"{name:<16} {rows[name]:6} {operations[name]:12.3e} {median:7.2f}  ({spread}) {counted:10.2f} {ratio:7.2f}"
        )


if __name__ == "__main__":
    main()
