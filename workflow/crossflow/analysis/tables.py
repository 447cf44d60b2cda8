"""The summary tables of a study: one entry of `SUMMARIES` for all that one job makes.

A new table is a module with a function ``tables`` and an entry here; its rule, its file among the study's results and
its verb follow. Nothing heavy is imported: the workflow asks at every start.
"""

from typing import NamedTuple

from crossflow.core.columns import FLAG, MAGNITUDE, NUMBER, TEXT, WHOLE, Columns

_CURVE: Columns = {"model": TEXT, "category": TEXT, "flow": TEXT, "window": TEXT, "layer": WHOLE}
_INTERVAL: Columns = {"mean": NUMBER, "low": NUMBER, "high": NUMBER}

EFFECTS: Columns = _CURVE | {"n": WHOLE} | _INTERVAL | {"median": NUMBER}
MEASURES: Columns = EFFECTS | {"measure": TEXT, "stratum": TEXT}
BANDS: Columns = _CURVE | {"low": NUMBER, "high": NUMBER}
ACCURACY: Columns = {"model": TEXT, "category": TEXT, "n": WHOLE} | dict.fromkeys(
    ("accuracy", "low", "high", "accuracy_blind", "low_blind", "high_blind"), NUMBER
)
BASELINE_ANSWERS: Columns = {"model": TEXT, "category": TEXT, "baseline": TEXT, "n": WHOLE} | dict.fromkeys(
    ("accuracy", "low", "high", "drop", "drop_low", "drop_high"), NUMBER
)
COUNTS: Columns = {"model": TEXT, "category": TEXT, "window": TEXT, "flow": TEXT} | dict.fromkeys(
    ("questions", "skipped", "excluded", "missing", "n"), WHOLE
)
NOISE: Columns = {
    "model": TEXT,
    "category": TEXT,
    "window": TEXT,
    # Rounding differs between machines: one digit says its size.
    "probability": MAGNITUDE,
    "change_percent": MAGNITUDE,
}
PAIRED: Columns = (
    dict.fromkeys(("model", "other_model", "category", "window"), TEXT)
    | {"layer": WHOLE, "flow": TEXT, "other_flow": TEXT, "n": WHOLE}
    | _INTERVAL
)
LOGIT_LENS: Columns = {
    "model": TEXT, "category": TEXT, "layer": WHOLE, "normed": FLAG, "token": TEXT, "n": WHOLE,
} | _INTERVAL  # fmt: skip


class Summary(NamedTuple):
    """What one job makes of a study's results.

    Attributes:
        module: Its function ``tables(results: crossflow.analysis.results.Results)`` gives the rows of each table.
        tables: Name of the file under ``summary/``, without its suffix -> its columns.
        needs: Which results it reads, by the names of `crossflow.study.results.result_files`.
    """

    module: str
    tables: dict[str, Columns]
    needs: tuple[str, ...]


SUMMARIES = {
    "effects": Summary(
        "crossflow.analysis.effects",
        {"effects": EFFECTS, "measures": MEASURES, "bands": BANDS},
        ("answers", "knockout"),
    ),
    "accuracy": Summary(
        "crossflow.analysis.accuracy", {"answers": ACCURACY, "baselines": BASELINE_ANSWERS}, ("answers",)
    ),
    "counts": Summary(
        "crossflow.analysis.counts", {"counts": COUNTS, "noise": NOISE}, ("questions", "answers", "knockout")
    ),
    "comparisons": Summary("crossflow.analysis.paired", {"comparisons": PAIRED}, ("knockout",)),
    "logit-lens": Summary("crossflow.analysis.logit_lens", {"lens": LOGIT_LENS}, ("lens",)),
}
COLUMNS = {name: columns for summary in SUMMARIES.values() for name, columns in summary.tables.items()}
"""Summary table -> its columns."""

EXPECTED = ("effects", "answers", "counts")
"""The tables of a fresh run that are compared with expected ones."""
