"""``crossflow trace``: one picture and one question, at once; for an idea before it becomes a study."""

import argparse
from pathlib import Path

import yaml
from PIL import Image

from crossflow import figures, hub, overlay, parameters
from crossflow.devices import take_device
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.flows import BASIC_SETS, PUBLISHED_FLOWS, parse_flow
from crossflow.gqa import Box, Pictures
from crossflow.models import ModelSettings, load_model
from crossflow.tables import replacing
from crossflow.trace import asked, trace
from crossflow.trace_figures import draw_curves, draw_map


def _box(text: str) -> Box:
    try:
        box = Box(*map(int, text.split(",")))
    except (TypeError, ValueError) as error:
        raise argparse.ArgumentTypeError(f"{text!r} is not left,top,width,height in pixels") from error
    if box.w < 1 or box.h < 1:
        raise argparse.ArgumentTypeError(f"{text!r} has no area")
    return box


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--image", type=Path, required=True, help="a picture")
    parser.add_argument("--question", required=True)
    parser.add_argument("--model", default="mini-llava", help="a model of params.yaml (default: mini-llava)")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"))
    parser.add_argument(
        "--box", type=_box, action="append", default=[], metavar="LEFT,TOP,WIDTH,HEIGHT",
        help="what the question is about, in pixels of the picture; may be given several times",
    )  # fmt: skip
    parser.add_argument("--flows", nargs="+", metavar="SOURCE->TARGET", help="default: the published six")
    parser.add_argument("--window", type=int, help="width of the window, in layers (default: the model's own)")
    parser.add_argument("--cells", type=int, default=6, help="cells of the map along the longer side (default 6)")
    parser.add_argument("--target", default="question", choices=BASIC_SETS[3:], help="what cells are hidden from")
    parser.add_argument("--output", type=Path, default=Path("trace"), help="folder of the figures (default: trace)")
    parser.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")


def _settings(arguments: argparse.Namespace) -> tuple[ModelSettings, int]:
    """The model's settings and window, as params.yaml has them; a model on the hub is fetched, if it is not there."""
    try:
        models = yaml.safe_load(arguments.params.read_text(encoding="utf-8"))["models"]
    except (OSError, yaml.YAMLError, KeyError, TypeError) as error:
        raise CrossflowError(f"{arguments.params} is no file of parameters with models ({error}).") from error
    if arguments.model not in models:
        raise CrossflowError(f"{arguments.params} has no model {arguments.model!r}; known are {', '.join(models)}.")
    entry = models[arguments.model]
    path = hub.folder_of(hub.fetch(entry["repo"], entry["revision"])) if "repo" in entry else Path(entry["path"])
    chosen = {key: entry[key] for key in parameters.SETTINGS if key in entry}
    return ModelSettings(path, **chosen), arguments.window or entry["window"]


def run(arguments: argparse.Namespace) -> None:
    """Print the answer, and draw curves and map.

    Raises:
        CrossflowError: the model, the picture or the question can not be used.
    """
    flows = arguments.flows or [
        flow
        for flow in PUBLISHED_FLOWS
        if arguments.box or parse_flow(flow).parts[0].source not in ("related", "other")
    ]
    settings, window = _settings(arguments)
    question = asked(arguments.question, arguments.box)
    try:
        with Pictures(arguments.image.parent, by_file=True) as pictures:
            picture: Image.Image = pictures.open(arguments.image.name)
        model = load_model(settings, take_device(arguments.device))
        if not 1 <= window < 2 * len(model.layers):
            layers = len(model.layers)
            raise CrossflowError(f"A window of {window} layers does not fit {arguments.model}, which has {layers}.")
        found = trace(model, picture, question, flows, window, arguments.cells, arguments.target)
    except BrokenQuestion as reason:
        raise CrossflowError(f"{arguments.image}, {arguments.question!r}: {reason}.") from reason
    print(f"answer      {found.answer.text!r}, p = {found.p_clean:.4f} (first token)")
    for name, curve in found.curves.items():
        layer = int(abs(curve).argmax())
        print(f"{name:<20}  strongest change {curve[layer]:+6.1f} % at centre layer {layer}")
    for name in found.missing:
        print(f"{name:<20}  missing: it blocks no edge")
    heading = f"{arguments.model}, window {window}"
    with figures.own_settings():
        for name, figure in (
            ("curves", draw_curves(found, picture, arguments.box, arguments.question, heading)),
            ("map", draw_map(found, picture, arguments.box, f"{heading}: cell → {arguments.target}")),
        ):
            paths = [arguments.output / f"{name}.{suffix}" for suffix in ("png", "pdf")]
            figures.save(figure, paths)
            print(f"{paths[0]}, {paths[1].name}")
    if arguments.box:
        path = arguments.output / "patches.png"
        try:
            drawn = overlay.draw(model, model.prepare(question, picture), picture)
        except CrossflowError as reason:
            print(f"no {path}: {reason}")
            return
        with replacing(path) as temporary:
            drawn.save(temporary, "png")
        print(path)
