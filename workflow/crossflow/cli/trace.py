"""``crossflow trace``: one image and one question, at once; for an idea before it becomes a study."""

from pathlib import Path
from typing import Literal

from tyro.conf import UseAppendAction

from crossflow.cli.one_question import Where, boxes_of, entry_of, open_image, require_window, settings_of
from crossflow.core.devices import take_device
from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.files import replacing
from crossflow.core.flows import PUBLISHED_FLOWS, parse_flow
from crossflow.experiments.trace import own_question, trace
from crossflow.figures import overlay, style
from crossflow.figures.trace import draw_curves, draw_map
from crossflow.models.loading import load_model


def run(
    where: Where,
    image: Path,
    question: str,
    model: str = "mini-llava",
    box: UseAppendAction[tuple[str, ...]] = (),
    flows: tuple[str, ...] = (),
    cells: int = 6,
    target: Literal["question", "instruction", "last"] = "question",
    output: Path = Path("trace"),
) -> None:
    """Ask one question about one image: print the answer, and draw its flows and map.

    Args:
        where: Where models are named, and where the model runs.
        image: An image.
        question: What is asked.
        model: A model of params.yaml.
        box: What it is about: left,top,width,height in pixels of the image; may be given several times.
        flows: Flows, source->target; by default the published six.
        cells: Cells of the map along the longer side.
        target: What cells are hidden from.
        output: Folder of the figures.

    Raises:
        CrossflowError: the model, the image or the question can not be used.
    """
    boxes = boxes_of(box)
    of_objects = ("related", "other")
    named = flows or [flow for flow in PUBLISHED_FLOWS if boxes or parse_flow(flow).parts[0].source not in of_objects]
    entry = entry_of(where.params, model)
    window = where.window or entry["window"]
    asked, seen = own_question(question, boxes), open_image(image)
    loaded = load_model(settings_of(entry), take_device(where.device))
    require_window(window, len(loaded.layers), model)
    try:
        found = trace(loaded, seen, asked, named, window, cells, target)
    except BrokenQuestion as reason:
        raise CrossflowError(f"{image}, {question!r}: {reason}.") from reason
    print(f"answer      {found.answer.text!r}, p = {found.p_clean:.4f} (first token)")
    for name, curve in found.curves.items():
        layer = int(abs(curve).argmax())
        print(f"{name:<20}  strongest change {curve[layer]:+6.1f} % at centre layer {layer}")
    for name in found.missing:
        print(f"{name:<20}  missing: it blocks no edge")
    heading = f"{model}, window {window}"
    with style.own_settings():
        for name, figure in (
            ("curves", draw_curves(found, seen, boxes, question, heading)),
            ("map", draw_map(found, seen, boxes, f"{heading}: cell → {target}")),
        ):
            paths = [output / f"{name}.{suffix}" for suffix in ("png", "pdf")]
            style.save(figure, paths)
            print(f"{paths[0]}, {paths[1].name}")
    if boxes:
        path = output / "patches.png"
        with replacing(path) as temporary:
            overlay.draw_overlay(loaded, loaded.prepare(asked, seen), seen).save(temporary, "png")
        print(path)
