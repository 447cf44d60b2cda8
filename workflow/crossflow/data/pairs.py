"""Pairs of questions: the same text about another image, with another answer.

A pair is chosen among all questions of the category, whether or not the study chose them: one with the same text about
another image, with another answer (the false option, if the question offers two) and the same roles of objects.
Questions about an image of the same size come first, because every model divides such images into the same grid of
visual tokens; among those that are left, a hash of the seed and both ids decides, so no other question matters.

A row of your own table may name its pair itself (`crossflow.data.question_table`).
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from crossflow.core.records import ChosenQuestion
from crossflow.core.seeds import derived_seed
from crossflow.data.choice import QuestionSource, questions_of
from crossflow.data.chosen import read_chosen, write_chosen, write_rejections
from crossflow.data.question_table import read_rows

NO_OTHER_ANSWER = "no question with this text about another image has another answer"
OTHER_ROLES = "those with this text and another answer name other objects"


def _has_other_answer(question: ChosenQuestion, other: ChosenQuestion) -> bool:
    """Whether another question of the same text can be the pair of a question by its image and answer."""
    answer = other.answer.strip().lower()
    if question.false_option is not None:
        is_other = answer == question.false_option.strip().lower()
    else:
        is_other = answer != question.answer.strip().lower()
    return is_other and other.image_id != question.image_id


def _roles(question: ChosenQuestion) -> list[str]:
    return [each.role for each in question.objects]


def _best(question: ChosenQuestion, candidates: Iterable[ChosenQuestion], seed: int) -> ChosenQuestion:
    def order(candidate: ChosenQuestion) -> tuple[bool, int]:
        drawn = derived_seed(seed, "pair", question.question_id, candidate.question_id)
        return candidate.image_size != question.image_size, drawn

    return min(candidates, key=order)


def find_pairs(
    chosen: Sequence[ChosenQuestion],
    candidates: Iterable[ChosenQuestion],
    seed: int,
    own: Mapping[str, ChosenQuestion],
) -> tuple[list[ChosenQuestion], Counter[str]]:
    """The pairs of chosen questions, and how often each reason leaves a question without one.

    Args:
        chosen: The questions.
        candidates: The questions among which pairs are found.
        seed: Seed of the draw among equals.
        own: Question -> its pair, where the data name it.
    """
    by_text: defaultdict[str, list[ChosenQuestion]] = defaultdict(list)
    for candidate in candidates:
        by_text[candidate.question].append(candidate)
    pairs: list[ChosenQuestion] = []
    reasons: Counter[str] = Counter()
    for question in chosen:
        answered = [other for other in by_text[question.question] if _has_other_answer(question, other)]
        fitting = [other for other in answered if _roles(other) == _roles(question)]
        if question.question_id in own:
            pairs.append(own[question.question_id])
        elif fitting:
            found = _best(question, fitting, seed)
            pairs.append(replace(found, question_id=question.question_id, detailed=question.detailed))
        else:
            reasons[OTHER_ROLES if answered else NO_OTHER_ANSWER] += 1
    return pairs, reasons


def write_pairs(
    questions: Path,
    source: QuestionSource,
    category: str,
    output: Path,
    rejections: Path,
    seed: int = 0,
) -> None:
    """Find the pair of each chosen question: the same text about another image, with another answer.

    Args:
        questions: Table of chosen questions.
        source: Where they come from.
        category: Category of the questions, for example ChooseAttr.
        output: Table of the pairs (CSV).
        rejections: Table that counts why questions have no pair (CSV).
        seed: Seed of the draw among equals.

    Raises:
        CrossflowError: a file is missing or broken.
    """
    candidates, _ = questions_of(source, category)
    own = {}
    if source.table is not None and source.images is not None:
        own = {row.question.question_id: row.pair for row in read_rows(source.table, source.images) if row.pair}
    pairs, reasons = find_pairs(read_chosen(questions), candidates, seed, own)
    write_chosen(output, pairs)
    write_rejections(rejections, category, reasons)
