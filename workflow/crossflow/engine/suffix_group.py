"""Suffixes of one question that run side by side: what each of them sees in every layer.

A knockout that *acts* in a layer, because the layer is in its window, attends by the model's own mask without the
blocked edges. If it substitutes, the keys and values of a donor lie beside the prefix, and it sees those that replace
its blocked ones. If it acts in some heads only, it attends in both ways, and each head takes its own: within a layer,
heads do not depend on one another. A knockout that *rests* attends by the model's own mask.
"""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crossflow.engine.blocking import no_key_left
from crossflow.engine.edges import Row, blocked
from crossflow.engine.forward import CleanRun
from crossflow.engine.patches import Patch
from crossflow.engine.shared_prefix_attention import Masks, Partial, attend_split, by_head, masks_of


class _Borrowed:
    """The keys that some knockouts read of donors: which, and which row of a mask sees them.

    Args:
        clean: The question.
        rows: One row of each flow; all read the same donors.
    """

    def __init__(self, clean: CleanRun, rows: Sequence[Row]) -> None:
        self._parts: list[tuple[str, np.ndarray]] = []
        for name in rows[0].donors:
            read = [edges.sources for row in rows for edges in row.edges if edges.donor == name]
            self._parts.append((name, np.unique(np.concatenate(read))))
        self._donors = clean.donors
        self.positions = np.concatenate([np.arange(0), *(positions for _, positions in self._parts)])
        device = clean.layers[0].key.device
        self._places = [torch.from_numpy(positions).to(device) for _, positions in self._parts]

    def __len__(self) -> int:
        return len(self.positions)

    def read(self, row: Row, start: int, length: int) -> Bool[np.ndarray, "targets keys"]:
        """Which of these keys a row reads, targets from ``start`` on."""
        parts = [
            blocked([edges for edges in row.edges if edges.donor == name], start, length)[:, positions]
            for name, positions in self._parts
        ]
        return np.concatenate([np.zeros((length - start, 0), dtype=bool), *parts], axis=1)

    def beside(self, layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of a prefix, followed by the donors'."""
        read = [
            self._donors[name].at(layer, places) for (name, _), places in zip(self._parts, self._places, strict=True)
        ]
        return torch.cat([key, *(each.key for each in read)], 1), torch.cat([value, *(each.value for each in read)], 1)


class SuffixGroup:
    """Knockouts of one question with the same first changed position.

    Those that have joined lie in the order of the last layers of their windows: in every layer the *resting* ones,
    whose windows have ended, come first, and attend by the model's own mask.

    Attributes:
        number: The question's number in the packing.
        clean: The question.
        rows: The knockouts, in the order of the last layers of their windows.
        start: The first position of the suffixes.
        suffix: Their length.

    Raises:
        CrossflowError: a knockout leaves a position without a key.
    """

    def __init__(self, number: int, clean: CleanRun, rows: Sequence[Row]) -> None:
        self.number = number
        self.clean = clean
        self.rows = rows
        self.start = rows[0].start
        self.suffix = clean.prepared.length - self.start
        self._firsts = np.array([row.window.first for row in rows])
        self._lasts = np.array([row.window.last for row in rows])
        length, device = clean.prepared.length, clean.layers[0].key.device
        # One mask per flow: its knockouts differ only in their windows and heads. Variant 0 blocks nothing.
        flows = {row.flow: row for row in rows}
        number_of = {flow: place for place, flow in enumerate(flows, start=1)}
        self._variant = np.array([number_of[row.flow] for row in rows])
        self._heads: Bool[Tensor, "layers rows heads"] | None = None
        if rows[0].heads is not None:
            in_head = np.zeros((len(clean.layers), len(rows), clean.layers[0].query.shape[1]), dtype=bool)
            for place, row in enumerate(rows):
                for layer, head in row.heads or ():
                    in_head[layer, place, head] = True
            self._heads = torch.from_numpy(in_head).to(device)
            self._mask_of = torch.from_numpy(self._variant).to(device)
        self._borrowed = _Borrowed(clean, list(flows.values())) if rows[0].donors else None
        pairs = np.stack([blocked(row.edges, self.start, length) for row in flows.values()])
        allowed = ~np.concatenate([np.zeros_like(pairs[:1]), pairs])
        # Layers that request the same mask share theirs.
        self._masks: dict[int, Masks] = {}
        for layer, record in enumerate(clean.layers):
            if id(record.visible) not in self._masks:
                own = record.visible[self.start - clean.first :]
                visible, prefix = own & allowed, self.start
                if self._borrowed is not None:
                    read = np.stack([self._borrowed.read(row, self.start, length) for row in flows.values()])
                    read = np.concatenate([np.zeros_like(read[:1]), read]) & own[:, self._borrowed.positions]
                    visible = np.concatenate([visible[..., : self.start], read, visible[..., self.start :]], axis=-1)
                    prefix += len(self._borrowed)
                self._masks[id(record.visible)] = masks_of(
                    visible, prefix, record.key.dtype, record.key.device, record.is_causal
                )
            if self._masks[id(record.visible)].illegal[self._variant[self._acting(layer)]].any():
                raise no_key_left()

    def _present(self, layer: int) -> np.ndarray:
        """The knockouts that have joined up to a layer."""
        return np.flatnonzero(self._firsts <= layer)

    def tokens(self, layer: int) -> int:
        """Number of positions of this group in the sequence of a layer."""
        return len(self._present(layer)) * self.suffix

    def _acting(self, layer: int) -> np.ndarray:
        """The knockouts that act in a layer; they are the last ones of the group."""
        present = self._present(layer)
        return np.asarray(present[self._lasts[present] >= layer])

    def acting(self, layer: int) -> np.ndarray:
        """What `attend` needs to know of them: their mask variants, or their numbers if they act in some heads only."""
        acting = self._acting(layer)
        return np.asarray(self._variant[acting]) if self._heads is None else acting

    def silenced(self, layer: int) -> Iterator[tuple[str, np.ndarray, Tensor | None]]:
        """What acting knockouts replace in a layer: module, places in the group's part of the sequence, value."""
        place_of = {int(number): place for place, number in enumerate(self._present(layer))}
        for number in self._acting(layer).tolist():
            for each in self.rows[number].silenced:
                places = place_of[number] * self.suffix + each.targets - self.start
                yield each.module, places, None if each.value is None else each.value[layer]

    def join(self, layer: int, hidden: Tensor | None) -> Iterator[Tensor]:
        """The group's part of the sequence entering a layer, in pieces.

        Args:
            layer: The layer.
            hidden: The group's part of the sequence so far.
        """
        present = self._present(layer)
        place = 0
        for (is_fresh, _), run in groupby(
            present, lambda each: (self._firsts[each] == layer, id(self.rows[each].patch))
        ):
            numbers = list(run)
            if is_fresh:
                yield self._entering(layer, self.rows[numbers[0]].patch).repeat(1, len(numbers), 1)
            else:
                assert hidden is not None
                yield hidden[:, place : place + len(numbers) * self.suffix]
                place += len(numbers) * self.suffix

    def _entering(self, layer: int, patch: Patch | None) -> Float[Tensor, "1 suffix width"]:
        """The clean residual stream of one suffix, patched."""
        own = self.clean.hidden_before(layer)[:, self.start - self.clean.first :]
        return own if patch is None else patch.into(own, layer, self.start)

    def attend(
        self, query: Tensor, key: Tensor, value: Tensor, layer: int, acting: Tensor, scaling: float
    ) -> Iterator[Partial]:
        """Attend to the clean prefix and each suffix to itself: first the resting ones, then those that act."""
        record = self.clean.layers[layer]
        masks = self._masks[id(record.visible)]
        shared = record.key[0, :, : self.start], record.value[0, :, : self.start]
        rest = query.shape[1] - len(acting) * self.suffix
        if rest:
            yield attend_split(query[:, :rest], key[:, :rest], value[:, :rest], *shared, masks, None, scaling)
        if not len(acting):
            return
        own = query[:, rest:], key[:, rest:], value[:, rest:]
        prefix = shared if self._borrowed is None else self._borrowed.beside(layer, *shared)
        if self._heads is None:
            yield attend_split(*own, *prefix, masks, acting, scaling)
            return
        knocked_out = attend_split(*own, *prefix, masks, self._mask_of[acting], scaling)
        plain = attend_split(*own, *shared, masks, None, scaling)
        yield by_head(self._heads[layer, acting].repeat_interleave(self.suffix, dim=0).T, knocked_out, plain)
