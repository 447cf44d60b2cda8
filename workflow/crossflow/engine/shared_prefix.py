"""The exact fast engine: every knockout of a question from one clean run.

Under causal attention, a knockout with target positions T in layers from s on changes no position before min(T) and no
layer before s. So a knockout runs as a *suffix*, the positions min(T) .. N-1, and the suffixes of many knockouts, also
of several questions, are concatenated into one sequence:

- a suffix joins the sequence at the first layer of its window, with the clean residual stream entering that layer;
- keys and values of the positions before min(T) are the clean run's, shared by all knockouts and never copied;
- in the layers of its window, a knockout's edges are removed from the mask that the model itself requested.

A module knockout is a suffix without blocked edges, some of which is replaced as it leaves the module. A patch is a
suffix that joins at its layer with the other run's residual stream at some positions.

The layers are the model's own, called for the packed suffixes (`crossflow.engine.packed`).
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from crossflow.core.errors import CrossflowError
from crossflow.engine.edges import Row
from crossflow.engine.forward import CleanRun, Readout, read
from crossflow.engine.modules import Replacement, replaced
from crossflow.engine.packed import Packing, run_packed
from crossflow.engine.shared_prefix_attention import merged
from crossflow.engine.suffix_group import SuffixGroup
from crossflow.models.attention import Call
from crossflow.models.memory import batches, capacity, enough_positions, halving
from crossflow.models.model import MultimodalModel


class Knockout(NamedTuple):
    """One row of one question, with the question's clean run."""

    clean: CleanRun
    row: Row


