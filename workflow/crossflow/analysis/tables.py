"""The summary tables of a study: one entry of `SUMMARIES` per job.

A new table is a module with a function ``tables`` and an entry here; its rule, its file among the study's results and
its verb follow. Imports nothing heavy: the workflow reads it at every start.
"""

from collections.abc import Callable
from typing import NamedTuple

from crossflow.analysis.planned import (
    Planned,
    always,
    correlates_attention,
    correlates_head_attention,
    drops_image,
    has_variants,
    knocks_out_heads,
    knocks_out_subsets,
    patches,
    reads_image_lens,
    reads_lens,
)
from crossflow.core.columns import (
    CATEGORY,
    HEAD,
    HEAD_LAYER,
    LENS_COLUMNS,
    LENS_PLACE,
    LENS_TOKEN,
    MAGNITUDE,
    NUMBER,
    TEXT,
    WHOLE,
    Column,
    Columns,
)

_MODEL = Column(TEXT, words="The model, by its name in params.yaml.")
_WINDOW = Column(TEXT, words="The window that is knocked out: a width in layers, `bottom` or `top`.")
_FLOW = Column(TEXT, words="The flow; the draws of a random control are averaged per question as `A~random->B`.")
_LAYER = Column(WHOLE, words="Centre layer of the window, counted from 0.")
_FRACTION_LOW = Column(NUMBER, words="Lower end of its 95 % interval, clustered by image.")
_FRACTION_HIGH = Column(NUMBER, words="Upper end of its 95 % interval.")
_CURVE: Columns = {"model": _MODEL, "category": CATEGORY, "flow": _FLOW, "window": _WINDOW, "layer": _LAYER}

