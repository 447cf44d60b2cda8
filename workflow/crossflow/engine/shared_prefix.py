"""The exact fast engine: every knockout of a question from one clean run.

Under causal attention, a knockout with target positions T in layers from s on changes no position before min(T) and no
layer before s. So a knockout runs as a *suffix*, the positions min(T) .. N-1, and the suffixes of many knockouts, also
of several questions, are concatenated into one sequence:

- a suffix joins the sequence at the first layer of its window, with the clean residual stream entering that layer;
- keys and values of the positions before min(T) are the clean run's, shared by all knockouts and never copied;
- in the layers of its window, a knockout's edges are removed from the mask that the model itself requested.

The layers are the model's own: each is called again with the arguments of the clean run, cut to the suffixes. They
treat all positions alike, except in attention, which knows where each suffix begins.
"""

from bisect import bisect_left
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossflow.core.errors import CrossflowError
from crossflow.engine.edges import Row, blocked
from crossflow.engine.forward import CleanRun, LayerRecord, Readout, read, require_legal_keys
from crossflow.engine.shared_prefix_attention import Masks, attend_split, masks_of
from crossflow.models.attention import Call, using
from crossflow.models.memory import batches, capacity, enough_positions, halving
from crossflow.models.model import CACHE_ARGUMENTS, MultimodalModel

_NOT_FOR_SUFFIXES = {"attention_mask", "use_cache", *CACHE_ARGUMENTS}


class Knockout(NamedTuple):
    """One row of one question, with the question's clean run."""

    clean: CleanRun
    row: Row


class _Group:
    """Knockouts of one question with the same first changed position; they join in the order of their windows.

    Attributes:
        clean: The question.
        start: The first position of the suffixes.
        suffix: Their length.
        joined: How many have joined so far.
        illegal: 0-d boolean tensor: whether a knockout leaves a position without a key. It stays on the device until
            the last layer, so that no layer waits for it.
    """

    def __init__(self, clean: CleanRun, rows: Sequence[Row]) -> None:
        self.clean = clean
        self.start = rows[0].start
        self.suffix = clean.prepared.length - self.start
        self.joined = 0
        self._firsts = [row.window.first for row in rows]
        device = clean.reading.logits.device
        self.illegal = torch.zeros((), dtype=torch.bool, device=device)
        # One mask per flow: its knockouts differ only in their windows. Variant 0 blocks nothing.
        flows = {row.flow: row for row in rows}
        pairs = np.stack([blocked(row.edges, self.start, clean.prepared.length) for row in flows.values()])
        self._allowed = ~torch.from_numpy(np.concatenate([np.zeros_like(pairs[:1]), pairs])).to(device)
        number = {flow: place for place, flow in enumerate(flows, start=1)}
        layers = range(len(clean.layers))
        variants = np.array([[number[row.flow] if layer in row.window else 0 for row in rows] for layer in layers])
        self._acts = [bool(variants[layer, : self._before(layer + 1)].any()) for layer in layers]
        self._variants = torch.from_numpy(variants).to(device)
        self._masks: dict[int, Masks] = {}

    @property
    def tokens(self) -> int:
        """Number of positions of this group in the sequence."""
        return self.joined * self.suffix

    def _before(self, layer: int) -> int:
        return bisect_left(self._firsts, layer)

    def join(self, layer: int) -> Tensor | None:
        """The clean residual streams of the knockouts whose windows begin at a layer, ``(1, tokens, width)``."""
        joining = self._before(layer + 1) - self.joined
        self.joined += joining
        if not joining:
            return None
        fresh = self.clean.layers[layer].hidden[:, self.start - self.clean.first :]
        return fresh.repeat(1, joining, 1)

    def _masks_of(self, record: LayerRecord) -> Masks:
        """The masks, shared by all layers that request the same one."""
        if id(record.visible) not in self._masks:
            visible = record.visible[self.start - self.clean.first :] & self._allowed
            self._masks[id(record.visible)] = masks_of(visible, self.start, record.key.dtype, record.is_causal)
        return self._masks[id(record.visible)]

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float) -> Tensor:
        """Attend to the clean prefix and each suffix to itself; ``(heads, tokens, width)`` as the queries."""
        record = self.clean.layers[layer]
        masks = self._masks_of(record)
        variants = self._variants[layer, : self.joined] if self._acts[layer] else None
        if variants is not None:
            self.illegal |= masks.illegal[variants].any()
        shared = record.key[0, :, : self.start], record.value[0, :, : self.start]
        return attend_split(query, key, value, *shared, masks, variants, scaling)


