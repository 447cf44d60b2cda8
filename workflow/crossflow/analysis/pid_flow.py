"""Claims of a second study, tested as far as this project's tables reach.

The study decomposes what each layer's hidden states say about the answer into information that is unique to the image,
unique to the language, redundant and synergistic (*partial information decomposition*). None of these quantities is
computed here. Three of its claims have a counterpart in knockouts and patches, which is what their criteria test; the
others are stated as not testable here.

Source: H. Wu, Y. Zhang and X. Zhou, How Vision Becomes Language: A Layer-wise Information-Theoretic Analysis of
Multimodal Reasoning, arXiv 2602.15580 (2026), abstract. The threshold `ALIKE` is the abstract's, the others are this
project's.
"""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from crossflow.analysis.bootstrap import resampled_means
from crossflow.analysis.claims import STRONG, Case, pool
from crossflow.analysis.judging import (
    NOT_TESTABLE,
    NOT_TESTED,
    TOGETHER,
    CriterionSpec,
    Curves,
    JudgedClaim,
    Numbers,
    criteria_of,
    criterion_of,
    loss,
    together,
)
from crossflow.analysis.paired import on_common_ground
from crossflow.analysis.results import Results
from crossflow.core.ranks import rank_correlation
from crossflow.core.seeds import derived_seed

ALIKE = 0.96
"""Correlation of two models' courses over the layers beyond which they are the same."""
FEWEST = 3
"""Categories without which no order of categories can be tested."""
_FLOW = "image->question"

Models = Mapping[str, Sequence[Case]]
"""Model -> its cases, one of each category."""


def _finding(case: Case, claim: int, verdict: str) -> JudgedClaim:
    return JudgedClaim(claim, case.model, case.window, case.category, verdict, 0, ())


def image_gives_way(models: Models, results: Results) -> Iterator[JudgedClaim]:
    """Claim 9."""

    def halves(image: Curves) -> Numbers:
        shares = 100 * image[:, :-1] / image[:, -1:]
        middle = shares.shape[1] // 2
        return np.asarray(shares[:, :middle].mean(axis=1) - shares[:, -middle:].mean(axis=1))

    what = "mean share of the image in the lower half of the layers minus that in the upper half (%)"
    asked = CriterionSpec(what, halves, ">", STRONG, chooses=False)
    for cases in models.values():
        for case in (*cases, pool(cases)):
            if case.patched is None or "image" not in case.patched:
                yield _finding(case, 9, NOT_TESTED)
                continue
            image = case.patched["image"]
            drawn = derived_seed(case.seed, case.model, case.category, "claim", "9")
            criteria = criteria_of([image.columns], image.images, drawn, [asked])
            verdict = together([criterion.verdict for criterion in criteria])
            yield JudgedClaim(9, case.model, case.window, case.category, verdict, len(image.images), criteria)


def _correlation(one: Curves, other: Curves) -> Numbers:
    """Pearson's correlation of each pair of curves; 0 if one of them is flat."""
    first, second = (curves - curves.mean(axis=1, keepdims=True) for curves in (one, other))
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    return np.asarray(np.divide((first * second).sum(axis=1), spread, out=np.zeros(len(one)), where=spread > 0))


def course_is_shared(models: Models, results: Results) -> Iterator[JudgedClaim]:
    """Claim 10; a model is compared with the first of the study that has as many layers."""
    pooled = [pool(cases) for cases in models.values()]
    first: dict[int, Case] = {}
    compared = []
    for case in pooled:
        base = first.setdefault(case.layers, case)
        if base is not case and _FLOW in case.curves and _FLOW in base.curves:
            compared.append((base, case))
    if not compared:
        yield from (_finding(case, 10, NOT_TESTED) for case in pooled)
    for base, case in compared:
        curves = on_common_ground([base.curves[_FLOW], case.curves[_FLOW]])
        what = f"correlation with {base.model} of the course of image → question"
        drawn = derived_seed(case.seed, case.model, base.model, "claim", "10")
        asked = CriterionSpec(what, _correlation, ">", ALIKE, chooses=False)
        criteria = criteria_of([curve.change for curve in curves], curves[0].images, drawn, [asked])
        verdict = together([criterion.verdict for criterion in criteria])
        yield JudgedClaim(10, case.model, case.window, TOGETHER, verdict, len(curves[0].images), criteria)


def image_matters_where_it_is_needed(models: Models, results: Results) -> Iterator[JudgedClaim]:
    """Claim 11; the need for an image is the accuracy that is lost without it."""
    what = f"rank correlation over categories of the loss by {_FLOW.replace('->', ' → ')} and the loss of accuracy"
    asked = CriterionSpec(f"{what} without the image", loss, ">", 0.0, chooses=False)
    for model, cases in models.items():
        curves = [case.curves.get(_FLOW) for case in cases]
        tested = [(case, curve) for case, curve in zip(cases, curves, strict=True) if curve and len(curve.images)]
        if len(tested) < FEWEST:
            yield _finding(cases[0]._replace(category=TOGETHER), 11, NOT_TESTED)
            continue
        needs, losses, n = [], [], 0
        for case, curve in tested:
            answers = results.answers(model, case.category)
            drops = (answers["correct"].astype(float) - answers["correct_blind"].astype(float)).to_numpy()[:, None]
            drawn = derived_seed(case.seed, model, case.category, "claim", "11")
            # The first row is the sample, the others are its resamples.
            needs.append(np.append(drops.mean(), resampled_means(drops, answers["image_id"].to_numpy(object), drawn)))
            changes = resampled_means(curve.change, curve.images, drawn)
            losses.append(np.append(loss(curve.change.mean(axis=0, keepdims=True)), loss(changes)))
            n += len(curve.images)
        order = np.nan_to_num(rank_correlation(np.stack(needs, axis=1), np.stack(losses, axis=1)))
        criterion = criterion_of(asked, float(order[0]), order[1:])
        yield JudgedClaim(11, model, cases[0].window, TOGETHER, criterion.verdict, n, (criterion,))


UNTESTABLE = (12, 13, 14)
"""The claims of which no table of this project holds the quantities."""
JUDGES = (image_gives_way, course_is_shared, image_matters_where_it_is_needed)


def judge_study(models: Models, results: Results) -> Iterator[JudgedClaim]:
    """All claims of the second study.

    Args:
        models: Model -> its cases, one of each category.
        results: The study's results.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    for judged in JUDGES:
        yield from judged(models, results)
    for cases in models.values():
        for claim in UNTESTABLE:
            yield _finding(cases[0]._replace(category=TOGETHER), claim, NOT_TESTABLE)