class _Sequence:
    """All suffixes that have joined, packed."""

    def __init__(self, model: MultimodalModel, groups: Sequence[SuffixGroup], packing: Packing) -> None:
        self.groups = groups
        # After the last layer, patches of what leaves it join.
        layers = range(len(model.layers) + 1)
        self._spans = [[group.tokens(layer) for group in groups] for layer in layers]
        # All places and variants in one copy to the device.
        places = [
            np.concatenate(
                [
                    np.tile(
                        packing.places(group.number, group.start, group.clean.prepared.length),
                        group.tokens(layer) // group.suffix,
                    )
                    for group in groups
                ]
            )
            for layer in layers
        ]
        variants = [[group.acting(layer) for group in groups] for layer in layers]
        self._places = _on(places, model.device)
        flat = _on([part for parts in variants for part in parts], model.device)
        self._variants = [flat[layer * len(groups) : (layer + 1) * len(groups)] for layer in layers]

    def _split(self, hidden: Tensor, layer: int) -> list[Tensor]:
        return list(torch.split(hidden, self._spans[layer], dim=1))

    def enter(self, layer: int, hidden: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """The sequence entering a layer, with the knockouts whose windows begin there, and its places."""
        if not len(self._places[layer]):
            return None, None
        if hidden is None or hidden.shape[1] < len(self._places[layer]):
            before = [None] * len(self.groups) if hidden is None else self._split(hidden, layer - 1)
            pieces = [
                piece for group, part in zip(self.groups, before, strict=True) for piece in group.join(layer, part)
            ]
            hidden = torch.cat(pieces, dim=1)
        elif layer and len(self._places[layer]) == len(self._places[layer - 1]):
            # The same object for all layers in which nothing joins.
            self._places[layer] = self._places[layer - 1]
        return hidden, self._places[layer]

    def replacements(self, device: torch.device) -> dict[tuple[int, str], list[Replacement]]:
        """What knockouts of modules replace, by layer and module."""
        silenced = [
            (layer, module, start + places, value)
            for layer, spans in enumerate(self._spans[:-1])
            for group, start in zip(self.groups, np.cumsum([0, *spans]).tolist(), strict=False)
            for module, places, value in group.silenced(layer)
        ]
        found: dict[tuple[int, str], list[Replacement]] = {}
        there = _on([places for _, _, places, _ in silenced], device)
        for (layer, module, _, value), places in zip(silenced, there, strict=True):
            found.setdefault((layer, module), []).append(Replacement(places, value))
        return found

    def attend(self, call: Call) -> Tensor:
        """Attend group by group."""
        parts = [self._split(part[0], call.layer) for part in (call.query, call.key, call.value)]
        mixed = [
            piece
            for group, acting, query, key, value in zip(self.groups, self._variants[call.layer], *parts, strict=True)
            for piece in group.attend(query, key, value, call.layer, acting, call.scaling)
        ]
        return merged(mixed)[None]


def _on(parts: Sequence[np.ndarray], device: torch.device) -> list[Tensor]:
    """Arrays of integers on a device, by one copy."""
    whole = torch.from_numpy(np.concatenate(parts).astype(np.int64)).to(device)
    return list(torch.split(whole, [len(part) for part in parts]))


def _run_suffixes(model: MultimodalModel, batch: Sequence[Knockout]) -> list[tuple[Tensor, Tensor]]:
    """Run knockouts together; returns the parts of a `Readout` for each, in the order of ``batch``."""
    if any(row.window.first >= len(model.layers) + (row.patch is not None) for _, row in batch):
        raise CrossflowError("A knockout's window lies outside the model's layers.")
    cleans = {id(clean): clean for clean, _ in batch}
    members: dict[tuple[Any, ...], list[int]] = {}
    for number, (clean, row) in enumerate(batch):
        # Rows that read donors, or act in some heads only, have their own groups: all others pay nothing for them.
        members.setdefault((id(clean), row.start, row.donors, row.heads is None), []).append(number)
    for numbers in members.values():
        numbers.sort(key=lambda number: batch[number].row.window.last)
    number_of = {name: number for number, name in enumerate(cleans)}
    groups = [
        SuffixGroup(number_of[name], cleans[name], [batch[number].row for number in numbers])
        for (name, *_), numbers in members.items()
    ]
    packing = Packing([clean.feed for clean in cleans.values()])
    sequence = _Sequence(model, groups, packing)
    silencing = any(row.silenced for _, row in batch)
    with replaced(model, sequence.replacements(model.device) if silencing else {}):
        hidden = run_packed(model, packing, sequence, sequence.enter)
    hidden, _ = sequence.enter(len(model.layers), hidden)
    assert hidden is not None
    readings: list[Any] = [None] * len(batch)
    spans = [len(group.rows) * group.suffix for group in groups]
    for group, numbers, states in zip(groups, members.values(), torch.split(hidden, spans, dim=1), strict=True):
        prepared = group.clean.prepared
        end = states.view(len(group.rows), group.suffix, -1)[:, prepared.positions.length - 1 - group.start :]
        reading = read(model, model.norm(end), prepared.answer)
        for number, parts in zip(numbers, zip(*reading, strict=True), strict=True):
            readings[number] = parts
    return readings


def _require_shared_prefix(clean: CleanRun, rows: Sequence[Row]) -> None:
    """Refuse rows that cannot be computed from one clean run."""
    question = clean.prepared.question.question_id
    if any(record.reads_ahead for record in clean.layers):
        raise CrossflowError(
            f"{question}: positions before the targets attend to later ones, so a prefix cannot be shared; use "
            "engine: reference for this model."
        )
    start = min(row.start for row in rows)
    if start < clean.first:
        raise CrossflowError(f"A knockout changes position {start}, recorded are those from {clean.first} on.")


def _batches(model: MultimodalModel, knockouts: Sequence[Knockout], cleans: Sequence[CleanRun]) -> list[range]:
    """Split knockouts into batches, as large as useful and as the device's memory plan allows."""
    spans = [(clean.prepared.length, row.start) for clean, row in knockouts]
    most = 2 * enough_positions(model.device)
    sizes = model.sizes
    kept = sum(sizes.record(clean.prepared.length, clean.first) for clean in cleans) + sizes.measures(len(knockouts))
    # A donor holds as much as the record of a last position.
    kept += sum(
        len(clean.donors.keys() & {name for _, row in knockouts for name in row.donors})
        * sizes.record(clean.prepared.length, clean.prepared.length - 1)
        for clean in cleans
    )
    # At most one group per flow; beside a donor, its masks and prefix are up to twice as long.
    flows = {(id(clean), row.start, row.flow): (clean.prepared.length, 1 + len(row.donors)) for clean, row in knockouts}
    kept += sum(times * sizes.group(length, start) for (_, start, _), (length, times) in flows.items())
    room = capacity(model.device) - sizes.weights - kept - sizes.batch([])
    return batches([(sizes.row(*span), span[0] - span[1]) for span in spans], room, most)


def run_together(model: MultimodalModel, work: Sequence[tuple[CleanRun, Sequence[Row]]]) -> list[Readout]:
    """The readouts of the knockouts of several questions, each in the order of its rows.

    Batches are as large as the device's memory plan allows. A batch that runs out of memory is halved; results do not
    depend on that beyond rounding.

    Raises:
        CrossflowError: a row leaves a position without a key, a target lies before the recorded part, the model's
            attention is not causal before the targets, or a single row does not fit into memory.
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
