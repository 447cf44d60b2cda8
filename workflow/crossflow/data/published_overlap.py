"""How the questions that the filter chooses in a split overlap with the published sets.

The filter takes every fitting question of a split, and the published sets are a part of val_balanced: *extra* questions
are expected, *missing* and *differing* ones are not.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from crossflow.core.columns import QUESTION_ID, QUESTIONS, TEXT, WHOLE, Column, Columns
from crossflow.core.records import ChosenQuestion
from crossflow.core.tables import write_csv
from crossflow.data.categories import Rejection
from crossflow.data.chosen import chosen_row
from crossflow.data.filtering import filter_questions
from crossflow.data.published import find_published, read_published

log = logging.getLogger(__name__)

MISSING = "missing"
EXTRA = "extra"
NOT_IN_SPLIT = "not in the split"


class Difference(NamedTuple):
    """One difference between the filter and a published set.

    Attributes:
        question_id: The question.
        difference: `MISSING` (published, not chosen), `EXTRA` (chosen, not published), or the column in which a
            question of both differs.
        published: The published set's value in that column.
        filter: The filter's value in that column; for a missing question, the reason against it.
    """

    question_id: str
    difference: str
    published: str
    filter: str


class Overlap(NamedTuple):
    """The comparison for one category.

    Attributes:
        filter: How many questions the filter chooses.
        published: How many were published.
        both: How many are in both.
        differing: How many of those differ in some column.
        differences: All differences, by question id.
    """

    filter: int
    published: int
    both: int
    differing: int
    differences: Sequence[Difference]


def _differing(published: ChosenQuestion, chosen: ChosenQuestion) -> list[Difference]:
    # A published set does not give the sizes of its images.
    ours, theirs = chosen_row(replace(chosen, image_size=None)), chosen_row(published)
    return [
        Difference(chosen.question_id, column, theirs[column] or "", ours[column] or "")
        for column in QUESTIONS
        if ours[column] != theirs[column]
    ]


def _compare(
    published: Mapping[str, ChosenQuestion], chosen: Mapping[str, ChosenQuestion], reasons: Mapping[str, str]
) -> Overlap:
    differences: list[Difference] = []
    differing = 0
    for question_id in sorted(published.keys() | chosen.keys()):
        if question_id not in chosen:
            differences.append(Difference(question_id, MISSING, "", reasons.get(question_id, NOT_IN_SPLIT)))
        elif question_id not in published:
            differences.append(Difference(question_id, EXTRA, "", ""))
        else:
            found = _differing(published[question_id], chosen[question_id])
            differing += bool(found)
            differences += found
    return Overlap(len(chosen), len(published), len(published.keys() & chosen.keys()), differing, differences)


def compare_with_published(
    root: Path, split: str, published: Mapping[str, Sequence[ChosenQuestion]]
) -> dict[str, Overlap]:
    """Compare all questions that the filter chooses in a split with the published ones, category by category.

    One pass over the split for all categories.

    Args:
        root: A data set in GQA's layout.
        split: One of its splits.
        published: Category -> its published questions.

    Raises:
        CrossflowError: a file of the split is absent or broken.
    """
    asked = {question.question_id for questions in published.values() for question in questions}
    chosen: dict[str, dict[str, ChosenQuestion]] = {category: {} for category in published}
    reasons: dict[str, str] = {}
    for question_id, result in filter_questions(root, split, published.keys()):
        if not isinstance(result, Rejection):
            chosen[result.category][question_id] = result
            reasons[question_id] = f"chosen for {result.category}"
        elif question_id in asked:
            reasons[question_id] = result.reason
    return {
        category: _compare({question.question_id: question for question in questions}, chosen[category], reasons)
        for category, questions in published.items()
    }


_CATEGORY = Column(TEXT, words="The category of the questions.")
COUNTS: Columns = {
    "category": _CATEGORY,
    "filter": Column(WHOLE, words="Questions that this project's filter chooses in the split."),
    "published": Column(WHOLE, words="Questions of the published set."),
    "both": Column(WHOLE, words="Questions in both."),
    "missing": Column(WHOLE, words="Published questions that the filter does not choose."),
    "extra": Column(WHOLE, words="Questions that the filter chooses and that were not published."),
    "differing": Column(WHOLE, words="Questions in both that differ in some column."),
}
DIFFERENCES: Columns = {
    "category": _CATEGORY,
    "question_id": QUESTION_ID,
    "difference": Column(TEXT, words="`missing`, `extra`, or the column in which a question of both differs."),
    "published": Column(TEXT, words="The published set's value in that column."),
    "filter": Column(TEXT, words="The filter's value in that column; for a missing question, the reason against it."),
}


def write_overlap(root: Path, split: str, published: tuple[Path, ...], output: Path, differences: Path) -> None:
    """Compare the questions that the filter chooses with the published sets; a difference is no error.

    Args:
        root: Data set in GQA's layout; images are not needed.
        split: Split of the data set, for example val_balanced.
        published: Published question sets (CSV; named as published, or {category}.csv), or a folder of them.
        output: Table of counts, by category (CSV).
        differences: Table of the questions that differ (CSV).

    Raises:
        CrossflowError: a file is absent or broken.
    """
    files = find_published(published)
    # Read first, so that their errors show before the long pass over the split.
    sets = {category: read_published(files[category], category) for category in sorted(files)}
    overlaps = compare_with_published(root, split, sets)
    counts = [
        {
            "category": category,
            "filter": overlap.filter,
            "published": overlap.published,
            "both": overlap.both,
            "missing": overlap.published - overlap.both,
            "extra": overlap.filter - overlap.both,
            "differing": overlap.differing,
        }
        for category, overlap in overlaps.items()
    ]
    for row in counts:
        log.info(", ".join(f"{name} {value}" for name, value in row.items()))
    write_csv(
        differences,
        DIFFERENCES,
        (
            {"category": category} | difference._asdict()
            for category, overlap in overlaps.items()
            for difference in overlap.differences
        ),
    )
    write_csv(output, COUNTS, counts)
