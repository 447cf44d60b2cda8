"""Keys and values of another prompt, which targets read in place of their own prompt's: the means of substitution.

The positions of a donor are those of the prompt that reads it, so that position embeddings agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor


class LayerDonor(NamedTuple):
    """The keys and values of a donor in one decoder layer, after the position embedding."""

    key: Float[Tensor, "kv_heads positions head_width"]
    value: Float[Tensor, "kv_heads positions head_width"]


class Donor(NamedTuple):
    """The keys and values of a donor.

    Attributes:
        layers: One entry per decoder layer.
        first: The position of the first key.
    """

    layers: Sequence[LayerDonor]
    first: int = 0

    @property
    def stop(self) -> int:
        """The position after the last key."""
        return self.first + self.layers[0].key.shape[1]

    def at(self, layer: int, positions: Int[Tensor, " positions"]) -> LayerDonor:
        """The keys and values of a layer at some positions of the prompt."""
        places = positions - self.first
        return LayerDonor(*(part.index_select(1, places) for part in self.layers[layer]))


class MeanDonor:
    """The mean of donors over a stretch of positions, summed in fp32.

    Args:
        first, stop: The stretch.
    """

    def __init__(self, first: int, stop: int) -> None:
        self.first = first
        self.stop = stop
        self.count = 0
        self._sums: list[list[Tensor]] = []
        self._dtype = torch.float32

    def add(self, donor: Donor) -> None:
        """Count one more prompt, whose keys begin at its first position."""
        cut = [[part[:, self.first : self.stop] for part in layer] for layer in donor.layers]
        if not self.count:
            self._dtype = donor.layers[0].key.dtype
            self._sums = [[part.to(torch.float32, copy=True) for part in parts] for parts in cut]
        else:
            with torch.inference_mode():
                for sums, parts in zip(self._sums, cut, strict=True):
                    for total, part in zip(sums, parts, strict=True):
                        total += part
        self.count += 1

    def mean(self) -> Donor:
        """The mean, in the type of the prompts' keys."""
        layers = [LayerDonor(*((part / self.count).to(self._dtype) for part in sums)) for sums in self._sums]
        return Donor(layers, self.first)
