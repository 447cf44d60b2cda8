"""Claims and verdicts in words: claims.json and claims.md."""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from crossflow.analysis import pid_flow
from crossflow.analysis.bootstrap import RESAMPLES
from crossflow.analysis.claims import APPEARS, MIDDLE, MUCH, NEGLIGIBLE, STRONG, case_of, judge_model, overall
from crossflow.analysis.judging import TOGETHER, Criterion, JudgedClaim
from crossflow.analysis.results import Results
from crossflow.core.files import replacing, write_json


class Claim(NamedTuple):
    """A claim of the study in words, and its criterion."""

    says: str
    criterion: str


_PID = "a second study's claim, arXiv 2602.15580"
_UNTESTABLE = (
    "Not testable here: it needs a partial information decomposition of hidden states, which no table of this project "
    "holds."
)
CLAIMS = {
    1: Claim(
        "The last position reads the question directly: hiding the question from it lowers the answer's probability "
        "strongly, hiding the image from it much less.",
        f"The loss by question → last is more than {STRONG:g} %, and more than {MUCH:g} times that by image → last.",
    ),
    2: Claim(
        "The image acts through the question: hiding the image from the question lowers the answer's probability more "
        "than hiding it from the last position.",
        f"The loss by image → question exceeds that by image → last by more than {NEGLIGIBLE:g} percentage points.",
    ),
    3: Claim(
        "The question reads the image in two stages: first, in lower layers, the whole image, then, in middle layers, "
        "the objects that the question is about.",
        f"The losses by other → question and by related → question are both more than {NEGLIGIBLE:g} %, the second at "
        "greater depth; if the study has random controls, the loss by related → question exceeds the loss by as many "
        "random visual tokens.",
    ),
    4: Claim(
        "The steps have an order: the question reads the image in lower to middle layers, and the last position reads "
        "the question after that.",
        f"The losses by both flows are more than {NEGLIGIBLE:g} %, image → question has a depth below {MIDDLE:.2f}, "
        "and question → last has a greater depth.",
    ),
    5: Claim(
        "The last position's attention to itself is negligible.",
        f"The change by last → last is below {NEGLIGIBLE:g} % in absolute value at every centre layer.",
    ),
    6: Claim(
        "The pattern is the same in all categories of questions.",
        "Each of claims 1 to 5 has the same verdict in every category; not supported if one of them is supported in "
        "one category and not supported in another.",
    ),
    7: Claim(
        "The answer is formed in lower case first and capitalised in higher layers.",
        f"In the logit lens with the final norm, the mean probability of both forms reaches {APPEARS:g} at some layer, "
        "the capitalised form at greater depth.",
    ),
    8: Claim(
        "What distinguishes two answers passes from the visual tokens through the question to the last position (this "
        "project's own claim; by activation patching of pairs).",
        f"Patched with the states of the pair's run, the question moves the margin by more than {STRONG:g} % of the "
        "difference after some layer, and the share of the image falls to a half after fewer layers than that of the "
        "last position rises to it.",
    ),
    9: Claim(
        f"What is unique to the image peaks in early layers and decays with depth ({_PID}).",
        "Its counterpart in patching of pairs: the share of the difference between two answers that the visual tokens "
        f"hold is on average more than {STRONG:g} percentage points larger in the lower half of the layers than in the "
        "upper half.",
    ),
    10: Claim(
        f"The course over the layers is the same in variants of a model ({_PID}).",
        "Its counterpart in knockouts: the mean curve of image → question over all categories has a correlation above "
        f"{pid_flow.ALIKE:g} with that of the study's first model that has as many layers.",
    ),
    11: Claim(
        "Hiding the image from the question costs most in the tasks that need the image most, and least where language "
        f"says the same ({_PID}).",
        "Its counterpart in knockouts and answers: over categories, the loss by image → question has a positive rank "
        "correlation with the accuracy that is lost without the image; at least "
        f"{pid_flow.FEWEST} categories are needed.",
    ),
    12: Claim(
        f"What is unique to the language surges in late layers and makes up about 82 % of the prediction ({_PID}).",
        _UNTESTABLE,
    ),
    13: Claim(f"Synergy of image and language stays below 2 % ({_PID}).", _UNTESTABLE),
    14: Claim(
        "Hiding the image from the question raises what is unique to the image, the synergy and the total information "
        f"({_PID}).",
        _UNTESTABLE,
    ),
}

