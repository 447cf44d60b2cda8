"""``crossflow mini-card``: ask mini-llava about the evaluation world and write its model card."""

import argparse
import tempfile
from pathlib import Path

from crossflow.devices import take_device
from crossflow.errors import CrossflowError
from crossflow.filtering import find_questions
from crossflow.gqa import Pictures
from crossflow.journal import hash_file
from crossflow.mini_card import Accuracy, accuracies, card
from crossflow.mini_recipe import Recipe
from crossflow.models import ModelSettings, load_model
from crossflow.sampling import choose
from crossflow.shapes import write_world
from crossflow.shapes_questions import CATEGORIES
from crossflow.tables import replacing


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
        with Pictures(root) as pictures:
            for category in CATEGORIES:
                found, _ = find_questions(root, "val_balanced", category)
                if len(found) < arguments.number:
                    raise CrossflowError(f"The scenes hold only {len(found)} questions of {category}.")
                measured[category] = accuracies(model, choose(found, arguments.number, 0), pictures)
    parameters = sum(parameter.numel() for parameter in model.network.parameters())
    weights = hash_file(arguments.model_path / "model.safetensors")
    with replacing(arguments.output) as temporary:
        text = card(Recipe(seed=arguments.seed), parameters, weights, measured, arguments.world_seed)
        temporary.write_text(text, encoding="utf-8")