EFFECTS: Columns = _CURVE | {
    "n": Column(WHOLE, words="Questions behind the mean; questions for which the flow is missing do not count."),
    "mean": Column(
        NUMBER, words="Mean change of the answer's probability, in percent of it (-100 is a complete loss)."
    ),
    "low": Column(NUMBER, words="Lower end of the mean's 95 % interval, clustered by image, in percent."),
    "high": Column(NUMBER, words="Upper end of the mean's 95 % interval, in percent."),
    "median": Column(NUMBER, words="Median change, in percent."),
}
MEASURES: Columns = _CURVE | {
    "n": Column(WHOLE, words="Questions that have this measure, in this stratum."),
    "mean": Column(NUMBER, words="Mean of the measure, in its unit (see `measure`)."),
    "low": Column(NUMBER, words="Lower end of the mean's 95 % interval, clustered by image, in the measure's unit."),
    "high": Column(NUMBER, words="Upper end of the mean's 95 % interval, in the measure's unit."),
    "median": Column(NUMBER, words="Median of the measure, in its unit."),
    "measure": Column(
        TEXT,
        words="A measure of the knockout tables: change_percent and last_token_change_percent in percent; "
        "logprob_change, margin_change and answer_logprob_change in nats; flipped, correct and attention as fractions, "
        "0 to 1; edges as a number.",
    ),
    "stratum": Column(
        TEXT,
        words="`all` questions, those answered `correct` or `wrong` by this model, or `shared`: answered correctly by "
        "all models.",
    ),
}
BANDS: Columns = _CURVE | {
    "low": Column(
        NUMBER, words="Lower end of the band that contains the whole curve in 95 % of all cases, in percent."
    ),
    "high": Column(NUMBER, words="Upper end of this band, in percent."),
}
ACCURACY: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "n": Column(WHOLE, words="Questions that were answered."),
    "accuracy": Column(NUMBER, words="Fraction of them answered correctly, 0 to 1."),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
    "accuracy_blind": Column(NUMBER, words="Fraction answered correctly with the image removed, 0 to 1."),
    "low_blind": _FRACTION_LOW,
    "high_blind": _FRACTION_HIGH,
}
BASELINE_ANSWERS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "baseline": Column(
        TEXT,
        words="`seen`: with the image; `removed`: no position attends to it; `zeroed`: zeroed pixels; `swapped`: the "
        "image of another question.",
    ),
    "n": Column(WHOLE, words="Questions that were answered both with the image and in this way."),
    "accuracy": Column(NUMBER, words="Fraction of them answered correctly in this way, 0 to 1."),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
    "drop": Column(NUMBER, words="Accuracy with the image minus this accuracy, from the same questions, -1 to 1."),
    "drop_low": Column(NUMBER, words="Lower end of the drop's 95 % interval."),
    "drop_high": Column(NUMBER, words="Upper end of the drop's 95 % interval."),
}
COUNTS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "window": _WINDOW,
    "flow": _FLOW,
    "questions": Column(WHOLE, words="Chosen questions: the sum of the four numbers that follow."),
    "skipped": Column(WHOLE, words="Questions that could not be used, for example because their image is missing."),
    "excluded": Column(
        WHOLE, words="Questions that were answered but not selected (`answers: correct | wrong | all`)."
    ),
    "missing": Column(WHOLE, words="Selected questions for which this flow has no edge to block."),
    "n": Column(WHOLE, words="Questions behind the curve."),
}
NOISE: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "window": _WINDOW,
    # Rounding differs between machines: one digit gives its size.
    "probability": Column(MAGNITUDE, words="Largest change of a probability by a no-op knockout: rounding, 0 to 1."),
    "change_percent": Column(MAGNITUDE, words="The same change in percent of the clean probability."),
}
PAIRED: Columns = {
    "model": _MODEL,
    "other_model": Column(TEXT, words="The other model; empty where two flows of one model are compared."),
    "category": CATEGORY,
    "window": _WINDOW,
    "layer": Column(WHOLE, words="Centre layer; empty for the mean over all centre layers that both sides have."),
    "flow": _FLOW,
    "other_flow": Column(TEXT, words="The other flow; the same one where two models are compared."),
    "n": Column(WHOLE, words="Questions that both sides have."),
    "mean": Column(NUMBER, words="Mean over questions of the first change minus the other, in percentage points."),
    "low": Column(
        NUMBER,
        words="Lower end, in percentage points: of the band of the whole curve if a layer is given, else of the 95 "
        "% interval.",
    ),
    "high": Column(NUMBER, words="Upper end, in percentage points."),
}
LOGIT_LENS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "layer": LENS_COLUMNS["layer"],
    "normed": LENS_COLUMNS["normed"],
    "token": LENS_COLUMNS["token"],
    "n": Column(WHOLE, words="Questions behind the mean; those without options have no false option."),
    "mean": Column(NUMBER, words="Mean probability of the token at the last position, 0 to 1."),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
}
_CUT: Columns = {
    "model": _MODEL,
    "category": Column(TEXT, words="The category of the questions; `all`: of all categories."),
    "window": Column(
        TEXT,
        words="`top`: the image is read in the layers below the cut only; `bottom`: in those above it only.",
    ),
    "flow": Column(TEXT, words="The flow, which hides the whole image from everything after it."),
    "measure": Column(
        TEXT,
        words="`probability` of the clean answer's first token, or `accuracy` (under the knockout, of this token).",
    ),
}
FUSION: Columns = _CUT | {
    "layer": Column(WHOLE, words="Layers below the cut: 0 to the number of layers."),
    "n": Column(WHOLE, words="Questions that have this flow and an answer to another question's image."),
    "share": Column(
        NUMBER,
        words="What the cut leaves of what the image gives, (m_cut - m_swapped) / (m_clean - m_swapped): a ratio of "
        "means, 1 by definition where nothing is blocked; empty if the image gives nothing measurable.",
    ),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
    "loss": Column(NUMBER, words="m_clean - m_cut, in percentage points."),
    "loss_low": Column(NUMBER, words="Lower end of the loss's 95 % interval, clustered by image."),
    "loss_high": Column(NUMBER, words="Upper end of the loss's 95 % interval."),
    "loss_band": Column(NUMBER, words="Upper end of the 95 % band of the whole curve of losses."),
}
FUSION_DEPTH: Columns = _CUT | {
    "point": Column(
        TEXT,
        words="`20 %`, `50 %` or `80 %` of what the image gives, read (`top`) or lost (`bottom`); `dropped`: from this "
        "layer on, dropping the image costs less than 1 point.",
    ),
    "n": Column(WHOLE, words="Questions that have this flow and an answer to another question's image."),
    "depth": Column(NUMBER, words="After how many layers the point is reached; empty if it is missing."),
    "low": Column(
        NUMBER,
        words="Lower end of the depth's 95 % interval, in layers; 0 if even the hidden image may leave the share. None "
        "for `dropped`.",
    ),
    "high": Column(
        NUMBER,
        words="Upper end of the depth's 95 % interval; the number of layers if the share may never be lost. None for "
        "`dropped`.",
    ),
    "loss": Column(NUMBER, words="Loss by dropping the image there, in percentage points; of `dropped` only."),
    "loss_band": Column(NUMBER, words="Upper end of the band of losses there; of `dropped` only."),
    "sentence": Column(TEXT, words="The finding in words, or why it is missing."),
}
HEADS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "flow": Column(TEXT, words="The flow, which is knocked out in this head alone."),
    "layer": HEAD_LAYER,
    "head": HEAD,
    "n": Column(WHOLE, words="Questions behind the mean; questions for which the flow is missing do not count."),
    "mean": Column(NUMBER, words="Mean change of the answer's probability, in percent of it."),
    "low": Column(NUMBER, words="Lower end of the mean's 95 % interval, clustered by image, in percent."),
    "high": Column(NUMBER, words="Upper end of the mean's 95 % interval, in percent."),
    "attention": Column(
        NUMBER,
        words="Mean share of the targets' attention in the clean run that lies on the flow's edges in this head, 0 to "
        "1.",
    ),
}
TOP_HEADS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "flow": HEADS["flow"],
    "rank": Column(WHOLE, words="1 for the head with the largest fall in the half of the images that chooses."),
    "layer": HEADS["layer"],
    "head": HEADS["head"],
    "chosen_by": Column(
        NUMBER, words="Mean change in the half of the images that chooses, in percent: flattered by the choice."
    ),
    "n": Column(WHOLE, words="Questions of the other half, which measures."),
    "mean": Column(NUMBER, words="Mean change in the other half, in percent: free of the choice."),
    "low": Column(NUMBER, words="Lower end of its 95 % interval, clustered by image, in percent."),
    "high": Column(NUMBER, words="Upper end of its 95 % interval, in percent."),
}
HEAD_SUBSETS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "flow": Column(TEXT, words="The flow, which is knocked out in random subsets of the heads."),
    "layer": Column(WHOLE, words="Layer of the head, counted from 0."),
    "head": HEAD,
    "n": Column(WHOLE, words="Questions behind the fit; questions for which the flow is missing do not count."),
    "subsets": Column(WHOLE, words="Knockouts behind the fit, of all questions."),
    "mean": Column(
        NUMBER,
        words="Coefficient of the head: the change of the answer's probability, in percent of it, by knocking it out "
        "in addition to a random subset of the other heads. Empty with too few knockouts.",
    ),
    "low": Column(NUMBER, words="Lower end of its 95 % interval, by the jackknife over images, in percent."),
    "high": Column(NUMBER, words="Upper end of its 95 % interval, in percent."),
    "explained": Column(
        NUMBER,
        words="The share of the variation between a question's subsets that the linear model explains in images that "
        "it was not fitted to, the same in all rows of a flow: 1 if the effects of heads add up.",
    ),
}
_CORRELATION: Columns = {
    "n": Column(WHOLE, words="Questions behind the mean: those in which attention and change both vary."),
    "constant": Column(
        WHOLE,
        words="Questions that are left out, because attention or change is the same everywhere, apart from rounding: "
        "they have no rank correlation. Questions for which the flow is missing do not count.",
    ),
    "mean": Column(
        NUMBER,
        words="Mean over questions of Spearman's rank correlation between the attention on the flow's edges in the "
        "clean run and the fall of the answer's probability by knocking them out, -1 to 1: positive if more attention "
        "goes with a larger fall.",
    ),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
    "of_means": Column(
        NUMBER, words="The rank correlation between mean attention and mean fall over all questions, -1 to 1."
    ),
}
ATTENTION: Columns = {"model": _MODEL, "category": CATEGORY, "flow": _FLOW, "window": _WINDOW} | _CORRELATION
HEAD_ATTENTION: Columns = {"model": _MODEL, "category": CATEGORY, "flow": HEADS["flow"]} | _CORRELATION
_PATCHED_CATEGORY = Column(TEXT, words="The category of the questions; `all`: of all categories.")
_SET = Column(TEXT, words="The position set at which the residual stream is patched.")
PATCHING: Columns = {
    "model": _MODEL,
    "category": _PATCHED_CATEGORY,
    "direction": Column(
        TEXT,
        words="`noising`: the own image's run is patched with the pair's states; `denoising`: the reverse; `both`: the "
        "mean of the two.",
    ),
    "set": _SET,
    "layer": Column(WHOLE, words="Decoder layers passed before the patch: 0 for the embeddings."),
    "n": Column(WHOLE, words="Pairs behind the share."),
    "missing": Column(WHOLE, words="Pairs for which the set is missing."),
    "share": Column(
        NUMBER,
        words="(m_base - m_patched) / (m_base - m_other), a ratio of means of the margin between the two answers: 0 if "
        "the patch changes nothing, 1 if it does what the other image does.",
    ),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
}
PATCHING_DEPTH: Columns = {
    "model": _MODEL,
    "category": _PATCHED_CATEGORY,
    "set": _SET,
    "point": Column(
        TEXT,
        words="What is stated of the set: `until` where it holds half of the difference or more (visual tokens), "
        "`from` where on (the last position), or how much of it at `most`.",
    ),
    "n": Column(WHOLE, words="Pairs behind the finding."),
    "layer": Column(
        NUMBER, words="After how many layers the share passes a half, or of `most` is largest; empty if it does not."
    ),
    "layer_low": Column(NUMBER, words="Lower end of its 95 % interval, in layers; none for `most`."),
    "layer_high": Column(NUMBER, words="Upper end of its 95 % interval, in layers; none for `most`."),
    "share": Column(NUMBER, words="The largest share over the layers, with the bias of this choice subtracted."),
    "share_low": _FRACTION_LOW,
    "share_high": _FRACTION_HIGH,
    "sentence": Column(TEXT, words="The finding in words, or why it is missing."),
}
PAIRS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "questions": Column(WHOLE, words="Questions that were answered."),
    "pairs": Column(WHOLE, words="Those that have a pair."),
    "both_right": Column(NUMBER, words="Share of the pairs that ran whose two answers both begin rightly, 0 to 1."),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
    "patched": Column(WHOLE, words="Pairs that were patched."),
    "left_out": Column(TEXT, words="Why the other questions were not, with their number."),
}

