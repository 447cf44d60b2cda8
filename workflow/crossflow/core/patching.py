"""The tables of activation patching: their columns."""

from crossflow.core.columns import IMAGE_ID, NUMBER, QUESTION_ID, TEXT, WHOLE, Column, Columns
from crossflow.core.tables import schema_of

NOISING, DENOISING = "noising", "denoising"
DIRECTIONS = {
    NOISING: "the question's own image, patched with the pair's",
    DENOISING: "the pair's image, patched with the question's own",
}
"""Direction -> the run that is patched, and with what."""
PATCHED = "patched"
"""The outcome of a pair that was patched; every other one is the reason why it was not."""

_PAIR_IMAGE = Column(TEXT, words="The image of the question's pair.")
PATCHING_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "direction": Column(
        TEXT,
        words="`noising`: the run with the question's own image is patched with states of the run with the pair's "
        "image; `denoising`: the reverse.",
    ),
    "set": Column(TEXT, words="The position set at which the residual stream is patched."),
    "layer": Column(
        WHOLE, words="Decoder layers passed before the patch: 0 for the embeddings, up to the number of layers."
    ),
    "positions": Column(
        WHOLE,
        words="Patched positions; 0 if the set is empty or differs between the two prompts: then it is *missing*.",
    ),
    "margin_base": Column(
        NUMBER,
        words="Logit of the answer in the run that is patched minus that in the other run, in nats, without a patch.",
    ),
    "margin_other": Column(NUMBER, words="The same margin in the other run, in nats."),
    "margin_patched": Column(NUMBER, words="The same margin in the patched run, in nats."),
    "p_base": Column(NUMBER, words="Probability of the answer's first token in the run that is patched, 0 to 1."),
    "p_patched": Column(NUMBER, words="Its probability in the patched run, 0 to 1."),
}
PATCHING = schema_of(PATCHING_COLUMNS)
"""One row per question, direction, position set and layer. See `crossflow.experiments.patching`."""
PAIR_OUTCOMES: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "pair_image_id": Column(TEXT, words=f"{_PAIR_IMAGE.words} Empty if it has none."),
    "right": Column(
        WHOLE,
        words="1 if the most likely token with the own image begins the gold answer, else 0; empty if it was not run.",
    ),
    "pair_right": Column(WHOLE, words="The same with the pair's image and answer."),
    "outcome": Column(TEXT, words=f"`{PATCHED}`, or why the pair was not patched."),
}
"""One row per answered question, ``patching/{model}/{category}.pairs.csv``."""