_INTRODUCTION = f"""\
This page tests each claim of the published study, one of this project, and those of a second study that have a
counterpart here, against this study's tables. The *loss* of a
curve is the fall of the answer's mean probability, in percent, at the layer where it falls most. Its *depth* is the
mean layer, weighted by the fall at each layer, from 0 (first layer) to 1 (last).

Every number has a 95 % interval from {RESAMPLES:,} resamples of images. Choosing the layer with the largest fall among
many noisy layers biases a loss upwards; the resamples estimate this bias, and it is subtracted.

A criterion is met if the whole interval lies on the required side of its threshold, failed if the interval lies on the
other side, and undecided otherwise. A claim is **supported** if all its criteria are met, **not supported** if one
fails, **undecided** otherwise, **not tested** if the study lacks what the claim needs, and **not testable here** if no
table of this project holds it. The thresholds are this project's, where a claim does not name its own; the numbers let
readers apply others.
"""


def _criterion(criterion: Criterion) -> dict[str, Any]:
    numbers = {name: getattr(criterion, name) for name in ("value", "low", "high", "threshold")}
    rounded = {name: None if math.isnan(value) else float(f"{value:.6g}") for name, value in numbers.items()}
    return criterion._asdict() | rounded


def as_json(findings: Sequence[JudgedClaim]) -> dict[str, Any]:
    """The content of claims.json: claims, criteria, overall verdicts, and verdicts per model and category."""
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
    digits = 3 if "correlation" in criterion.what else 2 if re.search("depth|probability", criterion.what) else 1
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
        category = "**all categories**" if finding.category == TOGETHER else finding.category
        cells = [f"{finding.model}, window {finding.window}", category, f"**{finding.verdict}**", f"{finding.n}"]
        yield "| " + " | ".join([*cells, *(by_name.get(what, "–") for what in columns)]) + " |"


def as_markdown(findings: Sequence[JudgedClaim], study: str) -> str:
    """The content of claims.md."""
    verdicts = overall(findings)
    lines = [f"# Claims and verdicts: study `{study}`", "", _INTRODUCTION]
    lines += ["| claim | verdict over all categories |", "|---|---|"]
    lines += [f"| {number}. {claim.says} | **{verdicts[number]}** |" for number, claim in CLAIMS.items()]
    lines += ["", "✗ marks a failed criterion, ? an undecided one. Column headings give the thresholds.", ""]
    for number, claim in CLAIMS.items():
        found = [finding for finding in findings if finding.claim == number]
        lines += [f"## {number}. {claim.says}", "", f"Criterion: {claim.criterion}", "", *_table(found), ""]
    return "\n".join(lines)


def write_claims(results: Results, output: Path, lens: bool = False, patching: bool = False) -> None:
    """Test the study's claims against the tables, in each model's first window.

    Args:
        results: The study's results.
        output: claims.json; claims.md is written beside it.
        lens: Whether the study reads the logit lens.
        patching: Whether it patches pairs.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    models = {
        model: [case_of(results, model, window, category, lens, patching) for category in results.categories]
        for model, (window, *_) in results.windows.items()
    }
    found = [finding for cases in models.values() for finding in judge_model(cases)]
    found += pid_flow.judge_study(models, results)
    found.sort(key=lambda judged: judged.claim)
    write_json(output, as_json(found))
    with replacing(output.with_suffix(".md")) as temporary:
        temporary.write_text(as_markdown(found, results.results.name), encoding="utf-8")
