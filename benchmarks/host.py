"""What the host needs for a launch: the time of models so narrow that nothing else takes any, by what they launch.

    PYTHONPATH=workflow:tests/helpers OMP_NUM_THREADS=1 .venv/bin/python benchmarks/host.py

A LLaVA of 32 layers and width 32 runs on one CPU core, once with every operation counted that makes a tensor or writes
into one, and then several times with the clock. Its own small arithmetic is included, so a GPU's host needs less for a
launch, if its cores are as fast.
"""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from crossflow.core.flows import PUBLISHED_FLOWS, parse_flow
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.edges import edges_of
from crossflow.engine.forward import run_clean_together
from crossflow.engine.shared_prefix import run_together
from crossflow.experiments.answers import answer_together
from crossflow.models.model import MultimodalModel, Prepared
from fake_cuda import is_launch
from knocked import rows_for
from tiny import draw_world, load_tiny, prepare_some

LAYERS, WINDOW, REPEATS = 32, 7, 5


class Launches(TorchDispatchMode):
    """Counts launches of kernels."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += is_launch(func)
        return func(*args, **(kwargs or {}))


def runs_of(model: MultimodalModel, prompts: Sequence[Prepared]) -> dict[str, Callable[[], object]]:
    """The parts of a study, by name, to be run on some questions together."""
    rows = [rows_for(prompt, LAYERS, WINDOW) for prompt in prompts]
    edges = [[edges_of(parse_flow(flow), each.positions, 0, "") for flow in PUBLISHED_FLOWS] for each in prompts]
    firsts = [min(row.start for row in each) for each in rows]
    cleans = run_clean_together(model, prompts, firsts)
    return {
        "answers": lambda: answer_together(model, prompts, [True] * len(prompts)),
        "clean run": lambda: run_clean_together(model, prompts, firsts),
        "knockouts": lambda: run_together(model, list(zip(cleans, rows, strict=True))),
        "attention mass": lambda: [attention_mass(*each) for each in zip(cleans, edges, strict=True)],
    }


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    folder = Path(tempfile.mkdtemp())
    model = load_tiny(folder / "model", layers=LAYERS, width=32)
    # As words of GQA have: a token, and the one that ends the answer.
    model = replace(model, settings=replace(model.settings, max_new_tokens=2))
    questions = draw_world(folder / "world", 12)["ChooseAttr"]
    print("| part | questions together | launches a question | host, ms a question | µs a launch |")
    print("|---|---|---|---|---|")
    for together in (1, 3, 8):
        prompts = prepare_some(model, folder / "world", questions[:together])
        for name, run in runs_of(model, prompts).items():
            with Launches() as counted:
                run()
            launches = counted.count / together
            begin = time.process_time()
            for _ in range(REPEATS):
                run()
            host = (time.process_time() - begin) / REPEATS / together
            print(f"| {name} | {together} | {launches:,.0f} | {host * 1e3:.1f} | {host / launches * 1e6:.0f} |")


if __name__ == "__main__":
    main()
