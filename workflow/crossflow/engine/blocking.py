"""The attention of a full forward in which edges are blocked: the definition of a knockout.

`crossflow.engine.reference` and the answer with the image removed use it.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from crossflow.core.errors import CrossflowError
from crossflow.core.flows import Window
from crossflow.engine.donors import Donor
from crossflow.engine.edges import Edges, Row
from crossflow.engine.modules import Silenced
from crossflow.models.attention import Call, Plain, attend
from crossflow.models.model import Prepared


class Blocking:
    """A full forward in which targets may not attend to sources, in the layers of a window.

    Attributes:
        edges: The blocked edges.
        window: The layers in which they are blocked; None = every layer.
        heads: The query heads in which they are blocked, as pairs of a layer and a head; None = all.
        donors: Name -> whose keys and values targets read instead, as the edges say.
    """

    def __init__(
        self,
        edges: Iterable[Edges | Silenced],
        window: Window | None = None,
        heads: Sequence[tuple[int, int]] | None = None,
        donors: Mapping[str, Donor] | None = None,
    ) -> None:
        self.edges = tuple(pair for pair in edges if isinstance(pair, Edges) and len(pair.sources))
        self.window = window
        self.heads = heads
        self.donors = donors or {}

    @classmethod
    def of(cls, row: Row, donors: Mapping[str, Donor]) -> "Blocking":
        """The forward of a row."""
        return cls(row.edges, row.window, row.heads, donors)

    def attend(self, call: Call) -> Tensor:
        if not self.edges or (self.window is not None and call.layer not in self.window):
            return Plain().attend(call)
        own = call.visible()
        visible = own.clone()
        read = {name: torch.zeros_like(own) for _, _, name in self.edges if name}
        for sources, targets, name in self.edges:
            pairs = torch.from_numpy(targets)[:, None], torch.from_numpy(sources)
            visible[pairs] = False
            if name:
                read[name][pairs] = own[pairs]
        keys, values, seen = [call.key], [call.value], [visible]
        for source, pairs_read in read.items():
            # The donor's keys stand beside the prompt's, each visible where the key that it replaces would be.
            donor = self.donors[source]
            key, value = donor.layers[call.layer]
            keys.append(key[None])
            values.append(value[None])
            seen.append(pairs_read[:, donor.first : donor.stop])
        visible = torch.cat(seen, dim=1)
        if not bool(visible.any(-1).all()):
            raise no_key_left()
        key, value = torch.cat(keys, dim=2), torch.cat(values, dim=2)
        knocked_out = attend(call.query, key, value, visible[None], call.scaling)
        if self.heads is None:
            return knocked_out
        mixed = Plain().attend(call).clone()
        heads = [head for layer, head in self.heads if layer == call.layer]
        mixed[:, heads] = knocked_out[:, heads]
        return mixed


def no_key_left() -> CrossflowError:
    """The error of a knockout that leaves a position without a key: the softmax over no key is undefined."""
    return CrossflowError(
        "A knockout leaves a position with no key to attend to; choose a flow whose source leaves its target one."
    )


def image_removed(prepared: Prepared) -> Blocking:
    """Hide the visual tokens from every other position, in every layer; positions stay as they are."""
    image = prepared.positions["image"]
    return Blocking([Edges(image, np.setdiff1d(np.arange(prepared.length), image))])
