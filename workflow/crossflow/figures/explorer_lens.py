"""The explorer's maps of single questions: what each visual token says after every layer, and who reads it.

A map of a real model has tens of thousands of cells, so numbers are two bytes each, and of the words only the most
likely one is kept. Tokens that show nothing of the image (padding, newlines, marks between tiles) have no cell; the
attention on them is given as a sum.
"""

import base64
from typing import Any

import numpy as np
import pandas as pd

MOST_CELLS = 600_000
"""Cells of all maps of a page, 16 bytes each; but the first question of each table has its map whatever its size."""
DECADES = 8
"""Numbers from 1 down to 1e-8 have a code; smaller ones are 0."""
_CODES = 2**16 - 1
ATTENTION = ("last", "question")
"""Targets whose attention is shown."""


def coded(values: np.ndarray) -> str:
    """Numbers from 0 to 1 on a logarithmic scale, as little-endian 16-bit codes in base64 (0.02 % off at most)."""
    logs = np.log10(np.maximum(values.astype(float), 10.0**-DECADES)) / DECADES
    return base64.b64encode(np.round((1 + logs) * _CODES).astype("<u2").tobytes()).decode()


def lens_map(rows: pd.DataFrame) -> dict[str, Any]:
    """What the page shows of one question's map.

    Args:
        rows: The question's rows of ``LENS_MAPS``.

    Returns:
        ``states``, number of layers and one more; ``boxes`` (left, top, width, height) of the cells, those of the view
        of the whole image first, and their number ``whole``; ``words``, the different ones, and ``word``, the codes of
        their places in it, by state and cell; ``top``, ``object``, ``answer`` and, for each layer, ``last`` and
        ``question``: codes of numbers; ``without``, number of tokens without a cell; ``elsewhere``, the attention on
        them by target and layer.
    """
    order = rows.sort_values(["layer", "base", "position"], ascending=[True, False, True], kind="stable")
    states = int(order["layer"].nunique())
    placed = order["left"].notna().to_numpy()
    cells, without = order[placed], order[~placed]
    count = len(cells) // states
    first = cells.iloc[:count]
    words, word = np.unique(cells["words"].str[0].to_numpy(dtype=str), return_inverse=True)
    found: dict[str, Any] = {
        "states": states,
        "boxes": first[["left", "top", "width", "height"]].round(1).to_numpy().tolist(),
        "whole": int(first["base"].sum()),
        "words": words.tolist(),
        "word": base64.b64encode(word.astype("<u2").tobytes()).decode(),
        "top": coded(cells["probabilities"].str[0].to_numpy(dtype=float)),
        "without": len(without) // states,
        "elsewhere": {},
    }
    for name in ("object", "answer"):
        numbers = cells[f"p_{name}"].to_numpy(dtype=float)
        if np.isfinite(numbers).all():
            found[name] = coded(numbers)
    for target in ATTENTION:
        name = f"attention_{target}"
        found[target] = coded(cells.loc[cells["layer"] < states - 1, name].to_numpy(dtype=float))
        sums = without.groupby("layer")[name].sum()
        found["elsewhere"][target] = [float(f"{sums.get(layer, 0):.4g}") for layer in range(states - 1)]
    return found


def lens_maps(table: pd.DataFrame, tables: int) -> dict[str, dict[str, Any]]:
    """The maps of one table that fit into the page: question id -> map, from the first question on.

    Args:
        table: The columns of ``LENS_MAPS``.
        tables: Number of tables of the page.
    """
    sizes = table.groupby("question_id", sort=False).size().cumsum()
    kept = [
        str(question)
        for place, question in enumerate(sizes.index)
        if not place or sizes[question] <= MOST_CELLS / tables
    ]
    return {question: lens_map(table[table["question_id"] == question]) for question in kept}
