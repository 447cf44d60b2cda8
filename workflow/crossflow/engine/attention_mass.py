"""The attention that a knockout removes: the share of the clean run's attention on the blocked edges."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crossflow.engine.edges import Edges, blocked
from crossflow.engine.forward import CleanRun


def attention_mass(clean: CleanRun, flows: Sequence[Sequence[Edges]]) -> Float[Tensor, "flows layers"]:
    """The share of the targets' attention, 0..1, that goes to blocked sources in each layer of the clean run.

    The softmax weights are summed over a target's blocked sources, then averaged over heads and over the targets with
    blocked sources.

    Args:
        clean: Recorded from the first target of all flows on.
        flows: What each flow blocks; none is empty.
    """
    pairs = np.stack([blocked(edges, clean.first, clean.prepared.length) for edges in flows])
    with torch.inference_mode():
        device = clean.reading.logits.device
        reached = torch.from_numpy(pairs).to(device)
        # Most layers request the same mask.
        hidden = {
            id(record.visible): torch.from_numpy(~record.visible).to(device)
            for record in {id(record.visible): record for record in clean.layers}.values()
        }
        targets = reached.any(-1).sum(-1).clamp(min=1)
        shares = []
        for record in clean.layers:
            query, key = record.query[0].float(), record.key[0].float()
            heads, suffix, width = query.shape
            # Grouped heads are consecutive: the query heads of one key head are adjacent.
            scores = query.reshape(len(key), -1, width) @ key.transpose(1, 2) * record.scaling
            scores = scores.reshape(heads, suffix, -1).masked_fill(hidden[id(record.visible)], -torch.inf)
            weights = torch.softmax(scores, dim=-1).mean(dim=0)
            shares.append(torch.einsum("fsp,sp->f", reached.float(), weights) / targets)
        return torch.stack(shares, dim=1).double()
