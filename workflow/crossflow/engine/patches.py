"""Patches: the residual stream at some positions, replaced by that of another run.

Sources: J. Vig et al., Investigating gender bias in language models using causal mediation analysis (NeurIPS 2020);
K. Meng et al., Locating and editing factual associations in GPT (NeurIPS 2022); F. Zhang and N. Nanda, Towards best
practices of activation patching (ICLR 2024).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from jaxtyping import Float, Int
from torch import Tensor

from crossflow.models.model import MultimodalModel


class Patch(NamedTuple):
    """What replaces the residual stream at some positions.

    Attributes:
        positions: The positions, ascending, on the device.
        states: The other run's residual stream entering each layer, and leaving the last, from position ``first`` on.
        first: The first position of the states.
    """

    positions: Int[Tensor, " positions"]
    states: Sequence[Float[Tensor, "1 suffix width"]]
    first: int

    def into(self, hidden: Float[Tensor, "1 suffix width"], layer: int, start: int) -> Float[Tensor, "1 suffix width"]:
        """The residual stream that enters a layer, with the other run's at the positions.

        Args:
            hidden: The run's own, from position ``start`` on.
            layer: The layer; the number of layers stands for what leaves the last.
            start: The first position of ``hidden``.
        """
        replaced = self.states[layer].index_select(1, self.positions - self.first)
        return hidden.index_copy(1, self.positions - start, replaced)


@contextmanager
def patched(model: MultimodalModel, patch: Patch | None, layer: int) -> Iterator[None]:
    """The model with a patch of what enters a layer, or the final norm after the last layer; None changes nothing."""
    if patch is None:
        yield
        return
    module = [*model.layers, model.norm][layer]
    handle = module.register_forward_pre_hook(lambda _, given: (patch.into(given[0], layer, 0), *given[1:]))
    try:
        yield
    finally:
        handle.remove()
