"""The data of the explorer, one page per study: all means and bands, and some questions with their own curves.

The page is one file that needs no network, so it can not hold everything: at most `MOST_QUESTIONS` of each model,
spread evenly over the categories, half of them those with the largest effects and half a seeded random sample, have
their picture and their own curves.
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
import plotly.offline
from PIL import Image

from crossflow.curves import MEASURES, Knockouts
from crossflow.figure_style import looks_of
from crossflow.gqa import ChosenQuestion
from crossflow.seeds import derived_seed

MOST_QUESTIONS = 300
_THUMBNAIL = 224  # pixels of the longer side
_QUALITY = 55
_DIGITS = 4
_SYMBOLS = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down", "P": "cross"}
_NAMES = {
    "change_percent": "change in answer probability (%)",
    "logprob_change": "change in log-probability (nats)",
    "margin_change": "change in margin, true less false option (nats)",
    "flipped": "answers that flip (fraction)",
    "correct": "accuracy under knockout (fraction)",
    "answer_logprob_change": "change in log-probability of the whole answer (nats)",
    "attention": "attention that is taken away (share)",
    "edges": "blocked edges",
}
_PAGE = Path(__file__).parent / "explorer_page"


def _short(value: float | str) -> float | None:
    """A number with four significant digits; None for an empty cell or NaN."""
    if value == "" or value != value:
        return None
    return float(f"{float(value):.{_DIGITS}g}")


def curves_of(rows: Sequence[Mapping[str, str]], bands: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    """Every curve with all its measures.

    Args:
        rows: Rows of effects.csv (which are of the measure ``change_percent``) and of measures.csv.
        bands: Rows of bands.csv.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}

    def curve_of(row: Mapping[str, str]) -> dict[str, Any]:
        named = {name: row[name] for name in ("model", "category", "window", "flow")}
        return found.setdefault(tuple(named.values()), named | {"layers": [], "measures": {}})

    for row in rows:
        if row.get("stratum", "all") == "all":
            curve = curve_of(row)
            name = row.get("measure", "change_percent")
            measure = curve["measures"].setdefault(name, {"n": int(row["n"]), "mean": [], "low": [], "high": []})
            for number in ("mean", "low", "high"):
                measure[number].append(_short(row[number]))
            if name == "change_percent":
                curve["layers"].append(int(row["layer"]))
    for row in bands:
        measure = curve_of(row)["measures"]["change_percent"]
        for number in ("low", "high"):
            measure.setdefault(f"band_{number}", []).append(_short(row[number]))
    return list(found.values())


def chosen_questions(table: Knockouts, most: int, seed: int) -> dict[str, str]:
    """Which questions are shown, and why: id -> reason; half by the largest change, half a random sample.

    Args:
        table: The knockouts of a category.
        most: At most so many.
        seed: The study's seed.
    """
    largest: dict[str, float] = {}
    for flow, curve in table.curves.items():
        if "~" not in flow:
            for question, value in zip(curve.question_ids, np.abs(curve.change).max(axis=1), strict=True):
                largest[question] = max(largest.get(question, 0.0), float(value))
    order = sorted(largest, key=lambda question: (-largest[question], question))
    if len(order) <= most:
        return dict.fromkeys(order, "all questions are shown")
    half = most // 2
    rest = sorted(order[half:])
    generator = np.random.default_rng(derived_seed(seed, table.model, table.category, "explorer"))
    sample = generator.choice(np.array(rest, dtype=object), most - half, replace=False).tolist()
    return dict.fromkeys(order[:half], "among the largest changes") | dict.fromkeys(sample, "of the random sample")


def question_row(table: Knockouts, question: ChosenQuestion, answer: Mapping[str, Any], why: str) -> dict[str, Any]:
    """What the page shows of one question; its curves are those of the study's flows, without controls."""
    curves = {}
    for flow, curve in table.curves.items():
        (places,) = np.nonzero(curve.question_ids == question.question_id)
        if len(places) and "~" not in flow:
            curves[flow] = [_short(float(value)) for value in curve.change[places[0]]]
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
        "p": _short(float(answer["p_clean"])),
        "options": options,
        "boxes": [list(chosen.box) for chosen in question.objects],
        "why": why,
        "curves": curves,
    }


def thumbnail(picture: Image.Image) -> dict[str, Any]:
    """A small copy of a picture as a data URI, with the picture's own width and height."""
    small = picture.convert("RGB")
    small.thumbnail((_THUMBNAIL, _THUMBNAIL))
    encoded = io.BytesIO()
    small.save(encoded, "jpeg", quality=_QUALITY)
    uri = f"data:image/jpeg;base64,{base64.b64encode(encoded.getvalue()).decode()}"
    return {"uri": uri, "width": picture.width, "height": picture.height}


def looks(flows: Sequence[str]) -> dict[str, dict[str, str]]:
    """Flow -> colour, dash and symbol, as in the figures."""
    found = {}
    for flow, look in looks_of(flows).items():
        pattern = ",".join(f"{2 * length:g}px" for length in look.dash[1])
        found[flow] = {"colour": look.colour, "dash": pattern or "solid", "symbol": _SYMBOLS[look.marker]}
    return found


def measure_names() -> dict[str, str]:
    """Measure -> its name and unit, as the page writes them."""
    return {name: _NAMES[name] for name in MEASURES}


def page_sources() -> Iterator[Path]:
    """The files that the page is made of."""
    yield from (_PAGE / name for name in ("page.html", "page.css", "page.js"))


def page(data: Mapping[str, Any], title: str) -> str:
    """The whole page. What comes from data can not end the script that holds it, or be taken for a tag."""
    encoded = json.dumps(data, separators=(",", ":"), allow_nan=False)
    for sign in "<>&\u2028\u2029":
        encoded = encoded.replace(sign, f"\\u{ord(sign):04x}")
    template, style, script = (path.read_text(encoding="utf-8") for path in page_sources())
    return Template(template).substitute(
        title=escape(title), style=style, data=encoded, plotly=plotly.offline.get_plotlyjs(), script=script
    )
