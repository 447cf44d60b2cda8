"""Columns of CSV tables: their names and what their cells hold.

A number stays a number until a table is written, and is one again as soon as it is read: only `crossflow.core.tables`
turns it into text. Nothing heavy is imported: the workflow asks for the names of tables at every start.
"""

TEXT, WHOLE, NUMBER, MAGNITUDE, FLAG = "text", "whole", "number", "magnitude", "flag"
"""What a cell holds: text; a whole number, empty where there is none; a number with ten significant digits, past which
machines may differ, empty for NaN; a number of which only the size is told, by one digit; true or false."""

Columns = dict[str, str]
"""Name -> what its cells hold, in the order of the file."""

QUESTIONS: Columns = dict.fromkeys(
    (
        "question_id",
        "image_id",
        "category",
        "detailed",
        "question",
        "answer",
        "true_option",
        "false_option",
        "objects",
        "image_size",
    ),
    TEXT,
)
LATER_QUESTIONS = ("image_size",)
"""Columns that tables of version 0.1 lack; their cells are read as empty."""

REJECTIONS: Columns = {"category": TEXT, "reason": TEXT, "n": WHOLE}
SKIPPED: Columns = dict.fromkeys(("question_id", "image_id", "reason"), TEXT)