ROBUSTNESS: Columns = {
    "model": Column(TEXT, words="A model of the study that has the weights of an earlier one: a *variant*."),
    "base": Column(TEXT, words="That earlier model."),
    "category": CATEGORY,
    "window": Column(TEXT, words="The window of the flow; empty for the accuracy."),
    "quantity": Column(TEXT, words="`accuracy`, or a flow."),
    "n": Column(WHOLE, words="Questions that both answered, or, of a flow, in which it is knocked out in both."),
    "base_value": Column(
        NUMBER,
        words="The base's accuracy, 0 to 1, or the flow's mean change of the answer's probability over questions and "
        "centre layers, in percent.",
    ),
    "value": Column(NUMBER, words="The same of the variant."),
    "difference": Column(NUMBER, words="Value minus base value, per question and then averaged."),
    "low": Column(NUMBER, words="Lower end of the difference's 95 % interval, clustered by image."),
    "high": Column(NUMBER, words="Upper end of the difference's 95 % interval."),
    "correlation": Column(
        NUMBER,
        words="Pearson's correlation over centre layers of the two mean curves, -1 to 1: whether the flow acts in the "
        "same layers. Empty for the accuracy, and if a curve does not vary.",
    ),
}
IMAGE_LENS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "place": LENS_PLACE,
    "token": LENS_TOKEN,
    "layer": LENS_COLUMNS["layer"],
    "n": Column(WHOLE, words="Questions behind the mean: those that have this word, and tokens at this place."),
    "mean": Column(NUMBER, words="Mean probability of the word at this place after this layer, 0 to 1."),
    "low": _FRACTION_LOW,
    "high": _FRACTION_HIGH,
    "top": Column(NUMBER, words="Mean share of the place's tokens whose most likely token is the word, 0 to 1."),
}
TOP_WORDS: Columns = {
    "model": _MODEL,
    "category": CATEGORY,
    "layer": LENS_COLUMNS["layer"],
    "rank": Column(WHOLE, words="1 for the word with the largest mean probability at the last position, up to 50."),
    "word": Column(TEXT, words="The word: the text of a token; a space before it belongs to it."),
    "mean": Column(
        NUMBER, words="Its mean probability, 0 to 1; questions that lack it among their 50 most likely count as 0."
    ),
    "share": Column(NUMBER, words="Share of the questions that have it among their 50 most likely tokens, 0 to 1."),
}


