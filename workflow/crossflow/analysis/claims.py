"""The claims of the published study, and one of this project, each tested against the tables of a study.

`crossflow.analysis.judging` says how, and defines the words that the criteria use. Source of the claims: abstract and
summaries of the study; the thresholds are this project's.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from crossflow.analysis.curves import Curve
from crossflow.analysis.judging import (
    NOT_SUPPORTED,
    NOT_TESTED,
    SUPPORTED,
    TOGETHER,
    UNDECIDED,
    CriterionSpec,
    JudgedClaim,
    criteria_of,
    depth,
    largest_change,
    loss,
    together,
)
from crossflow.analysis.paired import on_common_ground
from crossflow.analysis.patching import BOTH, FROM, LAST, UNTIL, Moved, half_passed, moved_by_set, pooled
from crossflow.analysis.results import Results
from crossflow.core.seeds import derived_seed

NEGLIGIBLE = 5.0
"""Percent: a smaller change counts as no change."""
STRONG = 20.0
"""Percent: a loss beyond it is strong."""
MUCH = 2.0
"""Times: a loss is much larger than another if it is more than twice as large."""
MIDDLE = 2 / 3
"""Depth below which layers are lower to middle ones."""
APPEARS = 0.05
"""Probability from which a token counts as present."""
FORMS = ("answer", "answer_capitalized")


class Case(NamedTuple):
    """The data for judging a claim: curves of one model and category, or of all its categories pooled.

    Attributes:
        curves: Flow -> curve.
        tracks: Token -> its probability after every layer with the final norm, ``(questions, states)``; None without
        the logit lens.
        images: Images of the questions in ``tracks``.
        patched: Position set -> how far patches of it moved the margins of pairs; None without patching.
    """

    model: str
    window: str
    category: str
    layers: int
    curves: Mapping[str, Curve]
    tracks: Mapping[str, Float[np.ndarray, "questions states"]] | None
    images: np.ndarray
    seed: int
    patched: Mapping[str, Moved] | None = None


def _judged(case: Case, claim: int, flows: Sequence[str], *asked: CriterionSpec) -> JudgedClaim:
    if not set(flows) <= case.curves.keys():
        return JudgedClaim(claim, case.model, case.window, case.category, NOT_TESTED, 0, ())
    curves = on_common_ground([case.curves[flow] for flow in flows])
    drawn = derived_seed(case.seed, case.model, case.category, case.window, "claim", str(claim))
    criteria = criteria_of([curve.change for curve in curves], curves[0].images, drawn, asked)
    verdict = together([criterion.verdict for criterion in criteria])
    return JudgedClaim(claim, case.model, case.window, case.category, verdict, len(curves[0].images), criteria)


def question_reaches_last(case: Case) -> JudgedClaim:
    """Claim 1."""
    return _judged(
        case,
        1,
        ("question->last", "image->last"),
        CriterionSpec("loss by question → last (%)", lambda question, image: loss(question), ">", STRONG),
        CriterionSpec(
            f"loss by question → last minus {MUCH:g} times the loss by image → last (%)",
            lambda question, image: loss(question) - MUCH * loss(image), ">", 0.0,
        ),
    )  # fmt: skip


def image_acts_through_question(case: Case) -> JudgedClaim:
    """Claim 2."""
    return _judged(
        case,
        2,
        ("image->question", "image->last"),
        CriterionSpec(
            "loss by image → question minus loss by image → last (%)",
            lambda question, last: loss(question) - loss(last), ">", NEGLIGIBLE,
        ),
    )  # fmt: skip


def two_stages(case: Case) -> JudgedClaim:
    """Claim 3; if the study has random sets of visual tokens, ``related`` must have a larger effect."""
    flows = ["other->question", "related->question"]
    asked = [
        CriterionSpec("loss by other → question (%)", lambda other, related, *_: loss(other), ">", NEGLIGIBLE),
        CriterionSpec("loss by related → question (%)", lambda other, related, *_: loss(related), ">", NEGLIGIBLE),
        CriterionSpec(
            "depth of related → question minus depth of other → question",
            lambda other, related, *_: depth(-related) - depth(-other), ">", 0.0, chooses=False,
        ),
    ]  # fmt: skip
    control = "related~random->question"
    # Curves are compared at their common centre layers; controls may have fewer.
    if control in case.curves and len(case.curves[control].centres) == case.layers:
        flows.append(control)
        what = "loss by related → question minus loss by as many random visual tokens (%)"
        asked.append(CriterionSpec(what, lambda other, related, random: loss(related) - loss(random), ">", 0.0))
    return _judged(case, 3, flows, *asked)


def image_before_question(case: Case) -> JudgedClaim:
    """Claim 4."""
    return _judged(
        case,
        4,
        ("image->question", "question->last"),
        CriterionSpec("loss by image → question (%)", lambda image, question: loss(image), ">", NEGLIGIBLE),
        CriterionSpec("loss by question → last (%)", lambda image, question: loss(question), ">", NEGLIGIBLE),
        CriterionSpec("depth of image → question", lambda image, question: depth(-image), "<", MIDDLE, chooses=False),
        CriterionSpec(
            "depth of question → last minus depth of image → question",
            lambda image, question: depth(-question) - depth(-image), ">", 0.0, chooses=False,
        ),
    )  # fmt: skip


def last_to_last_is_negligible(case: Case) -> JudgedClaim:
    """Claim 5."""
    asked = CriterionSpec("largest change by last → last (%)", largest_change, "<", NEGLIGIBLE)
    return _judged(case, 5, ("last->last",), asked)


def lower_case_before_capitalised(case: Case) -> JudgedClaim:
    """Claim 7."""
    if case.tracks is None:
        return JudgedClaim(7, case.model, case.window, case.category, NOT_TESTED, 0, ())
    asked = (
        CriterionSpec(
            "largest mean probability of the lower-case answer", lambda low, high: low.max(axis=-1), ">", APPEARS
        ),
        CriterionSpec(
            "largest mean probability of the capitalised answer", lambda low, high: high.max(axis=-1), ">", APPEARS
        ),
        CriterionSpec(
            "depth of the capitalised answer minus depth of the lower-case answer",
            lambda low, high: depth(high) - depth(low), ">", 0.0, chooses=False,
        ),
    )  # fmt: skip
    drawn = derived_seed(case.seed, case.model, case.category, "claim", "7")
    criteria = criteria_of([case.tracks[form] for form in FORMS], case.images, drawn, asked)
    verdict = together([criterion.verdict for criterion in criteria])
    return JudgedClaim(7, case.model, case.window, case.category, verdict, len(case.images), criteria)


def difference_moves_to_the_last_position(case: Case) -> JudgedClaim:
    """Claim 8."""
    sets = ("image", "question", LAST)
    if case.patched is None or not set(sets) <= case.patched.keys():
        return JudgedClaim(8, case.model, case.window, case.category, NOT_TESTED, 0, ())
    image, question, last = (case.patched[name] for name in sets)
    asked = (
        CriterionSpec(
            "largest share at the question (%)",
            lambda image, question, last: 100 * (question[:, :-1] / question[:, -1:]).max(axis=-1), ">", STRONG,
        ),
        CriterionSpec(
            "layers from where the image's share falls to a half to where that of the last position rises to it",
            lambda image, question, last: (
                half_passed(FROM, layers, last[:, :-1] / last[:, -1:]).clip(max=case.layers)
                - half_passed(UNTIL, layers, image[:, :-1] / image[:, -1:]).clip(max=case.layers)
            ),
            ">", 0.0, chooses=False,
        ),
    )  # fmt: skip
    layers = image.layers
    drawn = derived_seed(case.seed, case.model, case.category, "claim", "8")
    criteria = criteria_of([each.columns for each in (image, question, last)], image.images, drawn, asked)
    verdict = together([criterion.verdict for criterion in criteria])
    return JudgedClaim(8, case.model, case.window, case.category, verdict, len(image.images), criteria)


JUDGES = (
    question_reaches_last,
    image_acts_through_question,
    two_stages,
    image_before_question,
    last_to_last_is_negligible,
    lower_case_before_capitalised,
    difference_moves_to_the_last_position,
)


def same_in_every_category(findings: Sequence[JudgedClaim], model: str, window: str) -> JudgedClaim:
    """Claim 6: claims 1 to 5 have one verdict in all categories; from the verdicts in one model's categories."""
    verdicts: dict[int, list[str]] = {}
    for finding in findings:
        if finding.claim <= 5 and finding.verdict != NOT_TESTED:
            verdicts.setdefault(finding.claim, []).append(finding.verdict)
    if not verdicts or max(map(len, verdicts.values())) < 2:
        return JudgedClaim(6, model, window, TOGETHER, NOT_TESTED, 0, ())
    if any({SUPPORTED, NOT_SUPPORTED} <= set(found) for found in verdicts.values()):
        verdict = NOT_SUPPORTED
    else:
        verdict = UNDECIDED if any(UNDECIDED in found for found in verdicts.values()) else SUPPORTED
    n = sum(finding.n for finding in findings if finding.claim == min(verdicts))
    return JudgedClaim(6, model, window, TOGETHER, verdict, n, ())


