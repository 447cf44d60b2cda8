r"""How the cost of a study grows: with questions, flows, windows, layers and visual tokens, measured in one run.

    PYTHONPATH=workflow .venv/bin/python benchmarks/growth.py \
        --figure docs/images/growth.png --table docs/images/growth.csv

Around one study (LLaVA-1.5's prompt, random weights, a narrow decoder of 16 layers, a tiny vision tower, the six
published flows, windows of 7, one question) each quantity is varied alone. The engine is timed whole, and beside it the
published procedure: one full forward per knockout, of which two are timed and multiplied.
"""

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import matplotlib as mpl
import matplotlib.pyplot as plt
import torch
from tqdm import tqdm

from crossflow.core.flows import CONTROL_FLOWS, PUBLISHED_FLOWS, with_controls
from crossflow.engine.forward import full_forward
from crossflow.figures.style import SETTINGS
from crossflow.models.model import DTYPES
from crossflow.verify.speed import Published, build_model, build_question, rows_for, run_engine, timed

FLOWS = [*PUBLISHED_FLOWS, *with_controls(list(PUBLISHED_FLOWS), 3, CONTROL_FLOWS)]
DEVIATIONS: dict[str, tuple[int, ...]] = {
    "questions": (1, 2, 4, 8),
    "flows": (1, 3, 6, 12, 24),
    "window": (1, 3, 7, 15),
    "layers": (4, 8, 16, 32),
    "visual tokens": (144, 576, 2304),
}


class Study(NamedTuple):
    """What is varied; `visual` is a square of patches."""

    questions: int = 1
    flows: int = 6
    window: int = 7
    layers: int = 16
    visual: int = 576


class Cost(NamedTuple):
    """Seconds, and what they are of."""

    varied: str
    value: int
    knockouts: int
    engine: float
    published: float


def studies() -> Iterator[tuple[str, int, Study]]:
    """Each deviation from the one study."""
    for varied, values in DEVIATIONS.items():
        for value in values:
            yield varied, value, Study()._replace(**{varied.removesuffix(" tokens"): value})


def measure(varied: str, value: int, study: Study, width: int, dtype: str, device: torch.device) -> Cost:
    """Time one study; the first run of each way is not counted."""
    side = 14 * round(study.visual**0.5)
    model = build_model("llava15-7b", study.layers, width, False, dtype, device, side)
    questions = [build_question(model, number) for number in range(study.questions)]
    assert len(questions[0].positions["image"]) == study.visual
    rows = rows_for(questions[0], FLOWS[: study.flows], study.window, study.layers)

    def engine() -> None:
        run_engine(model, questions, rows)

    def published(number: int) -> None:
        full_forward(model, questions[0], Published(rows[number], questions[0].length, device))

    engine()
    published(0)
    ours = min(timed(engine, device)[1] for _ in range(2))
    theirs = [timed(lambda number=number: published(number), device)[1] for number in (0, len(rows) - 1)]
    knockouts = len(rows) * study.questions
    return Cost(varied, value, knockouts, ours, knockouts * sum(theirs) / len(theirs))


def draw(costs: list[Cost], path: Path, title: str) -> None:
    """One panel for each quantity, both axes logarithmic, so that a straight line at 45 degrees is a doubling."""
    with mpl.rc_context(SETTINGS):
        figure, panels = plt.subplots(1, len(DEVIATIONS), figsize=(9, 2.4), sharey=True, layout="constrained")
        for panel, varied in zip(panels, DEVIATIONS, strict=True):
            shown = [cost for cost in costs if cost.varied == varied]
            values = [cost.value for cost in shown]
            for label, colour, marker, seconds in (
                ("published procedure", "#D55E00", "s", [cost.published for cost in shown]),
                ("crossflow", "#0072B2", "o", [cost.engine for cost in shown]),
            ):
                panel.loglog(values, seconds, color=colour, marker=marker, label=label)
            for cost in shown:
                panel.annotate(
                    f"{cost.published / cost.engine:.0f}×",
                    (cost.value, (cost.published * cost.engine) ** 0.5),
                    ha="center",
                    va="center",
                    fontsize=6.5,
                    color="0.35",
                )
            panel.set_xticks(values, [f"{value:,}" for value in values])
            panel.minorticks_off()
            panel.margins(x=0.12)
            panel.set_xlabel(varied)
            panel.grid(axis="y", color="0.9", linewidth=0.5)
        panels[0].set_ylabel("seconds")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", ncols=2, frameon=False)
        figure.suptitle(title, x=0.01, ha="left", fontsize=7.5)
        figure.savefig(path, dpi=200)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--width", type=int, default=512, help="of the decoder")
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--figure", type=Path, required=True)
    parser.add_argument("--table", type=Path, required=True)
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    costs = [
        measure(*study, arguments.width, arguments.dtype, device)
        for study in tqdm(list(studies()), desc="studies", unit="study")
    ]
    with arguments.table.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*Cost._fields[:3], "engine_seconds", "published_seconds", "ratio"])
        writer.writerows(
            [*cost[:3], *(f"{part:.3f}" for part in cost[3:]), f"{cost.published / cost.engine:.1f}"] for cost in costs
        )
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{torch.get_num_threads()} CPU cores"
    draw(costs, arguments.figure, f"{name}, {arguments.dtype}, width {arguments.width}")


if __name__ == "__main__":
    main()
