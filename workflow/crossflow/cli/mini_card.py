"""``crossflow mini-card``: ask mini-llava about the evaluation world and write its model card."""

import argparse
import tempfile
from pathlib import Path

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file, replacing
from crossflow.data.filtering import find_questions
from crossflow.data.images import Images
from crossflow.data.sampling import sample_questions
from crossflow.mini.model_card import Accuracy, accuracies, card
from crossflow.mini.questions import CATEGORIES
from crossflow.mini.recipe import Recipe
from crossflow.mini.world import write_world
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--model-path", type=Path, required=True, help="folder of the model")
    parser.add_argument("--number", type=int, default=1000, help="questions per category")
    parser.add_argument("--world-seed", type=int, default=999, help="seed of the evaluation scenes")
    parser.add_argument("--seed", type=int, default=0, help="seed that the model was trained with")
    parser.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")
    parser.add_argument("--output", type=Path, required=True, help="the card (Markdown)")


def run(arguments: argparse.Namespace) -> None:
    """Draw as many scenes as the questions need, ask, and write the card."""
    model = load_model(ModelSettings(arguments.model_path, "vicuna-v1"), take_device(arguments.device))
    measured: dict[str, dict[str, Accuracy]] = {}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        # Three scenes in a hundred have no question of some category.
        write_world(root, arguments.number * 11 // 10 + 10, arguments.world_seed)
        with Images(root) as images:
            for category in CATEGORIES:
                found, _ = find_questions(root, "val_balanced", category)
                if len(found) < arguments.number:
                    raise CrossflowError(f"The scenes hold only {len(found)} questions of {category}.")
                measured[category] = accuracies(model, sample_questions(found, arguments.number, 0), images)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    weights = hash_file(arguments.model_path / "model.safetensors")
    with replacing(arguments.output) as temporary:
        text = card(Recipe(seed=arguments.seed), parameters, weights, measured, arguments.world_seed)
        temporary.write_text(text, encoding="utf-8")
