"""Columns of result tables: their names, what their cells hold, and what that means.

In a CSV table, a number stays a number until the table is written, and is one again as soon as it is read: only
`crossflow.core.tables` turns it into text. Imports nothing heavy: the workflow reads it at every start.
"""

from typing import NamedTuple

TEXT, WHOLE, NUMBER, MAGNITUDE, FLAG = "text", "whole", "number", "magnitude", "flag"
"""What a cell holds: text; a whole number, or empty; a number with ten significant digits (more would differ between
machines), empty for NaN; a number of which one digit gives the size; true or false."""
LIST, TEXTS, NUMBERS = "list", "texts", "numbers"
"""What a cell of a parquet table may hold besides: a list of whole numbers, of texts, of numbers."""


class Column(NamedTuple):
    """One column.

    Attributes:
        kind: What its cells hold.
        words: What they mean, with the unit. The documentation shows it; it does not affect code versions.
    """

    kind: str
    words: str


Columns = dict[str, Column]
"""Name -> column, in the order of the file."""

QUESTION_ID = Column(TEXT, words="The question, as the data set names it.")
CATEGORY = Column(TEXT, words="The category of the questions.")
IMAGE_ID = Column(TEXT, words="The question's image. Intervals resample images, not questions.")

QUESTIONS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "category": Column(TEXT, words="The category that the question was chosen for."),
    "detailed": Column(TEXT, words="GQA's detailed type of the question; empty for your own questions."),
    "question": Column(TEXT, words="The question as it is put into the prompt."),
    "answer": Column(TEXT, words="The whole answer that counts as correct (the gold answer)."),
    "true_option": Column(TEXT, words="The correct one of two offered options; empty if the question offers none."),
    "false_option": Column(TEXT, words="The other option; empty if the question offers none."),
    "objects": Column(
        TEXT,
        words="What the question is about: a JSON list with the role, id and name of each object and its box "
        "(x, y, w, h: left, top, width and height in pixels of the image).",
    ),
    "image_size": Column(
        TEXT,
        words="Width and height of the image in which the boxes are given, as 500x375; empty if the data give none.",
    ),
}
LATER_QUESTIONS = ("image_size",)
"""Columns that tables of version 0.1 lack; their cells are read as empty."""
REJECTIONS: Columns = {
    "category": Column(TEXT, words="The category for which questions were sought."),
    "reason": Column(TEXT, words="Why questions do not belong to it."),
    "n": Column(WHOLE, words="How many questions were rejected for this reason."),
}
SKIPPED: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "reason": Column(TEXT, words="Why the question cannot be used, for example a missing image."),
}
LENS_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "layer": Column(WHOLE, words="Decoder layers passed: 0 for the embeddings, up to the number of layers."),
    "normed": Column(FLAG, words="Whether the final norm is applied before the output embedding."),
    "token": Column(
        TEXT,
        words="Whose first token is read: `answer`, `answer_capitalized`, `false_option` or "
        "`false_option_capitalized`.",
    ),
    "probability": Column(NUMBER, words="Probability of this token at the last position after this layer, 0 to 1."),
}
LENS_PLACE = Column(
    TEXT,
    words="Where the lens is read: the position set `related`, `other` or `question`, or `random`: as many random "
    "visual tokens as `related`, from the rest of the un-padded image.",
)
LENS_TOKEN = Column(
    TEXT,
    words="Whose first token is read: `object`: the name of the question's (first) object; `answer`: the model's "
    "own answer; `false_option`. Probabilities of its forms add up: lower case and capitalised, with a space "
    "before it and without.",
)
HEAD_LAYER = Column(WHOLE, words="Layer of the head, counted from 0; in no other layer is anything knocked out.")
HEAD = Column(WHOLE, words="The query head, counted from 0, also where several share a key head.")
ATTENTION_MAP: Columns = {
    "layer": Column(WHOLE, words="The layer, counted from 0."),
    "head": HEAD,
    "position": Column(WHOLE, words="Position in the prompt, counted from 0; all those of the image."),
    "base": Column(FLAG, words="Whether the token belongs to the view of the whole image, and not of a part of it."),
    "row": Column(WHOLE, words="Its row among the tokens of the same view; empty for padding, newlines and marks."),
    "column": Column(WHOLE, words="Its column among them; empty likewise."),
    "x": Column(NUMBER, words="Centre of what it shows, in pixels of the image from the left; empty likewise."),
    "y": Column(NUMBER, words="The same from the top."),
    "weight": Column(NUMBER, words="The target's attention on it, 0 to 1, averaged over the target's positions."),
}
