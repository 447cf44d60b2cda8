"""The attention of the clean run, and its share on the edges that a knockout blocks.

One layer's weights exist at a time: those of all layers and heads would take gigabytes.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.engine.edges import Edges, Indices, blocked
from crossflow.engine.forward import CleanRun
from crossflow.engine.modules import Silenced


def attention_weights(clean: CleanRun) -> Iterator[Float[Tensor, "heads suffix positions"]]:
    """The softmax weights of the clean run in each decoder layer, in fp32, from its first recorded position on."""
    device = clean.reading.logits.device
    # Most layers request the same mask.
    hidden = {
        id(record.visible): torch.from_numpy(~record.visible).to(device)
        for record in {id(record.visible): record for record in clean.layers}.values()
    }
    for record in clean.layers:
        query, key = record.query[0].float(), record.key[0].float()
        heads, suffix, width = query.shape
        # Grouped heads are consecutive: the query heads of one key head are adjacent.
        scores = query.reshape(len(key), -1, width) @ key.transpose(1, 2) * record.scaling
        scores = scores.reshape(heads, suffix, -1).masked_fill(hidden[id(record.visible)], -torch.inf)
        yield torch.softmax(scores, dim=-1)


def mean_weights(clean: CleanRun, targets: Indices) -> Float[Tensor, "layers heads positions"]:
    """The targets' attention on every position, 0..1, averaged over the targets.

    Args:
        clean: Recorded from the first target on.
        targets: Positions; not empty.
    """
    with torch.inference_mode():
        rows = torch.from_numpy(targets - clean.first).to(clean.reading.logits.device)
        return torch.stack([weights[:, rows].mean(dim=1) for weights in attention_weights(clean)])


def head_mass(clean: CleanRun, flows: Sequence[Sequence[Edges | Silenced]]) -> Float[Tensor, "flows layers heads"]:
    """The share of the targets' attention, 0..1, that goes to blocked sources in each layer and head of the clean run.

    The softmax weights are summed over a target's blocked sources, then averaged over the targets with blocked sources.

    Args:
        clean: Recorded from the first target of all flows on.
        flows: What each flow blocks; none is empty.
    """
    pairs = np.stack([blocked(edges, clean.first, clean.prepared.length) for edges in flows])
    with torch.inference_mode():
        reached = torch.from_numpy(pairs).to(clean.reading.logits.device)
        targets = reached.any(-1).sum(-1).clamp(min=1)
        shares = [
            torch.einsum("fsp,hsp->fh", reached.float(), weights) / targets[:, None]
            for weights in attention_weights(clean)
        ]
        return torch.stack(shares, dim=1).double()


def attention_mass(clean: CleanRun, flows: Sequence[Sequence[Edges | Silenced]]) -> Float[Tensor, "flows layers"]:
    """As `head_mass`, averaged over heads."""
    return head_mass(clean, flows).mean(dim=-1)