class _Sequence:
    """All suffixes that have joined, concatenated."""

    def __init__(self, groups: Sequence[_Group]) -> None:
        self.groups = groups

    def attend(self, call: Call) -> Tensor:
        """Attend group by group."""
        spans = [group.tokens for group in self.groups]
        parts = [torch.split(part[0], spans, dim=1) for part in (call.query, call.key, call.value)]
        mixed = [
            group.attend(query, key, value, call.layer, call.scaling)
            for group, query, key, value in zip(self.groups, *parts, strict=True)
            if group.joined
        ]
        return torch.cat(mixed, dim=1)[None]

    def join(self, hidden: Tensor | None, layer: int) -> Tensor | None:
        """The residual streams entering a layer, with those of the knockouts that join there."""
        spans = [group.tokens for group in self.groups]
        before = [None] * len(spans) if hidden is None else torch.split(hidden, spans, dim=1)
        fresh = [group.join(layer) for group in self.groups]
        if all(part is None for part in fresh):
            return hidden
        return torch.cat([part for pair in zip(before, fresh, strict=True) for part in pair if part is not None], dim=1)

    def arguments(self, layer: int) -> dict[str, Any]:
        """A layer's arguments from the clean runs, cut to the positions of the suffixes.

        Raises:
            CrossflowError: the layer takes a tensor that this engine can not cut.
        """
        groups = [group for group in self.groups if group.joined]
        given = [group.clean.layers[layer].arguments for group in groups]

        def beside(values: Sequence[Tensor], dim: int) -> Tensor:
            parts = []
            for group, value in zip(groups, values, strict=True):
                cut = value.narrow(dim, group.start, group.suffix)
                copies = [1] * cut.ndim
                copies[dim] = group.joined
                parts.append(cut.repeat(copies))
            return torch.cat(parts, dim=dim)

        cut: dict[str, Any] = {}
        for name, value in given[0].items():
            if name in _NOT_FOR_SUFFIXES:
                continue
            if name == "position_embeddings":
                cut[name] = tuple(beside(parts, -2) for parts in zip(*(each[name] for each in given), strict=True))
            elif name in {"position_ids", "cache_position"} and value is not None:
                cut[name] = beside([each[name] for each in given], -1)
            elif isinstance(value, Tensor):
                raise CrossflowError(f"The decoder layer's argument {name!r} is not known to the knockout engine.")
            else:
                cut[name] = value
        return cut


def _run_suffixes(model: MultimodalModel, batch: Sequence[Knockout]) -> list[tuple[Tensor, Tensor]]:
    """Run knockouts together; returns the parts of a `Readout` for each, in the order of ``batch``."""
    numbers: dict[tuple[int, int], list[int]] = {}
    for number, (clean, row) in enumerate(batch):
        numbers.setdefault((id(clean), row.start), []).append(number)
    members = [sorted(group, key=lambda number: batch[number].row.window.first) for group in numbers.values()]
    groups = [_Group(batch[group[0]].clean, [batch[number].row for number in group]) for group in members]
    sequence = _Sequence(groups)
    hidden: Tensor | None = None
    with using(sequence):
        for index, layer in enumerate(model.layers):
            hidden = sequence.join(hidden, index)
            if hidden is not None:
                output = layer(hidden, **sequence.arguments(index))
                hidden = output[0] if isinstance(output, tuple) else output
    if hidden is None or sum(group.joined for group in groups) < len(batch):
        raise CrossflowError("A knockout's window lies outside the model's layers.")
    require_legal_keys(~torch.stack([group.illegal for group in groups]))
    readings: list[Any] = [None] * len(batch)
    for group, members_of, states in zip(
        groups, members, torch.split(hidden, [group.tokens for group in groups], dim=1), strict=True
    ):
        prepared = group.clean.prepared
        end = states.view(group.joined, group.suffix, -1)[:, prepared.positions.length - 1 - group.start :]
        reading = read(model, model.norm(end), prepared.answer)
        for number, parts in zip(members_of, zip(*reading, strict=True), strict=True):
            readings[number] = parts
    return readings


