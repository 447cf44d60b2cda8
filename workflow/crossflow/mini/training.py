"""mini-llava: a small LLaVA that learns, from scratch, to answer questions about the mini world.

One run trains it in three stages:

seeing
    The language model's own word embeddings name the projected feature of each patch that a toy covers: shape, colour,
    size, material.
reading
    The names of toys follow the image, and a read-out of the decoder's middle layer predicts the facts about each toy
    at its name. Only the lower half of the decoder runs.
answering
    Questions. The losses of the other two stages stay on with smaller weights. Questions that name toys and a value
    have a second read-out, three quarters up the decoder: whether the toy has the value. Both read-outs stop when
    the learning rate begins to fall.

So the training determines which facts are read out at which layer: see the model card.
"""

import json
import pickle
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from statistics import mean
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.data import DataLoader

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.progress import progress_of
from crossflow.mini.network import TrainingModel, write_model
from crossflow.mini.recipe import Recipe, Stage
from crossflow.mini.training_data import QUESTION_WRITERS, TrainingBatch, TrainingBatches

_REPORT_EVERY = 50


class Trained(NamedTuple):
    """The state of a training.

    Attributes:
        step: Steps done.
        report: The last step's losses (nats) and accuracies (fraction, by category); None before the first step.
        training_model: The model.
    """

    step: int
    report: dict[str, float] | None
    training_model: "TrainingModel"


def _remaining(recipe: Recipe, step: int) -> float:
    """Factor of the learning rate in its fall: 1 until then."""
    falling = round(recipe.fall * recipe.stages[-1].steps)
    return min(1.0, (recipe.steps - step) / falling) if falling else 1.0


def _batches(recipe: Recipe, tokenizer: Any, start: int, workers: int) -> Iterator[tuple[int, Stage, TrainingBatch]]:
    """Each step from ``start`` with its stage and batch, drawn ahead by worker processes if there are any."""
    begin, first = 0, 0
    for stage in recipe.stages:
        size = recipe.geometry.patch_size
        batches = TrainingBatches(tokenizer, size, recipe.seed, stage.scenes, stage.questions, first, stage.shares)
        steps = range(max(start - begin, 0), stage.steps)
        loader = DataLoader(
            batches, batch_size=None, sampler=steps, num_workers=workers, prefetch_factor=8 if workers else None
        )
        for step, batch in zip(steps, loader, strict=True):
            yield begin + step, stage, batch
        begin += stage.steps
        first += stage.steps * stage.scenes


def _resume(checkpoint: Path, recipe: Recipe, training_model: TrainingModel, optimiser: torch.optim.Optimizer) -> int:
    """Resume an unfinished training. Returns the number of steps done."""
    if not checkpoint.is_file():
        return 0
    try:
        saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
        made_for = saved["recipe"]
    except (OSError, RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError) as error:
        raise CrossflowError(f"{checkpoint} is not a checkpoint of this training: delete it to start again.") from error
    if made_for != json.dumps(asdict(recipe)):
        raise CrossflowError(f"{checkpoint} belongs to another recipe: delete it to start again.")
    training_model.load_state_dict(saved["training_model"])
    optimiser.load_state_dict(saved["optimiser"])
    return int(saved["step"])


def _keep(
    checkpoint: Path, recipe: Recipe, training_model: TrainingModel, optimiser: torch.optim.Optimizer, step: int
) -> None:
    state = {
        "recipe": json.dumps(asdict(recipe)),
        "step": step,
        "training_model": training_model.state_dict(),
        "optimiser": optimiser.state_dict(),
    }
    with replacing(checkpoint) as temporary:
        torch.save(state, temporary)


def train(
    recipe: Recipe,
    checkpoint: Path,
    device: torch.device,
    workers: int = 1,
    every: int = 50,
) -> Iterator[Trained]:
    """Train, step by step.

    Args:
        recipe: The recipe.
        checkpoint: Written at regular intervals; the training resumes from it if it exists.
        device: Device of the training.
        workers: Processes that draw scenes ahead; with 0, scenes are drawn between steps.
        every: Steps between checkpoints.

    Yields:
        Once before the first step, and after each step.

    Raises:
        CrossflowError: the checkpoint belongs to another recipe, or cannot be written.
    """
    training_model = TrainingModel(recipe)
    matrices = [parameter for parameter in training_model.parameters() if parameter.ndim > 1]
    vectors = [parameter for parameter in training_model.parameters() if parameter.ndim < 2]
    training_model.to(device).train()
    optimiser = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}],
        betas=(0.9, 0.98),
    )
    start = _resume(checkpoint, recipe, training_model, optimiser)
    yield Trained(start, None, training_model)
    categories = tuple(QUESTION_WRITERS)
    for step, stage, batch in _batches(recipe, training_model.tokenizer, start, workers):
        if step == recipe.stages[0].steps:
            training_model.name_plurals()
        batch = batch.to(device)
        left = _remaining(recipe, step)
        for group in optimiser.param_groups:
            group["lr"] = stage.rate * min(1.0, (step + 1) / recipe.warm_up) * left
        losses = training_model(batch, stage)
        reading = stage.reading * (left == 1)
        total = stage.seeing * losses.seeing + stage.answering * losses.answering
        total = total + reading * (losses.reading + losses.checking)
        optimiser.zero_grad()
        total.backward()
        nn.utils.clip_grad_norm_(training_model.parameters(), 1.0)
        optimiser.step()
        report = {"seeing": losses.seeing.item(), "reading": losses.reading.item()}
        if stage.answering:
            report["checking"] = losses.checking.item()
            report["answering"] = losses.answering.item()
            for number, category in enumerate(categories):
                asked = batch.categories == number
                if asked.any():
                    report[category] = losses.right[asked].float().mean().item()
        if (step + 1) % every == 0 or step + 1 == recipe.steps:
            _keep(checkpoint, recipe, training_model, optimiser, step + 1)
        yield Trained(step + 1, report, training_model)


def write_mini_llava(
    output: Path, seed: int = 0, steps: tuple[int, ...] = (), workers: int = 1, threads: int = 1, device: str = "auto"
) -> None:
    """Train mini-llava on the mini world; a stopped training resumes from its checkpoint.

    Args:
        output: Folder of the model; the checkpoint lies beside it.
        seed: Seed of the weights and of all scenes.
        steps: Steps of each stage; by default those of the recipe.
        workers: Processes that draw scenes.
        threads: CPU threads for the training itself.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.

    Raises:
        CrossflowError: the steps do not fit the recipe's stages, or the checkpoint is of another recipe.
    """
    recipe = Recipe(seed=seed)
    if steps:
        if len(steps) != len(recipe.stages) or min(steps) < 1:
            raise CrossflowError(f"--steps takes {len(recipe.stages)} numbers of at least 1, one for each stage.")
        recipe = recipe.with_steps(*steps)
    torch.set_num_threads(threads)
    checkpoint = output.with_name(f"{output.name}.checkpoint.pt")
    reports: dict[str, list[float]] = defaultdict(list)
    training = train(recipe, checkpoint, take_device(device), workers)
    trained = next(training)
    with progress_of("mini-llava", recipe.steps, trained.step, unit="step") as progress:
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
