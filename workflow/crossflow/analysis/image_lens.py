"""The lens over the image and the question: image_lens.csv, a curve per place and word, and top_words.csv."""

from collections.abc import Iterable, Iterator

import numpy as np
import pandas as pd

from crossflow.analysis.bootstrap import clustered_mean
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError
from crossflow.core.image_lens import TOP
from crossflow.core.seeds import derived_seed


def place_rows(table: pd.DataFrame, layers: int, where: str, seed: int) -> Iterator[Row]:
    """The rows of image_lens.csv of one model and category, without their names.

    Args:
        table: The columns of ``IMAGE_LENS``.
        layers: Number of decoder layers.
        where: The model and the category, for errors.
        seed: Seed of the bootstrap.

    Raises:
        CrossflowError: a question lacks a layer.
    """
    states = layers + 1
    for (place, token), rows in table.groupby(["place", "token"], sort=False):
        rows = rows.sort_values(["question_id", "layer"], kind="stable")
        found = rows["layer"].to_numpy(dtype=int)
        if len(rows) % states or (found != np.tile(np.arange(states), len(rows) // states)).any():
            raise CrossflowError(f"Image lens of {where}: {token} lacks a layer: delete the table and run again.")
        probability, top = (rows[name].to_numpy(dtype=float).reshape(-1, states) for name in ("probability", "top"))
        present = np.isfinite(probability).all(axis=1)
        images = rows["image_id"].to_numpy(dtype=object)[::states][present]
        estimate = clustered_mean(probability[present], images, derived_seed(seed, str(place), str(token)))
        n = len(images)
        shares = top[present].mean(axis=0) if n else np.full(states, np.nan)
        for layer in range(states):
            named = {"place": place, "token": token, "layer": layer, "n": n}
            yield named | estimate.row(layer) | {"top": shares[layer]}


def word_rows(table: pd.DataFrame) -> Iterator[Row]:
    """The rows of top_words.csv of one model and category, without their names.

    Tokens with the same text are one word.

    Args:
        table: The columns of ``LENS_WORDS``.
    """
    questions = table["question_id"].nunique()
    sums = table.groupby(["layer", "word", "question_id"])["probability"].sum()
    words = sums.groupby(["layer", "word"]).agg(["sum", "size"]).reset_index()
    words["mean"], words["share"] = words["sum"] / questions, words["size"] / questions
    words = words.sort_values(["layer", "mean", "word"], ascending=[True, False, True])
    words["rank"] = words.groupby("layer").cumcount() + 1
    kept = words.loc[words["rank"] <= TOP, ["layer", "rank", "word", "mean", "share"]]
    yield from ({str(name): value for name, value in row.items()} for row in kept.to_dict("records"))


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of image_lens.csv and top_words.csv.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: dict[str, list[Row]] = {"image_lens": [], "top_words": []}
    for model in results.windows:
        for category in results.categories:
            places, words, layers = results.image_lens(model, category)
            named = {"model": model, "category": category}
            seed = derived_seed(results.seed, model, category, "image lens")
            of_places = place_rows(places, layers, f"{model}, {category}", seed)
            rows["image_lens"].extend(named | row for row in of_places)
            rows["top_words"].extend(named | row for row in word_rows(words))
    return {**rows}
