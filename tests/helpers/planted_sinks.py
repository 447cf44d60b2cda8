"""Sinks planted in a tiny model: some tokens of the text, and visual tokens by what they show."""

from collections.abc import Sequence
from pathlib import Path

import torch

from crossflow.models.model import MultimodalModel
from tiny import load_tiny

# The largest |x| / RMS is the square root of the width, 22.6; one dimension must hold nearly everything.
WIDTH, LAYERS = 512, 3
DIMENSION = 7
MASSIVE = 1000.0


def load_wide(folder: Path) -> MultimodalModel:
    """A tiny model that is wide enough for sinks."""
    return load_tiny(folder, layers=LAYERS, width=WIDTH)


def plant(model: MultimodalModel, words: Sequence[str], visual: float = 1.0) -> None:
    """Give tokens of the text a massive activation in `DIMENSION`, and make visual tokens more extreme there."""
    tokens = model.processor.tokenizer.convert_tokens_to_ids(list(words))
    with torch.no_grad():
        model.network.get_input_embeddings().weight[tokens, DIMENSION] = MASSIVE
        model.network.model.multi_modal_projector.linear_2.weight[DIMENSION] *= visual
