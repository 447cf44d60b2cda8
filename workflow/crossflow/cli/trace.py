"""``crossflow trace``: one question about one image, without a study."""

from pathlib import Path
from typing import Literal

from tyro.conf import UseAppendAction

from crossflow import api, asking
from crossflow.cli.where import Where
from crossflow.core.files import replacing
from crossflow.core.flows import window_named
from crossflow.core.image_lens import LENS_MAP
from crossflow.core.tables import write_parquet
from crossflow.experiments.attention_map import ATTENTION, AttentionMap
from crossflow.experiments.lens_map import LensMap
from crossflow.experiments.trace import knock_out_cells
from crossflow.figures import style
from crossflow.figures.flows import mean_curves
from crossflow.figures.trace import draw_attention, draw_curves, draw_map, draw_words

_WORDS = 5
"""Words of each visual token in the table of the lens."""


def run(
    where: Where,
    image: Path,
    question: str,
    model: str = "mini-llava",
    box: UseAppendAction[tuple[str, ...]] = (),
    flows: tuple[str, ...] = (),
    layers: tuple[int, ...] = (),
    cells: int = 6,
    target: Literal["question", "instruction", "last"] = "question",
    output: Path = Path("trace"),
) -> None:
    """Ask one question about one image: print the answer, and draw its flows and maps.

    Args:
        where: The file that names models, and the device.
        image: The image.
        question: The question about the image.
        model: A model in params.yaml, or a folder.
        box: An object that the question is about: left,top,width,height in pixels of the image; repeatable.
        flows: Flows, source->target; by default the published six.
        layers: Centre layers; by default all.
        cells: Number of cells of the map along the longer side.
        target: The position set from which cells are hidden, and whose attention is drawn.
        output: Folder for the figures and the tables of attention and of the lens over the image.

    Raises:
        CrossflowError: the model, the image or the question cannot be used.
    """
    loaded = asking.load(model, params=where.params, device=where.device)
    asked = asking.ask(loaded, image, question, box)
    table = api.knockout(asked, flows or None, where.window, layers=layers or None)
    centres, window = table["layer"].unique().tolist(), where.window or loaded.window
    print(f"answer      {asked.answer!r}, p = {asked.probability:.4f} (first token)")
    curves = dict(mean_curves(table, names="flow", numbers="change_percent"))
    for flow, (places, change) in curves.items():
        strongest = int(abs(change).argmax())
        print(f"{flow:<20}  strongest change {change[strongest]:+6.1f} % at centre layer {places[strongest]}")
    for flow in table["flow"].unique():
        if flow not in curves:
            print(f"{flow:<20}  missing: it blocks no edge")
    effects = knock_out_cells(loaded.loaded, asked.image, asked.answered(), cells, target, centres, str(window))
    boxes = [chosen.box for chosen in asked.question.objects]
    title = f"{question}\n{asked.answer or '(nothing)'} (p = {asked.probability:.3f})"
    heading = f"{model}, window {window}"
    attention = AttentionMap.of(loaded.loaded, asked.prepared, target, asked.image.size)
    lens = LensMap.asked(loaded.loaded, asked.prepared, asked.answer, _WORDS, asked.image.size)
    stated = {"question": question, "model": model, "image_size": list(asked.image.size)}
    for path, schema, rows, more in (
        (output / "attention.parquet", ATTENTION, attention.table(), {"target": target}),
        (output / "image_lens.parquet", LENS_MAP, lens.table(), {}),
    ):
        write_parquet(path, schema, rows, stated | more)
        print(path)
    windows = [window_named(str(window), layer, loaded.layers) for layer in centres]
    elsewhere = f"; up to {100 * max(map(attention.elsewhere, windows)):.0f} % on padding and newlines"
    attending = (
        f"{heading}: attention of {target} on the image{elsewhere if not attention.places.shown.all() else ''}\n"
        "above each image: rank correlation, over cells, of attention and effect of hiding"
    )
    with style.own_settings():
        for name, figure in (
            ("curves", draw_curves(table, asked.image, boxes, title, heading)),
            ("map", draw_map(effects.change, centres, asked.image, boxes, f"{heading}: cell → {target}")),
            (
                "attention",
                draw_attention(
                    [attention.density(each) for each in windows],
                    effects.correlations,
                    centres,
                    asked.image,
                    boxes,
                    attending,
                ),
            ),
            ("lens", draw_words(lens, asked.image, boxes, f"{model}: what visual tokens say, with the final norm")),
        ):
            paths = [output / f"{name}.{suffix}" for suffix in ("png", "pdf")]
            style.save(figure, paths)
            print(f"{paths[0]}, {paths[1].name}")
    if boxes:
        path = output / "patches.png"
        with replacing(path) as temporary:
            api.show(asked).save(temporary, "png")
        print(path)
