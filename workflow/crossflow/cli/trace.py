"""``crossflow trace``: one image and one question, at once; for an idea before it becomes a study."""

import argparse
from pathlib import Path

from crossflow.cli.one_question import (
    add_box_argument,
    add_common_arguments,
    entry_of,
    open_image,
    require_window,
    settings_of,
)
from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.files import replacing
from crossflow.core.flows import BASIC_SETS, PUBLISHED_FLOWS, parse_flow
from crossflow.experiments.trace import own_question, trace
from crossflow.figures import overlay, style
from crossflow.figures.trace import draw_curves, draw_map
from crossflow.models.loading import load_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--image", type=Path, required=True, help="an image")
    parser.add_argument("--question", required=True)
    parser.add_argument("--model", default="mini-llava", help="a model of params.yaml (default: mini-llava)")
    add_box_argument(parser)
    parser.add_argument("--flows", nargs="+", metavar="SOURCE->TARGET", help="default: the published six")
    add_common_arguments(parser)
    parser.add_argument("--cells", type=int, default=6, help="cells of the map along the longer side (default 6)")
    parser.add_argument("--target", default="question", choices=BASIC_SETS[3:], help="what cells are hidden from")
    parser.add_argument("--output", type=Path, default=Path("trace"), help="folder of the figures (default: trace)")


def run(arguments: argparse.Namespace) -> None:
    """Print the answer, and draw curves and map.

    Raises:
        CrossflowError: the model, the image or the question can not be used.
    """
    flows = arguments.flows or [
        flow
        for flow in PUBLISHED_FLOWS
        if arguments.box or parse_flow(flow).parts[0].source not in ("related", "other")
    ]
    entry = entry_of(arguments.params, arguments.model)
    window = arguments.window or entry["window"]
    question = own_question(arguments.question, arguments.box)
    image = open_image(arguments.image)
    model = load_model(settings_of(entry), take_device(arguments.device))
    require_window(window, len(model.layers), arguments.model)
    try:
        found = trace(model, image, question, flows, window, arguments.cells, arguments.target)
    except BrokenQuestion as reason:
        raise CrossflowError(f"{arguments.image}, {arguments.question!r}: {reason}.") from reason
    print(f"answer      {found.answer.text!r}, p = {found.p_clean:.4f} (first token)")
    for name, curve in found.curves.items():
        layer = int(abs(curve).argmax())
        print(f"{name:<20}  strongest change {curve[layer]:+6.1f} % at centre layer {layer}")
    for name in found.missing:
        print(f"{name:<20}  missing: it blocks no edge")
    heading = f"{arguments.model}, window {window}"
    with style.own_settings():
        for name, figure in (
            ("curves", draw_curves(found, image, arguments.box, arguments.question, heading)),
            ("map", draw_map(found, image, arguments.box, f"{heading}: cell → {arguments.target}")),
        ):
            paths = [arguments.output / f"{name}.{suffix}" for suffix in ("png", "pdf")]
            style.save(figure, paths)
            print(f"{paths[0]}, {paths[1].name}")
    if arguments.box:
        path = arguments.output / "patches.png"
        with replacing(path) as temporary:
            overlay.draw_overlay(model, model.prepare(question, image), image).save(temporary, "png")
        print(path)
