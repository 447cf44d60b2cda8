"""Knockout tables whose truth is known, because they were made up."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from crossflow.analysis.curves import Knockouts, knockouts
from crossflow.core.image_lens import LENS_MAPS
from crossflow.core.measures import KNOCKOUT

Shape = Callable[[int], float]


def bump(at: int, height: float, width: float = 1.5) -> Shape:
    """A fall of the probability by ``height`` percent around a layer."""
    return lambda layer: -height * float(np.exp(-(((layer - at) / width) ** 2)))


def nothing(layer: int) -> float:
    return 0.0


def knockout_table(
    flows: Mapping[str, Shape],
    *,
    layers: int = 12,
    images: int = 60,
    noise: float = 5.0,
    seed: int = 0,
    prefix: str = "",
    model: str = "mini",
    category: str = "ChooseAttr",
    stride: Mapping[str, int] | None = None,
) -> Knockouts:
    """A table in which each flow has a mean curve, plus noise that questions of one image share; two of each."""
    rng = np.random.default_rng(seed)
    rows = []
    centres = {flow: list(range(0, layers, (stride or {}).get(flow, 1))) for flow in flows}
    for image in range(images):
        shared = rng.normal(scale=noise)
        for question in range(2):
            for flow, shape in flows.items():
                own = noise * rng.normal(size=layers) / 2
                for layer in centres[flow]:
                    quiet = shape(layer) == 0
                    change = 1e-4 * own[layer] if quiet else shape(layer) + shared + own[layer]
                    rows.append(
                        {
                            "question_id": f"{prefix}{image:04d}{question}",
                            "image_id": f"{prefix}{image}",
                            "flow": flow,
                            "layer": layer,
                            "p_clean": 0.5,
                            "p_knockout": 0.5 * (1 + change / 100),
                            "change_percent": change,
                            "logprob_change": change / 100,
                            "margin_clean": 1.0 if question else None,
                            "margin_knockout": 1.0 + change / 100 if question else None,
                            "flipped": change < -50,
                            "edges": 7,
                            "correct": change >= -50,
                            "attention": 0.25,
                        }
                    )
    metadata = {
        "layers": layers,
        "flows": list(flows),
        "centres": centres,
        "selected": 2 * images,
        "noise_floor": 1e-7,
        "noise_floor_percent": 2e-5,
    }
    table = pd.DataFrame(rows, columns=KNOCKOUT.names)
    return knockouts(table, metadata, model=model, window="3", category=category)


def lens_table() -> pd.DataFrame:
    """Two questions, one layer: probability 0.1 * (layer + 1), twice that with the norm; the answer only."""
    return pd.DataFrame(
        {
            "question_id": question,
            "image_id": image,
            "layer": layer,
            "normed": normed,
            "token": "answer",
            "probability": 0.1 * (layer + 1) * (1 + normed) + shift,
        }
        for question, image, shift in (("1", "a", 0.0), ("2", "b", 0.2))
        for normed in (False, True)
        for layer in (0, 1)
    )


LENS_STATES, LENS_TOKENS = 3, 6


def lens_map_rows(question: str, named: bool = True, word: str = " w") -> pd.DataFrame:
    """A question's part of a table of maps: the probability of token t's word after layer l is (1 + 6 l + t) / 100.

    The last token is a newline; the first two are of the parts of the image, the others of the whole.
    """
    rows: list[dict[str, Any]] = []
    for layer in range(LENS_STATES):
        for token in range(LENS_TOKENS):
            shown = token < LENS_TOKENS - 1
            number = (1 + layer * LENS_TOKENS + token) / 100
            rows.append(
                {"question_id": question, "image_id": "1", "layer": layer, "position": 9 + token, "base": token > 1}
                | dict.fromkeys(("left", "top", "width", "height"), 10.0 * token if shown else np.nan)
                | {"words": [f"{word}{token}", "x"], "probabilities": [number, 0.1]}
                | {"p_object": number / 2 if named else np.nan, "p_answer": number / 3}
                | {
                    f"attention_{name}": number / 4 if layer < LENS_STATES - 1 else np.nan
                    for name in ("last", "question")
                }
            )
    return pd.DataFrame(rows)[LENS_MAPS.names]
