"""Module knockouts: the output of a layer's attention or MLP, replaced at some positions.

Zero leaves the residual stream as it enters the module. The mean keeps what the module adds to every such position,
whatever the question. Source: the published code sets the outputs at the question's positions to zero; K. Wang et al.,
Interpretability in the wild (ICLR 2023): ablation to the mean.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor, nn

from crossflow.core.errors import CrossflowError
from crossflow.models.model import MultimodalModel

_NAMES = {"attn": "self_attn", "mlp": "mlp"}


class Silenced(NamedTuple):
    """One output that is replaced.

    Attributes:
        module: One of `crossflow.core.flows.MODULES`.
        targets: Positions of the prompt, ascending.
        value: What replaces it in each layer, in the type of the model; None = zero.
    """

    module: str
    targets: Int[np.ndarray, " t"]
    value: Float[Tensor, "layers width"] | None = None

    @property
    def sources(self) -> Int[np.ndarray, " _"]:
        """No edge is blocked."""
        return np.arange(0)

    @property
    def donor(self) -> None:
        """No donor is read."""

    def extended_by(self, last: int, further: int) -> "Silenced":
        """As `crossflow.engine.edges.Edges.extended_by`."""
        if last not in self.targets:
            return self
        return self._replace(targets=np.append(self.targets, last + 1 + np.arange(further)))


class Replacement(NamedTuple):
    """What replaces a module's output in one layer.

    Attributes:
        places: In the sequence.
        value: Of one position, for all of them; None = zero.
    """

    places: Int[Tensor, " places"]
    value: Float[Tensor, " width"] | None


def module_of(model: MultimodalModel, layer: int, name: str) -> nn.Module:
    """A module of a decoder layer.

    Raises:
        CrossflowError: the layer has no module of this kind.
    """
    module = getattr(model.layers[layer], _NAMES[name], None)
    if not isinstance(module, nn.Module):
        raise CrossflowError(
            f"{model.settings.path}: decoder layers have no module {_NAMES[name]}: use no {name}: flow."
        )
    return module


@contextmanager
def replaced(model: MultimodalModel, replacements: Mapping[tuple[int, str], Sequence[Replacement]]) -> Iterator[None]:
    """The model with outputs replaced.

    Args:
        model: The model.
        replacements: Layer and module -> what replaces its output.

    Raises:
        CrossflowError: a layer has no module of this kind.
    """

    def hook(found: Sequence[Replacement]) -> Any:
        def replace(module: nn.Module, given: Any, output: Any) -> Any:
            hidden = output[0] if isinstance(output, tuple) else output
            for places, value in found:
                if value is None:
                    hidden = hidden.index_fill(1, places, 0)
                else:
                    hidden = hidden.index_copy(1, places, value.to(hidden).expand(1, len(places), -1))
            return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

        return replace

    with ExitStack() as stack:
        for (layer, name), found in replacements.items():
            handle = module_of(model, layer, name).register_forward_hook(hook(found))
            stack.callback(handle.remove)
        yield
