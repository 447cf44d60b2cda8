"""How many questions were skipped, excluded, missing or counted (counts.csv), and the noise floor (noise.csv).

Every chosen question is in exactly one group:
``questions = skipped + excluded + missing + n``.

skipped
    Broken: it could not be answered.
excluded
    Answered, but not selected for knockouts (by ``answers: correct | wrong | all``).
missing
    Knocked out in other flows; this flow blocks no edge, for its source set is empty.
n
    Counted in the curve.
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Any

from crossflow.analysis.curves import Knockouts
from crossflow.analysis.results import Results, Row
from crossflow.core.errors import CrossflowError


def noise(table: Knockouts) -> dict[str, Any]:
    """Give the row of noise.csv: the largest change by a no-op knockout, as a probability and in percent of it."""
    probability, percent = table.noise
    return {
        "model": table.model,
        "category": table.category,
        "window": table.window,
        "probability": probability,
        "change_percent": percent,
    }


def counts(
    table: Knockouts, *, chosen: Sequence[str], skipped: Collection[str], answered: Collection[str]
) -> Iterator[dict[str, Any]]:
    """Give the rows of counts.csv: the group of every chosen question, per flow.

    Args:
        chosen, skipped, answered: Ids of all questions of the category, of the broken and of the answered ones.

    Raises:
        CrossflowError: a question is in no group or in two, or was never chosen.
    """
    where = f"{table.model}, window {table.window}, {table.category}"
    places = [*skipped, *answered]
    if sorted(places) != sorted(chosen):
        astray = sorted(set(places) ^ set(chosen)) or sorted(id for id in set(places) if places.count(id) > 1)
        raise CrossflowError(
            f"{where}: {len(chosen)} questions were chosen, but {len(skipped)} skipped and {len(answered)} answered "
            f"(see {', '.join(astray[:3])}): delete these answers and run again."
        )
    strangers = sorted(table.question_ids.difference(answered))
    if strangers:
        raise CrossflowError(
            f"{where}: question {strangers[0]} was knocked out but has no answer: delete these knockouts and run again."
        )
    excluded = len(answered) - len(table.question_ids)
    for flow, curve in table.curves.items():
        n = len(curve.images)
        if len(chosen) != len(skipped) + excluded + curve.missing + n:
            raise CrossflowError(
                f"{where}, {flow}: {len(chosen)} questions, but {len(skipped)} skipped + {excluded} excluded "
                f"+ {curve.missing} missing + {n} counted."
            )
        yield {
            "model": table.model,
            "category": table.category,
            "window": table.window,
            "flow": flow,
            "questions": len(chosen),
            "skipped": len(skipped),
            "excluded": excluded,
            "missing": curve.missing,
            "n": n,
        }


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of counts.csv and noise.csv.

    Raises:
        CrossflowError: a table is absent, or a question is in no group or in two.
    """
    rows: dict[str, list[Row]] = {"counts": [], "noise": []}
    for table in results.all_knockouts():
        rows["counts"].extend(
            counts(
                table,
                chosen=results.chosen(table.category),
                skipped=results.skipped(table.model, table.category),
                answered=list(results.answers(table.model, table.category)["question_id"]),
            )
        )
        rows["noise"].append(noise(table))
    rows["noise"].sort(key=lambda row: results.categories.index(row["category"]))
    return {**rows}