def pool(cases: Sequence[Case]) -> Case:
    """All categories of a model as one case; a flow counts if every category has it."""
    flows = [flow for flow in cases[0].curves if all(flow in case.curves for case in cases)]
    curves = {}
    for flow in flows:
        parts = [case.curves[flow] for case in cases]
        curves[flow] = Curve(
            parts[0].centres,
            np.concatenate([part.question_ids for part in parts]),
            np.concatenate([part.images for part in parts]),
            {"change_percent": np.concatenate([part.change for part in parts])},
            sum(part.missing for part in parts),
        )
    tracks = None
    if all(case.tracks is not None for case in cases):
        tracks = {
            token: np.concatenate([case.tracks[token] for case in cases if case.tracks is not None]) for token in FORMS
        }
    images = np.concatenate([case.images for case in cases])
    patched = None
    if all(case.patched is not None for case in cases):
        of_sets = [case.patched for case in cases if case.patched is not None]
        patched = {name: pooled([found[name] for found in of_sets]) for name in of_sets[0]}
    return cases[0]._replace(category=TOGETHER, curves=curves, tracks=tracks, images=images, patched=patched)


def tracks_of(table: pd.DataFrame, states: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """From a logit lens table: the probabilities with the final norm, and the images of their questions.

    Args:
        table: The columns of ``tables.LENS``.
        states: Number of layers plus one.
    """
    normed = table[table["normed"]].sort_values(["question_id", "layer"], kind="stable")
    tracks = {}
    images = np.array([], dtype=object)
    for token in FORMS:
        rows = normed[normed["token"] == token]
        tracks[token] = rows["probability"].to_numpy(dtype=float).reshape(-1, states)
        images = rows["image_id"].to_numpy(dtype=object)[::states]
    return tracks, images


def case_of(results: Results, model: str, window: str, category: str, lens: bool, patching: bool = False) -> Case:
    """The data for judging the claims in one category.

    Args:
        lens: Whether the study reads the logit lens.
        patching: Whether it patches pairs.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    table = results.knockouts(model, window, category)
    tracks, images = None, np.array([], dtype=object)
    if lens:
        tracks, images = tracks_of(results.logit_lens(model, category)[0], table.layers + 1)
    patched = None
    if patching:
        found = moved_by_set(results.patching(model, category))
        patched = {name: moved for (direction, name), moved in found.items() if direction == BOTH}
    return Case(model, window, category, table.layers, table.curves, tracks, images, results.seed, patched)


def judge_model(cases: Sequence[Case]) -> Iterator[JudgedClaim]:
    """All claims of one model: in every category, in all of them together, and across them."""
    found = [judged(case) for case in cases for judged in JUDGES]
    yield from found
    yield from (judged(pool(cases)) for judged in JUDGES)
    yield same_in_every_category(found, cases[0].model, cases[0].window)


def overall(findings: Sequence[JudgedClaim]) -> dict[int, str]:
    """Claim -> the verdict over all categories on which all models agree; undecided if they disagree."""
    verdicts: dict[int, set[str]] = {}
    for finding in findings:
        if finding.category == TOGETHER:
            verdicts.setdefault(finding.claim, set()).add(finding.verdict)
    return {claim: next(iter(found)) if len(found) == 1 else UNDECIDED for claim, found in sorted(verdicts.items())}
