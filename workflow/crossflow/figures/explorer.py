"""The data of the explorer, one page per study: all means and bands, heads, and some questions with their own curves.

The page is one file that needs no network, so it cannot hold everything: at most `MOST_QUESTIONS` of each model,
spread evenly over the categories, half of them with the largest effects and half from a seeded random sample, are shown
with image and curves, and beside them those with a map of the lens over the image (`crossflow.figures.explorer_lens`).
"""

import base64
import io
import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any, Literal

import numpy as np
import plotly.offline
from PIL import Image

from crossflow.analysis.curves import Knockouts
from crossflow.analysis.results import Results
from crossflow.analysis.tables import COLUMNS, HEAD_TABLES
from crossflow.core.errors import BrokenQuestion, require_some_usable
from crossflow.core.files import replacing
from crossflow.core.measures import MEASURES
from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.core.tables import read_csv
from crossflow.data.chosen import read_chosen
from crossflow.data.images import Images, ImageSource
from crossflow.figures.explorer_lens import DECADES, lens_maps
from crossflow.figures.explorer_patching import patching_curves
from crossflow.figures.style import BOX, FALLS_AND_RISES, look_of, short

log = logging.getLogger(__name__)

MOST_QUESTIONS = 300
_THUMBNAIL, _MAPPED = 224, 480  # pixels of the longer side, without and with a map
_QUALITY = 55
_SYMBOLS = {
    "o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x",
    "*": "star", "p": "pentagon", "h": "hexagon", "<": "triangle-left", ">": "triangle-right",
}  # fmt: skip
_PAGE = Path(__file__).parent / "explorer_page"
PAGE_FILES = ("page.html", "page.css", "page.js", "patching.js", "lens.js")
"""Template, style and scripts of the page; the last script draws it."""


