"""``crossflow explorer``: one page to look around in a study, without a network."""

import argparse
import json
from pathlib import Path
from typing import Any

from crossflow import explorer, tables
from crossflow.gqa import read_chosen
from crossflow.verbs.options import add_picture_arguments, open_pictures
from crossflow.verbs.summary import read_curve_names, read_knockouts


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument("--curves", nargs="+", required=True, metavar="MODEL:WINDOW", help="models with their windows")
    parser.add_argument("--categories", nargs="+", required=True)
    parser.add_argument("--seed", type=int, required=True, help="seed of the random sample of questions")
    add_picture_arguments(parser)
    parser.add_argument("--output", type=Path, required=True, help="the page (HTML)")


def run(arguments: argparse.Namespace) -> None:
    """Write the page; questions have their curves in each model's first window.

    Raises:
        CrossflowError: a table or a picture can not be used.
    """
    results: Path = arguments.results
    names = read_curve_names(arguments.curves)
    windows: dict[str, list[str]] = {}
    for model, window in names:
        windows.setdefault(model, []).append(window)
    summary = results / "summary"
    rows = tables.read_csv(summary / "effects.csv", tables.EFFECTS)
    rows += tables.read_csv(summary / "measures.csv", tables.MEASURES)
    curves = explorer.curves_of(rows, tables.read_csv(summary / "bands.csv", tables.BANDS))
    flows = list(dict.fromkeys(curve["flow"] for curve in curves))
    most = max(2, explorer.MOST_QUESTIONS // len(arguments.categories))
    questions: list[dict[str, Any]] = []
    notes: dict[str, str] = {}
    pictures: dict[str, Any] = {}
    centres: dict[str, dict[str, list[int]]] = {}
    ticks: dict[str, int] = {}
    with open_pictures(arguments) as shown:
        for model, chosen_windows in windows.items():
            for category in arguments.categories:
                table = read_knockouts(results, model, chosen_windows[0], category)
                centres[model] = {flow: list(curve.centres) for flow, curve in table.curves.items()}
                ticks[model] = max(1, round(table.layers / 8))
                answers, _ = tables.read_parquet(results / "answers" / model / f"{category}.parquet", tables.ANSWERS)
                by_id: dict[Any, dict[str, Any]] = answers.set_index("question_id").to_dict("index")  # type: ignore[assignment]
                asked = {one.question_id: one for one in read_chosen(results / "questions" / f"{category}.csv")}
                found = explorer.chosen_questions(table, most, arguments.seed)
                notes[f"{model}/{category}"] = (
                    f"{len(found)} of {len(table.question_ids)} questions that were knocked out: "
                    + (
                        "all."
                        if len(found) == len(table.question_ids)
                        else "half with the largest changes, half random."
                    )
                )
                for question_id, why in found.items():
                    question = asked[question_id]
                    questions.append(explorer.question_row(table, question, by_id[question_id], why))
                    if question.image_id not in pictures:
                        pictures[question.image_id] = explorer.thumbnail(shown.open(question.image_id))
    data = {
        "models": list(windows),
        "windows": windows,
        "categories": arguments.categories,
        "measures": explorer.measure_names(),
        "looks": explorer.looks(flows),
        "ticks": ticks,
        "centres": centres,
        "curves": curves,
        "claims": json.loads((results / "claims.json").read_text(encoding="utf-8"))["claims"],
        "questions": questions,
        "notes": notes,
        "pictures": pictures,
    }
    with tables.replacing(arguments.output) as temporary:
        temporary.write_text(explorer.page(data, f"crossflow: the study {results.name}"), encoding="utf-8")
