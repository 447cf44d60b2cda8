"""What the published models need of a device's memory, computed; nothing is downloaded and no weight exists.

    PYTHONPATH=workflow .venv/bin/python benchmarks/memory.py

Prints a Markdown table of the models of the study `paper` in params.yaml, all flows of the study, at the most visual
tokens that a picture can have and a question longer than any of GQA's. Their configurations are written down here,
because the ports' folders can not be asked: sizes of Vicuna 7B and 13B, Llama 3 8B and CLIP ViT-L/14-336, vocabularies
with the ports' added tokens. `crossflow answers` and `crossflow knockout` plan from the folder itself.
"""

from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from transformers import (
    AutoModelForImageTextToText,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
)

from crossflow.memory import GIB, USABLE, Sizes
from crossflow.models import ARCHITECTURES, DTYPES, sizes_of
from crossflow.planning import Plan, plan_knockout

PARAMS = Path(__file__).resolve().parent.parent / "params.yaml"

VICUNA_7B = {"hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32}
VICUNA_13B = {"hidden_size": 5120, "intermediate_size": 13824, "num_hidden_layers": 40, "num_attention_heads": 40}
LLAMA3_8B = VICUNA_7B | {"intermediate_size": 14336, "num_key_value_heads": 8, "vocab_size": 128320}
CLIP = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
TEXTS: dict[str, dict[str, Any]] = {
    "llava15-7b": VICUNA_7B | {"vocab_size": 32064},
    "llava15-13b": VICUNA_13B | {"vocab_size": 32064},
    "llava16-vicuna-7b": VICUNA_7B | {"vocab_size": 32064},
    "llama3-llava-next-8b": LLAMA3_8B,
    # Not in the study: the largest that is asked for.
    "llava16-vicuna-13b": VICUNA_13B | {"vocab_size": 32064},
}

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
    tiles = slug.startswith(("llava16", "llama3"))
    text, vision = LlamaConfig(**TEXTS[slug]), CLIPVisionConfig(**CLIP)
    config: Any = (
        LlavaNextConfig(text_config=text, vision_config=vision, image_grid_pinpoints=PINPOINTS)
        if tiles
        else LlavaConfig(text_config=text, vision_config=vision)
    )
    with torch.device("meta"):
        network = AutoModelForImageTextToText.from_config(config, dtype=DTYPES[dtype])
    return sizes_of(network, ARCHITECTURES[config.model_type])


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