def curves_of(rows: Sequence[Mapping[str, Any]], bands: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every curve with all its measures.

    Args:
        rows: Rows of effects.csv (which are of the measure ``change_percent``) and of measures.csv.
        bands: Rows of bands.csv.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def curve_of(row: Mapping[str, Any]) -> dict[str, Any]:
        named = {name: row[name] for name in ("model", "category", "window", "flow")}
        return found.setdefault(tuple(named.values()), named | {"layers": [], "measures": {}})

    for row in rows:
        if row.get("stratum", "all") == "all":
            curve = curve_of(row)
            name = row.get("measure", "change_percent")
            measure = curve["measures"].setdefault(name, {"n": row["n"], "mean": [], "low": [], "high": []})
            for number in ("mean", "low", "high"):
                measure[number].append(short(row[number]))
            if name == "change_percent":
                curve["layers"].append(row["layer"])
    for row in bands:
        measure = curve_of(row)["measures"]["change_percent"]
        for number in ("low", "high"):
            measure.setdefault(f"band_{number}", []).append(short(row[number]))
    return list(found.values())


def head_maps(table: str, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A map of each flow of a summary table of heads: means and ends of intervals by head and layer.

    Args:
        table: Name of the table, of `HEAD_TABLES`.
        rows: Its rows.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    heads, layers = (1 + max((int(row[name]) for row in rows), default=0) for name in ("head", "layer"))
    for row in rows:
        named = {name: row[name] for name in ("model", "category", "flow")}
        numbers = {name: [[None] * layers for _ in range(heads)] for name in ("mean", "low", "high")}
        of_flow = found.setdefault(tuple(named.values()), named | {"table": table, "n": row["n"]} | numbers)
        for name in numbers:
            of_flow[name][row["head"]][row["layer"]] = short(row[name])
    return list(found.values())


def chosen_questions(table: Knockouts, most: int, seed: int) -> dict[str, str]:
    """Which questions are shown, at most ``most``, and why: id -> reason; half with the largest change, half random."""
    largest = table.largest(np.abs)
    order = sorted(largest, key=lambda question: (-largest[question], question))
    if len(order) <= most:
        return dict.fromkeys(order, "all questions are shown")
    half = most // 2
    rest = sorted(order[half:])
    generator = np.random.default_rng(derived_seed(seed, table.model, table.category, "explorer"))
    sample = generator.choice(np.array(rest, dtype=object), most - half, replace=False).tolist()
    return dict.fromkeys(order[:half], "one of the largest changes") | dict.fromkeys(sample, "random sample")


def question_row(table: Knockouts, question: ChosenQuestion, answer: Mapping[Any, Any], why: str) -> dict[str, Any]:
    """What the page shows of one question; its curves are those of the study's flows, without controls."""
    own = table.of_question(question.question_id)
    options = [question.true_option, question.false_option] if question.true_option else None
    return {
        "model": table.model,
        "category": table.category,
        "id": question.question_id,
        "image": question.image_id,
        "question": question.question,
        "answer": question.answer,
        "generated": str(answer["generated"]),
        "correct": bool(answer["correct"]),
        "p": short(float(answer["p_clean"])),
        "options": options,
        "boxes": [list(chosen.box) for chosen in question.objects],
        "why": why,
        "curves": {flow: [short(float(value)) for value in change] for flow, (_, change) in own.items()},
    }


def thumbnail(image: Image.Image, most: int = _THUMBNAIL) -> dict[str, Any]:
    """A copy of an image of at most ``most`` pixels a side as a data URI, with the image's own width and height."""
    small = image.convert("RGB")
    small.thumbnail((most, most))
    encoded = io.BytesIO()
    small.save(encoded, "jpeg", quality=_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return {"uri": uri, "width": image.width, "height": image.height}


def looks(flows: Iterable[str]) -> dict[str, dict[str, str]]:
    """Flow -> colour, dash and symbol, as in the figures."""
    found = {}
    for flow in flows:
        look = look_of(flow)
        pattern = ",".join(f"{2 * length:g}px" for length in look.dash[1])
        found[flow] = {"colour": look.colour, "dash": pattern or "solid", "symbol": _SYMBOLS[look.marker]}
    return found


def page(data: Mapping[str, Any], title: str) -> str:
    """The whole page. What comes from data cannot end the script that holds it, or be taken for a tag."""
    encoded = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        encoded = encoded.replace(sign, f"\\u{ord(sign):04x}")
    template, style, *scripts = ((_PAGE / name).read_text(encoding="utf-8") for name in PAGE_FILES)
    return Template(template).substitute(
        title=escape(title), style=style, data=encoded, plotly=plotly.offline.get_plotlyjs(), script="".join(scripts)
    )


def collect(
    results: Results, images: Images, heads: Sequence[str] = (), maps: bool = False, patching: bool = False
) -> dict[str, Any]:
    """All that the page shows; single questions have their curves in each model's first window.

    Args:
        results: The study's results.
        images: The images of its questions.
        heads: The study's summary tables of heads.
        maps: Whether the study has maps of the lens over the image; their questions are shown in any case.
        patching: Whether the study patches pairs.

    Raises:
        CrossflowError: a table is absent or damaged, or no question has an image any more.
    """

    def summary(table: str) -> list[dict[str, Any]]:
        return read_csv(results.results / "summary" / f"{table}.csv", COLUMNS[table])

    effects, measures, bands = map(summary, ("effects", "measures", "bands"))
    curves = curves_of(effects + measures, bands)
    most = max(2, MOST_QUESTIONS // len(results.categories))
    questions: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    thumbnails: dict[str, Any] = {}
    broken: dict[str, BrokenQuestion] = {}
    centres: dict[str, dict[str, list[int]]] = {}
    ticks: dict[str, int] = {}
    lenses: dict[str, Any] = {}
    tables = len(results.windows) * len(results.categories)
    for model, (window, *_) in results.windows.items():
        for category in results.categories:
            table = results.knockouts(model, window, category)
            centres[model] = {flow: list(curve.centres) for flow, curve in table.curves.items()}
            ticks[model] = max(1, round(table.layers / 8))
            answers = results.answers(model, category).set_index("question_id").to_dict("index")
            chosen = {one.question_id: one for one in read_chosen(results.results / "questions" / f"{category}.csv")}
            found = chosen_questions(table, most, results.seed)
            whole = len(found) == len(table.question_ids)
            how = "all." if whole else "half with the largest changes, half random."
            notes[f"{model}/{category}"] = (
                f"{len(found)} of {len(table.question_ids)} questions that were knocked out: {how}"
            )
            mapped = lens_maps(results.lens_maps(model, category), tables) if maps else {}
            lenses |= {f"{model}/{category}/{question_id}": each for question_id, each in mapped.items()}
            for question_id, why in (dict.fromkeys(mapped, "has a map") | found).items():
                question = chosen[question_id]
                try:
                    question, image = images.open_for(question)
                    if question.image_id not in thumbnails or question_id in mapped:
                        thumbnails[question.image_id] = thumbnail(
                            image, _MAPPED if question_id in mapped else _THUMBNAIL
                        )
                except BrokenQuestion as reason:
                    log.warning("showing question %s without its image: %s", question_id, reason)
                    broken[f"{model}/{category}/{question_id}"] = reason
                questions.append(question_row(table, question, answers[question_id], why))
    require_some_usable(broken, len(questions), results.results)
    patched = summary("patching") if patching else []
    return {
        "models": list(results.windows),
        "windows": results.windows,
        "categories": list(results.categories),
        "measures": {measure.name: measure.words for measure in MEASURES},
        "looks": looks(dict.fromkeys([curve["flow"] for curve in curves] + [each["set"] for each in patched])),
        "box": BOX,
        "diverging": [[place / (len(FALLS_AND_RISES) - 1), colour] for place, colour in enumerate(FALLS_AND_RISES)],
        "ticks": ticks,
        "centres": centres,
        "curves": curves,
        "head_tables": {table: HEAD_TABLES[table] for table in heads},
        "heads": [each for table in heads for each in head_maps(table, summary(table))],
        "claims": json.loads((results.results / "claims.json").read_text(encoding="utf-8"))["claims"],
        "questions": questions,
        "notes": notes,
        "images": thumbnails,
        "patching": patching_curves(patched, summary("patching_depth")) if patching else None,
        "lens": {"decades": DECADES, "maps": lenses} if lenses else None,
    }


def write_explorer(
    results: Results,
    images: ImageSource,
    output: Path,
    heads: tuple[Literal["heads", "head_subsets"], ...] = (),
    maps: bool = False,
    patching: bool = False,
) -> None:
    """Write one interactive page of a study, which needs no network.

    Args:
        results: The study's results.
        images: The images of its questions.
        output: The page (HTML).
        heads: The study's summary tables of heads, if it has any.
        maps: Show the study's maps of the lens over the image.
        patching: Show the study's patching of pairs.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    with images.open() as opened:
        data = collect(results, opened, heads, maps, patching)
    with replacing(output) as temporary:
        temporary.write_text(page(data, f"crossflow: the study {results.results.name}"), encoding="utf-8")
