"""The exact fast engine: every knockout of a question from one clean run.

Under causal attention a knockout with target positions T, in layers from s on, can not change a position before
min(T) nor a layer before s. So rows with the same min(T) run together as one batch of *suffixes*, the positions
min(T) .. N-1:

- a row joins the batch at the first layer of its window, with the clean residual stream entering that layer;
- keys and values of the positions before min(T) are the clean run's, shared by all rows and never copied;
- in the layers of its window a row's edges are removed from the mask that the model itself asked for.

The layers are the model's own: each is called again with the arguments of the clean run, cut to the suffix.
"""

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from crossflow.attention import Call, attend, using
from crossflow.edges import Row, blocked
from crossflow.errors import CrossflowError
from crossflow.forward import CleanRun, LayerRecord, Reading, read, require_legal_keys
from crossflow.memory import capacity
from crossflow.models import MultimodalModel

log = logging.getLogger(__name__)

_NOT_FOR_SUFFIXES = {"attention_mask", "past_key_values", "use_cache"}


class _Suffixes:
    """Attend from a batch of suffixes to the clean prefix and to themselves, each row under its own mask.

    Attributes:
        illegal: A 0-d boolean tensor: did a row leave a position with no key? It stays on the device until the last
            layer, so that no layer waits for it.
    """

    def __init__(self, clean: CleanRun, rows: Sequence[Row], start: int, device: torch.device) -> None:
        self.clean = clean
        self.rows = rows
        self.start = start
        # One mask per flow: the rows of a flow differ in their windows only.
        flows = {row.flow: row for row in rows}
        self.numbers = {flow: number for number, flow in enumerate(flows)}
        pairs = np.stack([blocked(row.edges, start, clean.prepared.length) for row in flows.values()])
        self.allowed = ~torch.from_numpy(pairs).to(device)
        self.illegal = torch.zeros((), dtype=torch.bool, device=device)

    def attend(self, call: Call) -> Tensor:
        record = self.clean.layers[call.layer]
        prefix = (record.key[:, :, : self.start], record.value[:, :, : self.start])
        visible = self._visible(record, call.layer, len(call.query))
        return attend(call.query, call.key, call.value, visible, call.scaling, prefix)

    def _visible(self, record: LayerRecord, layer: int, joined: int) -> Bool[Tensor, "rows suffix positions"]:
        """The model's own mask, without the edges of the rows whose window holds this layer."""
        visible = record.visible[self.start - self.clean.first :]
        acting = [number for number in range(joined) if layer in self.rows[number].window]
        if not acting:
            return visible[None]
        masked = visible & self.allowed[[self.numbers[self.rows[number].flow] for number in acting]]
        self.illegal |= ~masked.any(-1).all()
        visible = visible.repeat(joined, 1, 1)
        visible[acting] = masked
        return visible


def _cut(arguments: dict[str, Any], start: int) -> dict[str, Any]:
    """A layer's arguments for the positions from ``start`` on.

    Raises:
        CrossflowError: the layer takes a tensor that this engine does not know how to cut.
    """
    cut: dict[str, Any] = {}
    for name, value in arguments.items():
        if name in _NOT_FOR_SUFFIXES:
            continue
        if name == "position_embeddings":
            cut[name] = tuple(part[..., start:, :] for part in value)
        elif name in {"position_ids", "cache_position"} and value is not None:
            cut[name] = value[..., start:]
        elif isinstance(value, Tensor):
            raise CrossflowError(f"The decoder layer's argument {name!r} is not known to the knockout engine.")
        else:
            cut[name] = value
    return cut


def _run_suffixes(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row], start: int) -> Reading:
    """Run rows, sorted by the first layer of their windows, as suffixes from position ``start`` on."""
    suffixes = _Suffixes(clean, rows, start, model.device)
    hidden: Tensor | None = None
    joined = 0
    with using(suffixes):
        for index, (layer, record) in enumerate(zip(model.layers, clean.layers, strict=True)):
            joining = sum(row.window.first == index for row in rows[joined:])
            if joining:
                fresh = record.hidden[:, start - clean.first :].expand(joining, -1, -1)
                hidden = fresh if hidden is None else torch.cat([hidden, fresh])
                joined += joining
            if hidden is not None:
                output = layer(hidden, **_cut(record.arguments, start))
                hidden = output[0] if isinstance(output, tuple) else output
    if hidden is None or joined < len(rows):
        raise CrossflowError("A knockout's window lies outside the model's layers.")
    require_legal_keys(~suffixes.illegal)
    end = hidden[:, clean.prepared.positions.length - 1 - start :]
    return read(model, model.norm(end), clean.prepared.answer)


def run_knockouts(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Reading:
    """What is read off every row, in the order of ``rows``.

    Batches are as large as the device's memory is planned to hold. One that does not fit after all is halved; results
    do not depend on it beyond rounding.

    Raises:
        CrossflowError: a row leaves a position with no key to attend to, a target lies before the recorded part, the
            model's attention is not causal before the targets, the model changes the targets between its layers, or
            a single row does not fit into memory.
    """
    if bool(torch.stack([record.reads_ahead for record in clean.layers]).any()):
        raise CrossflowError(
            f"{clean.prepared.question.question_id}: positions before the targets attend to later ones, so a prefix "
            "can not be shared; use engine: reference for this model."
        )
    if bool(torch.stack([record.followed for record in clean.layers]).any()):
        raise CrossflowError(
            f"{clean.prepared.question.question_id}: the model adds to the residual stream of the targets between its "
            "layers, which only engine: reference does too; choose targets after the picture, or that engine."
        )
    results: dict[int, tuple[Tensor, Tensor]] = {}
    by_start: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_start.setdefault(row.start, []).append(number)
    with torch.inference_mode():
        for start, numbers in by_start.items():
            if start < clean.first:
                raise CrossflowError(f"A knockout changes position {start}, recorded are those from {clean.first} on.")
            numbers.sort(key=lambda number: rows[number].window.first)
            most = len(numbers)
            if model.sizes is not None:
                length = clean.prepared.length
                most = model.sizes.most_rows(capacity(model.device), length, clean.first, start, len(rows))
            pending = [numbers[first : first + most] for first in range(0, len(numbers), most)]
            while pending:
                batch = pending.pop(0)
                try:
                    reading = _run_suffixes(model, clean, [rows[number] for number in batch], start)
                except torch.OutOfMemoryError as error:
                    if len(batch) == 1:
                        raise CrossflowError(
                            f"{clean.prepared.question.question_id}: one knockout does not fit into the memory of "
                            f"{model.device}."
                        ) from error
                    log.warning("%d rows do not fit into memory: halved", len(batch))
                    torch.cuda.empty_cache()
                    half = len(batch) // 2
                    pending[:0] = [batch[:half], batch[half:]]
                    continue
                results.update(zip(batch, zip(*reading, strict=True), strict=True))
    ordered = [results[number] for number in range(len(rows))]
    return Reading(*(torch.stack(part) for part in zip(*ordered, strict=True)))
