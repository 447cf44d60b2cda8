"""What the controls add to the cost of a question, in one run, beside the operations that they add.

    PYTHONPATH=workflow .venv/bin/python benchmarks/controls.py --help

The model and the prompt are those of `crossflow bench`: LLaVA-1.5's token counts, random weights, a tiny vision tower.
The six published flows alone and with their controls (random source sets, further flows) take turns, so that both see
the machine in the same moods; attention to the blocked edges is measured in both. Operations are those of the matrix
products that were really run, counted by PyTorch's own counter.
"""

import argparse
import time

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode
from tqdm import tqdm

from crossflow.core.flows import CONTROL_FLOWS, PUBLISHED_FLOWS, parse_flow, with_controls
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.edges import edges_of, rows_of
from crossflow.engine.forward import run_clean
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.models.model import DTYPES, MultimodalModel, Prepared
from crossflow.verify.speed import build_model, build_question


def knock_out(model: MultimodalModel, prepared: Prepared, flows: list[str], stride: int, window: int) -> int:
    """One question with some flows, controls at every ``stride``-th layer; the number of rows."""
    layers = len(model.layers)
    found = {name: edges_of(parse_flow(name), prepared.positions, 0, "benchmark") for name in flows}
    found = {name: edges for name, edges in found.items() if edges}
    rows = [
        row
        for name, edges in found.items()
        for row in rows_of(name, edges, str(window), layers, range(0, layers, 1 if name in PUBLISHED_FLOWS else stride))
    ]
    clean = run_clean(model, prepared, min(row.start for row in rows))
    run_knockouts(model, clean, rows)
    attention_mass(clean, list(found.values()))
    return len(rows)


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
    flows = {
        "published flows": published,
        "with controls": published + with_controls(published, arguments.draws, CONTROL_FLOWS),
    }
    rows: dict[str, int] = {}
    operations: dict[str, int] = {}
    for name, names in flows.items():  # the first run pays for memory and thread pools, and counts
        with FlopCounterMode(display=False) as counter:
            rows[name] = knock_out(model, prepared, names, arguments.stride, arguments.window)
        operations[name] = counter.get_total_flops()
    seconds: dict[str, list[float]] = {name: [] for name in flows}
    for _ in tqdm(range(arguments.repeats), desc="both in turn", unit="run"):
        for name, names in flows.items():
            start = time.perf_counter()
            knock_out(model, prepared, names, arguments.stride, arguments.window)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds[name].append(time.perf_counter() - start)

    medians = {name: float(np.median(taken)) for name, taken in seconds.items()}
    print(f"prompt {prepared.positions.length} positions; {arguments.layers} layers of width {arguments.width}")
    for name in flows:
        spread = f"{min(seconds[name]):.2f} to {max(seconds[name]):.2f}"
        print(f"{name:<16} {rows[name]:5} rows {operations[name]:.3e} operations {medians[name]:8.2f} s ({spread})")
    counted = operations["with controls"] / operations["published flows"]
    print(f"operations x {counted:.2f}   time x {medians['with controls'] / medians['published flows']:.2f}")


if __name__ == "__main__":
    main()
