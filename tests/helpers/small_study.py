"""Small knockout tables and a study of them, whose numbers can be worked out by hand."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from crossflow.analysis.curves import Knockouts, knockouts
from crossflow.core.columns import QUESTIONS, SKIPPED
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, write_csv, write_parquet

LAYERS = 4
FLOWS = ("question->last", "related->question")
MISSING = "00000003"
"""The one question in which related->question blocks no edge."""


def ids_of(count: int) -> list[str]:
    """So many question ids."""
    return [f"{number:08d}" for number in range(count)]


def knockout_rows(ids: Sequence[str], flows: Sequence[str] = FLOWS) -> list[dict[str, Any]]:
    """Change of question q, flow f, layer l: -(10 q + l) for the first flow, twice that for the second."""
    rows = []
    for question_id in ids:
        for flow in flows:
            missing = question_id == MISSING and flow.startswith("related")
            for layer in range(LAYERS):
                change = -(10.0 * int(question_id) + layer) * (1 + flows.index(flow))
                rows.append(
                    {
                        "question_id": question_id,
                        "image_id": f"image{int(question_id) // 2}",
                        "flow": flow,
                        "layer": layer,
                        "change_percent": None if missing else change,
                        "edges": 0 if missing else 12,
                        "attention": None if missing else 0.1 * (layer + 1),
                    }
                )
    return rows


def small_knockouts(rows: Sequence[Mapping[str, Any]], flows: Sequence[str] = FLOWS, **metadata: Any) -> Knockouts:
    """The rows as they are read from a table of ChooseAttr with window 3."""
    table = pd.DataFrame(rows, columns=KNOCKOUT.names)
    stated = {
        "layers": LAYERS,
        "flows": list(flows),
        "centres": {flow: list(range(LAYERS)) for flow in flows},
        "selected": table["question_id"].nunique(),
        "noise_floor": 1.6e-7,
        "noise_floor_percent": None,
        **metadata,
    }
    return knockouts(table, stated, model="mini", window="3", category="ChooseAttr")


def write_study(results: Path, selected: Mapping[str, int]) -> None:
    """Write a study of 10 chosen, 9 answered, and some knocked out questions per category."""
    ids = ids_of(10)
    for category, count in selected.items():
        blank = dict.fromkeys(QUESTIONS)
        write_csv(results / f"questions/{category}.csv", QUESTIONS, [blank | {"question_id": id} for id in ids])
        lost = dict.fromkeys(SKIPPED) | {"question_id": ids[9]}
        write_csv(results / f"answers/mini/{category}.skipped.csv", SKIPPED, [lost])
        write_parquet(
            results / f"answers/mini/{category}.parquet",
            ANSWERS,
            [
                {"question_id": id, "image_id": id, "correct": n < count, "correct_blind": False}
                for n, id in enumerate(ids[:9])
            ],
            {"layers": LAYERS, "questions": 9},
        )
        write_parquet(
            results / f"knockout/mini/w3/{category}.parquet",
            KNOCKOUT,
            knockout_rows(ids[:count]),
            {
                "layers": LAYERS,
                "window": "3",
                "flows": list(FLOWS),
                "centres": {flow: list(range(LAYERS)) for flow in FLOWS},
                "selected": count,
                "excluded": 9 - count,
                "noise_floor": 1.6e-7,
                "noise_floor_percent": 2.4e-5,
            },
        )
