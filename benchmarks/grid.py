"""What the published studies cost, computed from operation counts: nothing is run, nothing is measured.

    PYTHONPATH=workflow .venv/bin/python benchmarks/grid.py

*Device*: multiply-adds of the matrix products, twice each, per question. Of its knockouts: the vision tower, the clean
forward, and for every knockout its suffix from the first layer of its window on (the operations that no program can
avoid), and beside it the published procedure, a full multimodal forward per knockout. Its answer and logit lens share a
forward. Lengths are the published questions' means: 12 tokens of question and 17 after them. Half of the 790 TFLOP/s is
assumed that an H200 reaches in large half-precision products.

The hours are those of `crossflow.verify.clock`, which `crossflow bench` prints, too, for a device that it measures.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from crossflow.core.flows import window_at
from crossflow.verify.clock import Clock, Cost, clock_of

QUESTION, AFTER = 12, 17
TO_LAST, TO_QUESTION = 3, 3  # of the six published flows
PUBLISHED = 5_525  # questions of the published sets
RATE = 0.5 * 790e12
PARTS = ("device", "host", "images")


@dataclass(frozen=True)
class Size:
    """The shape of a published model.

    Attributes:
        positions: Mean length of a prompt.
        tiles: Images of 336 x 336 that the vision tower sees, on average.
        window: Layers of a window.
        weights: GB of its files, in half precision.
    """

    layers: int
    width: int
    intermediate: int
    key_value_share: float
    positions: int
    tiles: float
    window: int
    weights: float

    def token(self) -> float:
        """Operations of one position in one layer, without attention."""
        return 2 * (self.width**2 * (2 + 2 * self.key_value_share) + 3 * self.width * self.intermediate)

    def attention(self, queries: int, keys: float) -> float:
        """Operations of scores and sums in one layer."""
        return 4 * queries * keys * self.width


MODELS = {
    "llava15-7b": Size(32, 4096, 11008, 1, 642, 1, 7, 14.1),
    "llava15-13b": Size(40, 5120, 13824, 1, 642, 1, 9, 26.7),
    "llava16-vicuna-7b": Size(32, 4096, 11008, 1, 2090, 4.5, 7, 14.1),
    "llama3-llava-next-8b": Size(32, 4096, 14336, 0.25, 2090, 4.5, 7, 16.7),
}
# CLIP ViT-L/14-336 up to its last layer but one: 23 layers of width 1024 over 577 positions.
TILE = 23 * 577 * (2 * 12 * 1024**2 + 4 * 577 * 1024)


def forward(size: Size) -> float:
    """One full multimodal forward; a position attends to half of the prompt on average."""
    decoder = size.positions * size.token() + size.attention(size.positions, size.positions / 2)
    return size.layers * decoder + size.tiles * TILE


def suffixes(size: Size, window: int) -> float:
    """All knockouts of a question, as suffixes of the clean forward."""
    total = 0.0
    for layer in range(size.layers):
        remaining = size.layers - window_at(layer, window, size.layers).first
        for flows, suffix in ((TO_LAST, 1), (TO_QUESTION, QUESTION + AFTER)):
            total += flows * remaining * (suffix * size.token() + size.attention(suffix, size.positions))
    return total


def knockouts(size: Size, window: int) -> float:
    """All knockouts of a question: the job *knockout*."""
    return forward(size) + suffixes(size, window)


def cost(size: Size, windows: Sequence[int]) -> Cost:
    """What a question costs at `RATE`."""
    return Cost(
        size.layers,
        size.tiles > 1,
        size.key_value_share < 1,
        size.weights * 1e9,
        forward(size) / RATE,
        tuple(knockouts(size, window) / RATE for window in windows),
    )


def clocks(study: dict[str, Any]) -> tuple[int, dict[str, Clock]]:
    """Questions of each model of a study, and their clocks."""
    per_category = study["questions_per_category"]
    questions = PUBLISHED if per_category is None else per_category * len(study["categories"])
    return questions, {
        name: clock_of(cost(MODELS[name], study["windows"] or [MODELS[name].window]), questions)
        for name in study["models"]
    }


def row(cells: Sequence[object]) -> None:
    """A row of a table in Markdown."""
    print(f"| {' | '.join(map(str, cells))} |")


def main() -> None:
    """Print the tables."""
    row(["model", "weights", "TFLOP a question, published procedure", "here", "ratio"])
    row(["---"] * 5)
    published, here = {}, {}
    for name, size in MODELS.items():
        published[name] = (TO_LAST + TO_QUESTION) * size.layers * forward(size) / 1e12
        here[name] = knockouts(size, size.window) / 1e12
        ratio = published[name] / here[name]
        row([name, f"{size.weights:.1f} GB", f"{published[name]:,.0f}", f"{here[name]:.0f}", f"{ratio:.0f}"])
    row(["all", "", f"{sum(published.values()):,.0f}", f"{sum(here.values()):.0f}", ""])
    print()
    params = yaml.safe_load(Path("params.yaml").read_text(encoding="utf-8"))
    row(
        [
            "minutes of `paper`",
            "loads",
            *(f"{job}: {part}" for job in ("answers", "knockouts") for part in PARTS),
            "all",
        ]
    )
    row(["---"] * 9)
    _, of_paper = clocks(params["studies"]["paper"])
    for name, found in of_paper.items():
        jobs = (found.answers, found.knockouts)
        parts = [sum(job.load for job in jobs), *(getattr(job, part) for job in jobs for part in PARTS), found.total]
        row([name, *(f"{part / 60:.1f}" for part in parts)])
    print()
    row(["study", "questions", "GPU-hours of its knockouts", "of all its jobs"])
    row(["---"] * 4)
    for name, study in params["studies"].items():
        # Of published models, and with no flows or answers beyond those that are counted.
        if set(study["models"]) <= set(MODELS) and "baselines" not in study:
            questions, found = clocks(study)
            knocked_out = sum(each.knockouts.total - each.knockouts.load for each in found.values())
            hours = [knocked_out / 3600, sum(each.total for each in found.values()) / 3600]
            row([name, f"{questions:,}", *(f"{each:.2f}" for each in hours)])


if __name__ == "__main__":
    main()
