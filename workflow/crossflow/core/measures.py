"""The measures of a knockout: their columns, their labels, and whether they are also reported for strata.

`crossflow.experiments.measures` computes them. Everything that lists measures follows from this table: the summary, the
explorer, and the check of a knockout table's columns.
"""

from typing import NamedTuple

from crossflow.core.columns import FLAG, HEAD, HEAD_LAYER, IMAGE_ID, NUMBER, QUESTION_ID, TEXT, WHOLE, Column, Columns
from crossflow.core.tables import schema_of


class Measure(NamedTuple):
    """One measure.

    Attributes:
        name: As in summary/measures.csv.
        words: Its description, with the unit.
        columns: Of a knockout table: its own, or two whose difference it is (first minus second).
        stratified: Whether it is also summarised for each stratum of questions.
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
        words="change in margin, true minus false option (nats)",
        columns=("margin_knockout", "margin_clean"),
    ),
    Measure("flipped", words="flipped answers (fraction)", columns=("flipped",)),
    Measure("correct", words="accuracy under knockout (fraction)", columns=("correct",)),
    Measure(
        "answer_logprob_change",
        words="change in log-probability of the whole answer (nats)",
        columns=("answer_logprob_change",),
    ),
    Measure(
        "last_token_change_percent",
        words="change in probability of the answer's last token (%)",
        columns=("last_token_change_percent",),
    ),
    Measure("attention", words="attention that the knockout removes (share)", columns=("attention",)),
    Measure("edges", words="blocked edges", columns=("edges",)),
)
OF_THE_WHOLE_ANSWER = ("answer_logprob_change", "last_token_change_percent")
"""Columns of a knockout table that are empty unless the whole answer is scored."""
KNOCKOUT_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "flow": Column(TEXT, words="The flow that is knocked out; each draw of a random control is a separate flow."),
    "layer": Column(WHOLE, words="Centre layer of the window, counted from 0."),
    "p_clean": Column(NUMBER, words="Probability of the first token of the model's own clean answer, 0 to 1."),
    "p_knockout": Column(NUMBER, words="Probability of the same token under the knockout, 0 to 1."),
    "change_percent": Column(
        NUMBER, words="100 * (p_knockout - p_clean) / p_clean, in percent, as published: -100 is a complete loss."
    ),
    "logprob_change": Column(
        NUMBER, words="log(p_knockout) - log(p_clean), in nats; keeps its meaning if p_clean is small."
    ),
    "margin_clean": Column(
        NUMBER,
        words="Log-probability of the true option's first token minus that of the false one's, in nats, in the clean "
        "run; empty without options, and if both begin with the same token.",
    ),
    "margin_knockout": Column(NUMBER, words="The same margin under the knockout, in nats."),
    "flipped": Column(FLAG, words="Whether another token becomes the most likely one."),
    "edges": Column(
        WHOLE,
        words="Blocked pairs of positions, per layer and head; 0 if a position set is empty: then the flow is "
        "*missing* for this question and counts in no mean.",
    ),
    "correct": Column(FLAG, words="Whether the most likely token begins the gold answer."),
    "answer_logprob_change": Column(
        NUMBER,
        words="Change of the log-probability of all tokens of the answer, each given those before it, in nats. "
        "Empty unless the study has `whole_answer: true`.",
    ),
    "last_token_change_percent": Column(
        NUMBER,
        words="Change of the probability of the answer's last token, given those before it, in percent of its clean "
        "probability; the same as change_percent if the answer has one token. Empty unless the study has "
        "`whole_answer: true`.",
    ),
    "attention": Column(
        NUMBER,
        words="Attention that the knockout removes: the share of the targets' attention in the clean run that lies on "
        "blocked sources, 0 to 1, averaged over heads, targets and the window's layers.",
    ),
}
HEADS_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "flow": Column(TEXT, words="The flow that is knocked out in these heads only."),
    "layer": Column(WHOLE, words=f"{HEAD_LAYER.words} Empty for a subset."),
    "head": Column(WHOLE, words=f"{HEAD.words} Empty for a subset."),
    "subset": Column(
        TEXT,
        words="The heads that are knocked out together: a bit for each head of the model by layer and head, most "
        "significant first, in hexadecimal (`numpy.packbits`). Empty for a single head.",
    ),
    **{name: KNOCKOUT_COLUMNS[name] for name in ("p_clean", "p_knockout", "change_percent", "logprob_change", "edges")},
    "attention": Column(
        NUMBER,
        words="Share of the targets' attention in the clean run that lies on the flow's edges in these heads, 0 to 1, "
        "averaged over targets and heads; empty if there is no edge, or no head.",
    ),
}
HEADS = schema_of(HEADS_COLUMNS)
"""One row per question, flow and head, or subset of heads. See `crossflow.experiments.heads`."""
KNOCKOUT = schema_of(KNOCKOUT_COLUMNS)
"""One row per question, flow and centre layer. See `crossflow.experiments.measures`."""
