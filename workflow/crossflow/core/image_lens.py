"""Columns of the tables of the lens over the image and the question."""

from crossflow.core.columns import (
    FLAG,
    IMAGE_ID,
    LENS_COLUMNS,
    LENS_PLACE,
    LENS_TOKEN,
    NUMBER,
    NUMBERS,
    QUESTION_ID,
    TEXT,
    TEXTS,
    WHOLE,
    Column,
    Columns,
)
from crossflow.core.tables import schema_of

PLACES = ("related", "other", "random", "question")
"""Where the lens is read: position sets, and as many random visual tokens as `related`."""
TOKENS = ("object", "answer", "false_option")
"""The words whose probability is read: that of their first tokens."""
TOP = 50
"""Words at the last position that are kept."""

PLACE_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "layer": LENS_COLUMNS["layer"],
    "place": LENS_PLACE,
    "token": LENS_TOKEN,
    "word": Column(
        TEXT,
        words="The name, answer or option; empty if the question has none, or no token of its own for it, as are the "
        "numbers then.",
    ),
    "positions": Column(WHOLE, words="Number of the place's tokens; with 0, the numbers are empty."),
    "probability": Column(NUMBER, words="Its probability after this layer, mean over the place's tokens, 0 to 1."),
    "top": Column(NUMBER, words="Share of the place's tokens whose most likely token is one of these forms, 0 to 1."),
}
WORD_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "layer": LENS_COLUMNS["layer"],
    "rank": Column(WHOLE, words=f"1 for the most likely token at the last position after this layer, up to {TOP}."),
    "token_id": Column(WHOLE, words="The token, by its number in the vocabulary."),
    "word": Column(TEXT, words="Its text; a space before it belongs to the token."),
    "probability": Column(NUMBER, words="Its probability, 0 to 1."),
}
MAP_COLUMNS: Columns = {
    "layer": LENS_COLUMNS["layer"],
    "position": Column(WHOLE, words="Position in the prompt, counted from 0; all those of the image."),
    "base": Column(FLAG, words="Whether the token belongs to the view of the whole image, and not of a part of it."),
    "left": Column(
        NUMBER, words="Box of what it shows, in pixels of the image; empty for padding, newlines and marks."
    ),
    "top": Column(NUMBER, words="Upper edge of this box."),
    "width": Column(NUMBER, words="Width of this box."),
    "height": Column(NUMBER, words="Height of this box."),
    "words": Column(TEXTS, words="The most likely tokens after this layer, as text; a space before one belongs to it."),
    "probabilities": Column(NUMBERS, words="Their probabilities, 0 to 1."),
    "p_object": Column(
        NUMBER, words="Probability of the object's name, as `object` in the table above; empty without it."
    ),
    "p_answer": Column(NUMBER, words="Probability of the answer, as `answer` in the table above."),
    "attention_last": Column(
        NUMBER,
        words="Attention of the last position on it, 0 to 1, mean over heads, in the layer that follows: the layer "
        "that reads this state. Empty after the last layer.",
    ),
    "attention_question": Column(NUMBER, words="The same of the question's tokens, mean over them."),
}
IMAGE_LENS, LENS_WORDS = schema_of(PLACE_COLUMNS), schema_of(WORD_COLUMNS)
LENS_MAP = schema_of(MAP_COLUMNS)
MAPS_COLUMNS: Columns = {"question_id": QUESTION_ID, "image_id": IMAGE_ID} | MAP_COLUMNS
LENS_MAPS = schema_of(MAPS_COLUMNS)
