"""``crossflow examples``: draw a few single questions of every category."""

import argparse
import logging
from pathlib import Path

import torch

from crossflow import figure_style, overlay
from crossflow.errors import CrossflowError
from crossflow.examples import Example, choose, curves_of, draw
from crossflow.figure_style import window_in_words
from crossflow.gqa import Pictures, read_chosen
from crossflow.models import MultimodalModel, sketch_model
from crossflow.tables import ANSWERS, read_parquet
from crossflow.verbs.options import add_model_arguments, add_picture_arguments, model_settings, open_pictures
from crossflow.verbs.summary import read_knockouts

log = logging.getLogger(__name__)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--results", type=Path, required=True, help="folder of the study's results")
    parser.add_argument("--model", required=True, help="the model's name in the results")
    parser.add_argument("--window", required=True, help="the window whose knockouts are shown")
    parser.add_argument("--categories", nargs="+", required=True)
    add_picture_arguments(parser)
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="a .pdf and a .png of each category")
    add_model_arguments(parser)


def _examples(
    arguments: argparse.Namespace, category: str, model: MultimodalModel, pictures: Pictures
) -> list[Example]:
    results: Path = arguments.results
    table = read_knockouts(results, arguments.model, arguments.window, category)
    answers, _ = read_parquet(results / "answers" / arguments.model / f"{category}.parquet", ANSWERS)
    rows = answers.set_index("question_id").to_dict("index")
    questions = {question.question_id: question for question in read_chosen(results / "questions" / f"{category}.csv")}
    found = []
    for question_id, why in choose(table).items():
        question, row = questions[question_id], rows[question_id]
        picture = pictures.open(question.image_id)
        try:
            patches = overlay.panels(model, model.prepare(question, picture), picture)[0].image
        except CrossflowError as reason:
            log.warning("%s: %s", question_id, reason)
            patches = None
        curves = curves_of(table, question_id)
        found.append(Example(why, question, row["generated"], row["p_clean"], picture, patches, curves))
    return found


def run(arguments: argparse.Namespace) -> None:
    """Draw the figures; no weights are read.

    Raises:
        CrossflowError: a table, the model's folder or a picture can not be used.
    """
    model = sketch_model(model_settings(arguments), torch.device("cpu"))
    with open_pictures(arguments) as pictures, figure_style.own_settings():
        for category in arguments.categories:
            heading = f"{arguments.model}, {category}, {window_in_words(arguments.window)}"
            files = [path for path in arguments.output if path.stem.endswith(f"-{category}")]
            figure_style.save(draw(_examples(arguments, category, model, pictures), heading), files)
