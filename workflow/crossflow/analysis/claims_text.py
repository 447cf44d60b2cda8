"""Claims and verdicts in words: claims.json and claims.md."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossflow.analysis.bootstrap import RESAMPLES
from crossflow.analysis.claims import (
    APPEARS,
    MIDDLE,
    MUCH,
    NEGLIGIBLE,
    STRONG,
    TOGETHER,
    Criterion,
    JudgedClaim,
    case_of,
    judge_model,
    overall,
)
from crossflow.analysis.results import Results
from crossflow.core.files import replacing, write_json


class Claim(NamedTuple):
    """A claim of the study in words, and its criterion."""

    says: str
    criterion: str


CLAIMS = {
    1: Claim(
        "Information about the question reaches the last position directly: hiding the question from it lowers the "
        "answer's probability strongly, hiding the image from it much less.",
        f"The loss by question → last is more than {STRONG:g} %, and more than {MUCH:g} times that by image → last.",
    ),
    2: Claim(
        "Information about the image acts indirectly: hiding the image from the question hurts more than hiding "
        "it from the last position.",
        f"The loss by image → question exceeds that by image → last by more than {NEGLIGIBLE:g} percentage points.",
    ),
    3: Claim(
        "Image and question meet in two stages: first, in lower layers, the whole image is read, and then, in "
        "middle layers, the objects that the question is about.",
        f"Both other → question and related → question lose more than {NEGLIGIBLE:g} %, the second at greater depth; "
        "and where the study has random sets of as many visual tokens, related ones lose more than they do.",
    ),
    4: Claim(
        "There is an order: the image reaches the question in lower to middle layers, the question reaches the "
        "last position after it.",
        f"Both flows lose more than {NEGLIGIBLE:g} %, image → question at a depth below {MIDDLE:.2f}, and "
        "question → last at greater depth than image → question.",
    ),
    5: Claim(
        "The last position's attention to itself is negligible.",
        f"At no centre layer does last → last change the probability by {NEGLIGIBLE:g} % or more.",
    ),
    6: Claim(
        "The pattern is the same in all categories of questions.",
        "Each of claims 1 to 5 has the same verdict in every category; not supported where one of them is supported "
        "in one category and not supported in another.",
    ),
    7: Claim(
        "The answer is formed in lower case first and capitalised in higher layers.",
        f"Read off the last position with the final norm, the mean probability of both forms reaches {APPEARS:g} at "
        "some layer, the capitalised one's at greater depth.",
    ),
}

_INTRODUCTION = f"""\
Each claim is held against this study's tables. *Loss* is how far the mean probability of the answer falls at the
layer where it falls most, in percent; *depth* is where it falls, from 0 (first layer) to 1 (last): the mean layer,
weighted by how far it falls there. Every number is computed again in each of {RESAMPLES:,} resamples of images, the
choice of the layer included, and stands with its 95 % interval; that the largest of many noisy layers is chosen makes
it too large, which the resamples show and which is taken off. A criterion is met if the whole interval lies on the
right side of its threshold, failed if it lies on the other, and undecided otherwise; a claim is **supported** if all
its criteria are met, **not supported** if one is failed, **undecided** otherwise, and **not tested** where the study
lacks a flow that it needs. The thresholds are this project's, not the study's: the numbers are there to be judged by
others.
"""


def _criterion(criterion: Criterion) -> dict[str, Any]:
    numbers = {name: getattr(criterion, name) for name in ("value", "low", "high", "threshold")}
    rounded = {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in numbers.items()}
    return criterion._asdict() | rounded


def as_json(findings: Sequence[JudgedClaim]) -> dict[str, Any]:
    """The content of claims.json: what each claim says and needs, its overall verdict, and every finding."""
    verdicts = overall(findings)
    return {
        "claims": [
            {
                "claim": number,
                "says": claim.says,
                "criterion": claim.criterion,
                "verdict": verdicts[number],
                "findings": [
                    {
                        "model": finding.model,
                        "window": finding.window,
                        "category": finding.category,
                        "verdict": finding.verdict,
                        "n": finding.n,
                        "criteria": [_criterion(criterion) for criterion in finding.criteria],
                    }
                    for finding in findings
                    if finding.claim == number
                ],
            }
            for number, claim in CLAIMS.items()
        ]
    }


def _evidence(criterion: Criterion) -> str:
    if math.isnan(criterion.value):
        return "–"
    mark = {"supported": "", "not supported": " ✗", "undecided": " ?"}[criterion.verdict]
    digits = 2 if "depth" in criterion.what or "probability" in criterion.what else 1
    numbers = [f"{value + 0.0:.{digits}f}" for value in (criterion.value, criterion.low, criterion.high)]
    numbers = [text.removeprefix("-") if float(text) == 0 else text for text in numbers]
    return f"{numbers[0]} [{numbers[1]}, {numbers[2]}]{mark}"


def _table(findings: Sequence[JudgedClaim]) -> Iterator[str]:
    named = [criterion for finding in findings for criterion in finding.criteria]
    columns = list(dict.fromkeys(criterion.what for criterion in named))
    needed = {criterion.what: f"{criterion.sign} {criterion.threshold:.3g}" for criterion in named}
    yield "| model | category | verdict | n |" + "".join(f" {what}: {needed[what]} |" for what in columns)
    yield "|---|---|---|---|" + "---|" * len(columns)
    for finding in findings:
        by_name = {criterion.what: _evidence(criterion) for criterion in finding.criteria}
        category = "**all together**" if finding.category == TOGETHER else finding.category
        cells = [f"{finding.model}, window {finding.window}", category, f"**{finding.verdict}**", f"{finding.n}"]
        yield "| " + " | ".join([*cells, *(by_name.get(what, "–") for what in columns)]) + " |"


def as_markdown(findings: Sequence[JudgedClaim], study: str) -> str:
    """The content of claims.md."""
    verdicts = overall(findings)
    lines = [f"# What the study `{study}` says about the claims", "", _INTRODUCTION]
    lines += ["| claim | verdict, all categories together |", "|---|---|"]
    lines += [f"| {number}. {claim.says} | **{verdicts[number]}** |" for number, claim in CLAIMS.items()]
    lines += ["", "Numbers failed are marked ✗, undecided ones ?. Column headings name the threshold.", ""]
    for number, claim in CLAIMS.items():
        found = [finding for finding in findings if finding.claim == number]
        lines += [f"## {number}. {claim.says}", "", f"Criterion: {claim.criterion}", "", *_table(found), ""]
    return "\n".join(lines)


def write_claims(results: Results, output: Path, lens: bool = False) -> None:
    """Test the study's claims against the tables, in each model's first window.

    Args:
        results: The study's results.
        output: claims.json; claims.md is written beside it.
        lens: The study reads the logit lens, too.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    found: list[JudgedClaim] = []
    for model, (window, *_) in results.windows.items():
        found += judge_model([case_of(results, model, window, category, lens) for category in results.categories])
    found.sort(key=lambda judged: judged.claim)
    write_json(output, as_json(found))
    with replacing(output.with_suffix(".md")) as temporary:
        temporary.write_text(as_markdown(found, results.results.name), encoding="utf-8")
