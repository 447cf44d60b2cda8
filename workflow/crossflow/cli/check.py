"""``crossflow check``: verifies a model before it is studied."""

import argparse
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from crossflow.cli.one_question import (
    add_box_argument,
    add_common_arguments,
    entry_of,
    open_image,
    require_window,
    settings_of,
)
from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.records import Box
from crossflow.experiments.trace import own_question
from crossflow.figures import overlay
from crossflow.models.loading import load_model
from crossflow.models.model import DTYPES
from crossflow.models.prompts import TEMPLATES
from crossflow.models.visual_tokens import RULES
from crossflow.verify.model_check import checks, turned

_QUESTION = "Is the ball red or blue?"
_BALL = Box(300, 60, 110, 110)


def _drawn() -> Image.Image:
    """A wide image of a red ball and a blue box on a lawn."""
    image = Image.new("RGB", (480, 320), (120, 160, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 480, 120), fill=(170, 200, 230))
    draw.ellipse((_BALL.x, _BALL.y, _BALL.x + _BALL.w, _BALL.y + _BALL.h), fill=(200, 40, 40))
    draw.rectangle((60, 190, 190, 290), fill=(50, 70, 190))
    return image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    model = parser.add_mutually_exclusive_group()
    model.add_argument("--model", default="mini-llava", help="a model of params.yaml (default: mini-llava)")
    model.add_argument(
        "--model-path", type=Path, help="a folder in Hugging Face format, which params.yaml need not name"
    )
    parser.add_argument("--prompt", choices=TEMPLATES, help="default: the entry's; of a folder, chat-template")
    parser.add_argument(
        "--processing", choices=("processor", "pad", "anyres"), help="`image` of params.yaml (default: the entry's)"
    )
    parser.add_argument("--patches", choices=RULES, help="default: the entry's; of a folder, overlap")
    parser.add_argument("--dtype", choices=DTYPES, help="default: the entry's; of a folder, float32")
    parser.add_argument("--image", type=Path, help="an image (default: a drawn one)")
    parser.add_argument("--question", default=_QUESTION, help=f"default: {_QUESTION}")
    add_box_argument(parser)
    add_common_arguments(parser)
    parser.add_argument("--output", type=Path, default=Path("check"), help="folder of the images (default: check)")


def _middle(image: Image.Image) -> Box:
    """A box right of the middle, so that no mirrored one is the same."""
    width, height = image.size
    return Box(width * 2 // 5, height // 3, width * 2 // 5, height * 2 // 5)


def run(arguments: argparse.Namespace) -> None:
    """Print one line per check, and draw the visual tokens that show the boxes.

    Raises:
        CrossflowError: the model, the image or the question can not be used, or a check failed.
    """
    if arguments.model_path is None:
        name, entry = arguments.model, entry_of(arguments.params, arguments.model)
    else:
        name = arguments.model_path
        entry = {"path": name, "prompt": "chat-template", "patches": "overlap"}
    given = {
        "prompt": arguments.prompt,
        "image": arguments.processing,
        "patches": arguments.patches,
        "dtype": arguments.dtype,
    }
    settings = replace(settings_of(entry), **{key: value for key, value in given.items() if value is not None})
    image = _drawn() if arguments.image is None else open_image(arguments.image)
    boxes = arguments.box or [_middle(image) if arguments.image else _BALL]
    question = own_question(arguments.question, boxes)

    model = load_model(settings, take_device(arguments.device))
    layers = len(model.layers)
    window = arguments.window or entry.get("window", min(3, layers))
    require_window(window, layers, name)
    print(f"{name}: {model.network.config.model_type}, {layers} layers, {settings.dtype}, prompt {settings.prompt}")
    failed, made = [], 0
    for check in checks(model, question, image, window):
        print(f"{'ok' if check.passed else 'FAILED':<8}{check.name:<11}{check.found}", flush=True)
        made += 1
        if not check.passed:
            failed.append(check.name)
    if "positions" not in failed:
        for file, (about, shown) in {
            "patches.png": (question, image),
            "patches-turned.png": turned(question, image),
        }.items():
            path = arguments.output / file
            try:
                drawn = overlay.draw_overlay(model, model.prepare(about, shown), shown)
            except (ValueError, LookupError) as error:
                # As where the packing is wrong; the checks have said so.
                print(f"no {path}: the visual tokens lie in no rows ({error})")
                continue
            with replacing(path) as temporary:
                drawn.save(temporary, "png")
            print(path)
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        raise CrossflowError(f"{name} fails {len(failed)} of {made} checks: {names}; it can not be studied as it is.")
