"""The measures of a knockout: their columns, their labels, and which are reported for strata too.

`crossflow.experiments.measures` computes them. Everything that lists measures follows from this table: the summary, the
explorer, and the check of a knockout table's columns.
"""

from typing import NamedTuple

import pyarrow as pa


class Measure(NamedTuple):
    """One measure.

    Attributes:
        name: As in summary/measures.csv.
        words: What it is, with its unit.
        columns: Of a knockout table: its own, or two whose difference it is (first less second).
        stratified: Whether it is summarised for each stratum of questions, too.
    """

    name: str
    words: str
    columns: tuple[str, ...]
    stratified: bool = False


MEASURES = (
    Measure("change_percent", words="change in answer probability (%)", columns=("change_percent",), stratified=True),
    Measure("logprob_change", words="change in log-probability (nats)", columns=("logprob_change",), stratified=True),
    Measure(
        "margin_change",
        words="change in margin, true less false option (nats)",
        columns=("margin_knockout", "margin_clean"),
    ),
    Measure("flipped", words="answers that flip (fraction)", columns=("flipped",)),
    Measure("correct", words="accuracy under knockout (fraction)", columns=("correct",)),
    Measure(
        "answer_logprob_change",
        words="change in log-probability of the whole answer (nats)",
        columns=("answer_logprob_change",),
    ),
    Measure("attention", words="attention that is taken away (share)", columns=("attention",)),
    Measure("edges", words="blocked edges", columns=("edges",)),
)
KNOCKOUT = pa.schema(
    [
        ("question_id", pa.string()),
        ("image_id", pa.string()),
        ("flow", pa.string()),
        ("layer", pa.int64()),
        ("p_clean", pa.float64()),
        ("p_knockout", pa.float64()),
        ("change_percent", pa.float64()),
        ("logprob_change", pa.float64()),
        ("margin_clean", pa.float64()),
        ("margin_knockout", pa.float64()),
        ("flipped", pa.bool_()),
        ("edges", pa.int64()),
        ("correct", pa.bool_()),
        ("answer_logprob_change", pa.float64()),
        ("attention", pa.float64()),
    ]
)
"""One row per question, flow and centre layer. See `crossflow.experiments.measures` for units."""
