"""What the published models need of a device's memory, computed; nothing is downloaded and no weight exists.

    PYTHONPATH=workflow .venv/bin/python benchmarks/memory.py

Prints a Markdown table of the models of the study `paper` in params.yaml, all flows of the study, at the most visual
tokens that an image can have and a question longer than any of GQA's, from `crossflow.verify.true_sizes`.
`crossflow answers` and `crossflow knockout` plan from the folder itself.
"""

from pathlib import Path
from typing import NamedTuple

import yaml

from crossflow.engine.planning import Plan, plan_knockout
from crossflow.models.memory import GIB, USABLE, Sizes
from crossflow.models.model import DTYPES, outline_of
from crossflow.verify.true_sizes import true_config

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"

# The longest of 2,776 published questions has 20 words; the system text of Llama 3's template has about 60 tokens.
TEXT_BEFORE, TEXT_AFTER = 64, 64

CARDS = {"24 GB": 24, "40 GB": 40, "80 GB": 80}


class Need(NamedTuple):
    """The longest prompt of a model, its plan, and the smallest card that it fits into."""

    positions: int
    plan: Plan
    card: str


def card_bytes(gigabytes: int) -> int:
    """What a card reports: a little under its name's GiB (23.5 of 24, as an RTX 4090; 79.2 of 80, as an A100)."""
    return int(gigabytes * GIB * 0.98)


def published_sizes(slug: str, dtype: str) -> Sizes:
    """The sizes of a published model."""
    return outline_of(true_config(slug), DTYPES[dtype])


def need(sizes: Sizes, flows: list[str]) -> Need:
    """The plan on the smallest card that the model fits into with all rows of a flow's target in one batch."""
    image_stop = TEXT_BEFORE + sizes.visual
    positions = image_stop + TEXT_AFTER
    for name, gigabytes in CARDS.items():
        available = int(card_bytes(gigabytes) * USABLE)
        plan = plan_knockout(sizes, positions, image_stop, flows, available)
        if plan.smallest <= available:
            return Need(positions, plan, name)
    raise SystemExit("no card is large enough")


def main() -> None:
    params = yaml.safe_load(PARAMS.read_text(encoding="utf-8"))
    study = params["studies"]["paper"]
    print("| model | type | positions | weights | clean run | rows (at a time) | in all | at least | card |")
    print("|---|---|---|---|---|---|---|---|---|")
    for slug in [*study["models"], "llava16-vicuna-13b"]:
        dtype = params["models"].get(slug, {"dtype": "float16"})["dtype"]
        positions, plan, card = need(published_sizes(slug, dtype), study["flows"])
        needs = (plan.weights, plan.question, plan.rows, plan.total, plan.smallest)
        weights, question, rows, total, least = (f"{size / GIB:.1f}" for size in needs)
        cells = (slug, dtype, f"{positions:,}", weights, question, f"{rows} ({plan.batch})", total, least, card)
        print("|", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