def _require_shared_prefix(clean: CleanRun, rows: Sequence[Row]) -> None:
    """Refuse rows that can not be computed from one clean run."""
    question = clean.prepared.question.question_id
    if bool(torch.stack([record.reads_ahead for record in clean.layers]).any()):
        raise CrossflowError(
            f"{question}: positions before the targets attend to later ones, so a prefix can not be shared; use "
            "engine: reference for this model."
        )
    if bool(torch.stack([record.followed for record in clean.layers]).any()):
        raise CrossflowError(
            f"{question}: the model adds to the residual stream of the targets between its layers, which only "
            "engine: reference does too; choose targets after the image, or that engine."
        )
    start = min(row.start for row in rows)
    if start < clean.first:
        raise CrossflowError(f"A knockout changes position {start}, recorded are those from {clean.first} on.")


def _batches(model: MultimodalModel, knockouts: Sequence[Knockout], cleans: Sequence[CleanRun]) -> list[range]:
    """Split knockouts into batches, as large as useful and as the device's memory plan allows."""
    spans = [(clean.prepared.length, row.start) for clean, row in knockouts]
    most = 2 * enough_positions(model.device)
    if model.sizes is None:
        return batches([(0, length - start) for length, start in spans], 0, most)
    sizes = model.sizes
    kept = sum(sizes.record(clean.prepared.length, clean.first) for clean in cleans) + sizes.measures(len(knockouts))
    # At most one group per flow.
    flows = {(id(clean), row.start, row.flow): clean.prepared.length for clean, row in knockouts}
    kept += sum(sizes.group(length, start) for (_, start, _), length in flows.items())
    room = capacity(model.device) - sizes.weights - kept - sizes.batch([])
    return batches([(sizes.row(*span), span[0] - span[1]) for span in spans], room, most)


def run_together(model: MultimodalModel, work: Sequence[tuple[CleanRun, Sequence[Row]]]) -> list[Readout]:
    """The readouts of the knockouts of several questions, each in the order of its rows.

    Batches are as large as the device's memory plan allows. A batch that runs out of memory is halved; results do not
    depend on that beyond rounding.

    Raises:
        CrossflowError: a row leaves a position without a key, a target lies before the recorded part, the model's
            attention is not causal before the targets, the model changes the targets between its layers, or a single
            row does not fit into memory.
        torch.OutOfMemoryError: a single row does not fit beside the records of several questions.
    """
    for clean, rows in work:
        _require_shared_prefix(clean, rows)
    knockouts = [Knockout(clean, row) for clean, rows in work for row in rows]
    readings: list[tuple[Tensor, Tensor]] = []
    try:
        with torch.inference_mode():
            for batch in _batches(model, knockouts, [clean for clean, _ in work]):
                readings += halving(knockouts[batch.start : batch.stop], partial(_run_suffixes, model), "knockouts")
    except torch.OutOfMemoryError as error:
        if len(work) > 1:
            raise
        question = work[0][0].prepared.question.question_id
        raise CrossflowError(f"{question}: one knockout does not fit into the memory of {model.device}.") from error
    places = np.cumsum([0, *(len(rows) for _, rows in work)])
    return [
        Readout(*(torch.stack(part) for part in zip(*readings[slice(*span)], strict=True))) for span in pairwise(places)
    ]


def run_knockouts(model: MultimodalModel, clean: CleanRun, rows: Sequence[Row]) -> Readout:
    """The readout of every row of one question, in the order of ``rows``; see `run_together`."""
    (reading,) = run_together(model, [(clean, rows)])
    return reading
