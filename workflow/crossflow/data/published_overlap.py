"""How the questions that the filter chooses in a split overlap with the published sets.

The filter takes every fitting question of a split, and the published sets are a part of val_balanced: *extra* questions
are expected, *missing* and *differing* ones are not.
"""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crossflow.core.columns import CATEGORY, QUESTION_ID, QUESTIONS, TEXT, WHOLE, Column, Columns
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


COUNTS: Columns = {
    "category": CATEGORY,
    "filter": Column(WHOLE, words="Questions that this project's filter chooses in the split."),
    "published": Column(WHOLE, words="Questions of the published set."),
    "both": Column(WHOLE, words="Questions in both."),
    "missing": Column(WHOLE, words="Published questions that the filter does not choose."),
    "extra": Column(WHOLE, words="Questions that the filter chooses and that were not published."),
    "differing": Column(WHOLE, words="Questions in both that differ in some column."),
}
DIFFERENCES: Columns = {
    "category": CATEGORY,
    "question_id": QUESTION_ID,
    "difference": Column(TEXT, words="`missing`, `extra`, or the column in which a question of both differs."),
    "published": Column(TEXT, words="The published set's value in that column."),
    "filter": Column(
        TEXT, words="The filter's value in that column; for a missing question, the reason for its rejection."
    ),
}

Questions = dict[str, ChosenQuestion]
"""By question id."""


def _differences(published: Questions, chosen: Questions, reasons: Mapping[str, str]) -> Iterator[dict[str, str]]:
    """The rows of `DIFFERENCES` for one category, by question id."""
    for question_id in sorted(published.keys() | chosen.keys()):
        row = {"question_id": question_id, "published": "", "filter": ""}
        if question_id not in chosen:
            yield row | {"difference": MISSING, "filter": reasons.get(question_id, NOT_IN_SPLIT)}
        elif question_id not in published:
            yield row | {"difference": EXTRA}
        else:
            # A published set does not give the sizes of its images.
            theirs, ours = map(chosen_row, (published[question_id], replace(chosen[question_id], image_size=None)))
            for column in QUESTIONS:
                if ours[column] != theirs[column]:
                    values = {"published": theirs[column] or "", "filter": ours[column] or ""}
                    yield row | {"difference": column} | values


def _choose(root: Path, split: str, published: Mapping[str, Questions]) -> tuple[dict[str, Questions], dict[str, str]]:
    """Category -> all questions that the filter chooses in a split, and why it rejects published ones.

    One pass over the split for all categories.
    """
    asked = {question_id for questions in published.values() for question_id in questions}
    chosen: dict[str, Questions] = {category: {} for category in published}
    reasons: dict[str, str] = {}
    for question_id, result in filter_questions(root, split, published.keys()):
        if not isinstance(result, Rejection):
            chosen[result.category][question_id] = result
            reasons[question_id] = f"chosen for {result.category}"
        elif question_id in asked:
            reasons[question_id] = result.reason
    return chosen, reasons


def write_overlap(root: Path, split: str, published: tuple[Path, ...], output: Path, differences: Path) -> None:
    """Compare the questions that the filter chooses with the published sets; differences are not errors.

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
    sets = {
        category: {question.question_id: question for question in read_published(files[category], category)}
        for category in sorted(files)
    }
    chosen, reasons = _choose(root, split, sets)
    rows: list[dict[str, str]] = []
    counts: list[dict[str, Any]] = []
    for category, theirs in sets.items():
        ours = chosen[category]
        both = theirs.keys() & ours.keys()
        found = list(_differences(theirs, ours, reasons))
        rows += ({"category": category} | row for row in found)
        counts.append(
            {
                "category": category,
                "filter": len(ours),
                "published": len(theirs),
                "both": len(both),
                "missing": len(theirs) - len(both),
                "extra": len(ours) - len(both),
                "differing": len(both & {row["question_id"] for row in found}),
            }
        )
        log.info(", ".join(f"{name} {value}" for name, value in counts[-1].items()))
    write_csv(differences, DIFFERENCES, rows)
    write_csv(output, COUNTS, counts)