class Summary(NamedTuple):
    """The summary tables that one job makes.

    Attributes:
        module: Its function ``tables(results: crossflow.analysis.results.Results)`` gives the rows of each table.
        tables: Name of the file under ``summary/``, without its suffix -> its columns.
        needs: Which results it reads, by the names of `crossflow.study.results.result_files`.
        computed: Whether a study computes them.
    """

    module: str
    tables: dict[str, Columns]
    needs: tuple[str, ...]
    computed: Callable[[Planned], bool] = always


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
    "logit-lens": Summary("crossflow.analysis.logit_lens", {"lens": LOGIT_LENS}, ("lens",), reads_lens),
    "heads": Summary(
        "crossflow.analysis.heads", {"heads": HEADS, "top_heads": TOP_HEADS}, ("heads",), knocks_out_heads
    ),
    "head-subsets": Summary(
        "crossflow.analysis.head_subsets", {"head_subsets": HEAD_SUBSETS}, ("heads",), knocks_out_subsets
    ),
    "attention": Summary("crossflow.analysis.attention", {"attention": ATTENTION}, ("knockout",), correlates_attention),
    "head-attention": Summary(
        "crossflow.analysis.head_attention",
        {"head_attention": HEAD_ATTENTION},
        ("heads",),
        correlates_head_attention,
    ),
    "patching": Summary(
        "crossflow.analysis.patching",
        {"patching": PATCHING, "patching_depth": PATCHING_DEPTH, "pairs": PAIRS},
        ("patching",),
        patches,
    ),
    "image-lens": Summary(
        "crossflow.analysis.image_lens",
        {"image_lens": IMAGE_LENS, "top_words": TOP_WORDS},
        ("image_lens",),
        reads_image_lens,
    ),
    "robustness": Summary(
        "crossflow.analysis.robustness", {"robustness": ROBUSTNESS}, ("answers", "knockout"), has_variants
    ),
    "fusion": Summary(
        "crossflow.analysis.fusion_tables",
        {"fusion": FUSION, "fusion_depth": FUSION_DEPTH},
        ("answers", "knockout"),
        drops_image,
    ),
}
HEAD_TABLES = {"heads": "each head alone", "head_subsets": "random subsets of heads"}
"""The tables with a mean of every head -> what is knocked out."""
COLUMNS = {name: columns for summary in SUMMARIES.values() for name, columns in summary.tables.items()}
"""Summary table -> its columns."""

EXPECTED = ("effects", "answers", "counts")
"""The tables of a fresh run that are compared with expected tables."""


def summaries_of(study: Planned) -> dict[str, Summary]:
    """The summaries of a study: those whose inputs it computes."""
    return {name: summary for name, summary in SUMMARIES.items() if summary.computed(study)}
