"""``crossflow train-mini-llava``: train a small LLaVA on the mini world."""

import argparse
from collections import defaultdict
from pathlib import Path
from statistics import mean

import torch
from tqdm import tqdm

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.mini.network import write_model
from crossflow.mini.recipe import Recipe
from crossflow.mini.training import train

_REPORT_EVERY = 50


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--seed", type=int, default=0, help="seed of the weights and of all batches")
    parser.add_argument("--output", type=Path, required=True, help="folder of the model; the checkpoint lies beside it")
    parser.add_argument("--steps", type=int, nargs="+", help="steps of each stage; by default those of the recipe")
    parser.add_argument("--workers", type=int, default=1, help="processes that draw scenes")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of the training itself")
    parser.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")


def run(arguments: argparse.Namespace) -> None:
    """Train to the end, from the checkpoint if there is one, and write the model."""
    recipe = Recipe(seed=arguments.seed)
    if arguments.steps is not None:
        if len(arguments.steps) != len(recipe.stages) or min(arguments.steps) < 1:
            raise CrossflowError(f"--steps takes {len(recipe.stages)} numbers from 1, one for each stage.")
        recipe = recipe.with_steps(*arguments.steps)
    torch.set_num_threads(arguments.threads)
    output: Path = arguments.output
    checkpoint = output.with_name(f"{output.name}.checkpoint.pt")
    reports: dict[str, list[float]] = defaultdict(list)
    training = train(recipe, checkpoint, take_device(arguments.device), arguments.workers)
    trained = next(training)
    with tqdm(total=recipe.steps, initial=trained.step, desc="mini-llava", unit="step") as progress:
        for trained in training:
            progress.update()
            for name, value in (trained.report or {}).items():
                reports[name].append(value)
            if trained.step % _REPORT_EVERY == 0:
                shown = "  ".join(f"{name} {mean(values):.3f}" for name, values in reports.items())
                progress.write(f"step {trained.step}: {shown}")
                reports.clear()
    write_model(trained.training_model, output)
    checkpoint.unlink()
