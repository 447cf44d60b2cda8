"""What a model needs of a device's memory, computed from its configuration.

A job holds the *weights*. Each question takes one forward of the whole prompt: an answer, whose cache grows with the
generated tokens, or a *clean run*, which leaves a *record* for the knockouts; *rows* run in batches against the record.
The plan counts the tensors that are alive at the peak, nearly always the attention scores or an MLP of some decoder
layer. Every number is an upper bound, too large by less than half: `tests/models/test_memory.py` compares it with what
torch allocates.

Batches of rows depend on the kind of device and its *total* memory, not on the memory that happens to be free: on the
same kind of device every run makes the same batches, and so the same table.
"""

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

log = logging.getLogger(__name__)

Item = TypeVar("Item")
Result = TypeVar("Result")

CONVERTED_AT_ONCE = 2**22
"""Elements of the output embedding converted to fp32 at a time: 16 MiB."""

USABLE = 0.9
"""Share of a device's memory to plan with; the rest is for the driver, kernel workspaces and fragmentation."""

ENOUGH = {"cuda": 8192, "cpu": 1024}
"""Positions per batch beyond which products get no faster; on a CPU, twice as many no longer fit the caches."""

GIB = 2**30

_FP32, _FP64 = 4, 8


@dataclass(frozen=True)
class Sizes:
    """The sizes that determine a model's memory.

    Attributes:
        weights: Bytes of all parameters and buffers.
        itemsize: Bytes of a number in the model's type.
        layers, width, intermediate, heads, kv_heads, head_width, vocabulary: Of the text decoder.
        tower_width, tower_intermediate: Of the vision tower.
        tower_values: Values of a patch.
        tower_positions: Positions in the tower of all tiles of the largest image.
        visual: Visual tokens of the largest image.
        largest: Width and height of an image with so many.
        added: Decoder layers, beside the first, to whose input the model adds features of the image.
    """

    weights: int
    itemsize: int
    layers: int
    width: int
    intermediate: int
    heads: int
    kv_heads: int
    head_width: int
    vocabulary: int
    tower_width: int
    tower_intermediate: int
    tower_values: int
    tower_positions: int
    visual: int
    largest: tuple[int, int]
    added: int

    @classmethod
    def of(cls, network: nn.Module, tower_positions: int, visual: int, largest: tuple[int, int]) -> "Sizes":
        """Read the sizes off a network, which may be on torch's meta device.

        Args:
            network: A transformers model with a text decoder and a vision tower.
            tower_positions, visual, largest: See the attributes.
        """
        config: Any = network.config
        text, vision = config.get_text_config(), config.vision_config
        tower_width = getattr(vision, "embed_dim", vision.hidden_size)
        side = vision.patch_size if isinstance(vision.patch_size, int) else vision.patch_size[0]
        channels = getattr(vision, "num_channels", None) or vision.in_channels
        return cls(
            weights=sum(held.nbytes for held in [*network.parameters(), *network.buffers()]),
            itemsize=next(network.parameters()).element_size(),
            layers=text.num_hidden_layers,
            width=text.hidden_size,
            intermediate=text.intermediate_size,
            heads=text.num_attention_heads,
            kv_heads=text.num_key_value_heads,
            head_width=getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads,
            vocabulary=text.vocab_size,
            tower_width=tower_width,
            tower_intermediate=getattr(vision, "intermediate_size", None) or int(tower_width * vision.mlp_ratio),
            tower_values=channels * side**2 * getattr(vision, "temporal_patch_size", 1),
            tower_positions=tower_positions,
            visual=visual,
            largest=largest,
            added=len(getattr(vision, "deepstack_visual_indexes", ())),
        )

    @property
    def _key_value(self) -> int:
        """Bytes of the key and the value of one position in one layer."""
        return 2 * self.kv_heads * self.head_width * self.itemsize

    @property
    def _state(self) -> int:
        """Bytes of the residual stream at one position."""
        return self.width * self.itemsize

    def _layer(self, queries: int, keys: int, start: int = 0) -> int:
        """Peak of a decoder layer in bytes, its input included.

        Args:
            queries: Positions that go through the layer.
            keys: Positions that they attend to.
            start: How many of the keys are the prefix that suffixes share.
        """
        item = self.itemsize
        states = 2 * self.width * item + self._key_value
        queried = self.heads * self.head_width * item
        # The residual stream and its norm; keys and values; queries and attention output, in two layouts each.
        beside = states + 4 * queried
        # During the rotary embedding: queries before and after, three terms of the keys.
        rotated = states + 2 * queried + 3 * self._key_value // 2
        # Attention outputs of prefix and suffix, also in fp32, and merged.
        beside += self.heads * self.head_width * (item + (2 * _FP32 if item < _FP32 else 0)) if start else 0
        # The mask, and the tensors derived from it.
        scores = keys * (item + 1)
        # The residual stream before and after attention, and its norm; rotary embedding; gate, up and their product.
        mlp = (3 * self.width + 2 * self.head_width + 3 * self.intermediate) * item
        norm = self.width * (2 * item + 3 * _FP32)
        return queries * max(beside + scores, rotated, mlp, norm)

    def _copied(self, keys: int) -> int:
        """Bytes of the copy of keys or values that a CPU kernel makes in half precision."""
        return keys * self._key_value // 2 if self.itemsize < _FP32 else 0

    def _tower(self) -> int:
        """Peak of encoding the image: its pixels twice and a layer's MLP, or the projector and the packing of tiles."""
        layer = self.tower_positions * (4 * self.tower_width + 4 * self.tower_intermediate + 2 * self.tower_values)
        projected = self.tower_positions * self.tower_width + 6 * max(self.tower_positions, self.visual) * self.width
        return max(layer, projected) * self.itemsize

    @property
    def _converted(self) -> int:
        """Bytes of the part of the output embedding that is converted to fp32."""
        return _FP32 * min(self.vocabulary * self.width, CONVERTED_AT_ONCE) if self.itemsize < _FP32 else 0

    @property
    def _logits(self) -> int:
        """Bytes of the logits of a row, in parts and together."""
        return 2 * self.vocabulary * _FP32

    def forward(self, positions: int) -> int:
        """Bytes of a full multimodal forward, without its record or cache."""
        hidden = positions * self.width * self.itemsize
        layer = (
            self._layer(positions, positions) + self._copied(positions) + 3 * hidden
        )  # embeddings, the image's embeddings, their mask
        probabilities = 2 * self.vocabulary * _FP64
        return max(self._tower(), layer, hidden + self._logits + self._converted + probabilities)

    def record(self, positions: int, first: int) -> int:
        """Bytes of a clean run's record: keys, values, and from ``first`` on residual streams, queries and masks."""
        suffix = positions - first
        states = (self.width + self.heads * self.head_width) * self.itemsize
        layer = positions * self._key_value + suffix * states
        # Rotary embedding and position ids; the mask, which most layers share.
        shared = positions * (2 * self.head_width * self.itemsize + 2 * _FP64 + suffix)
        return self.layers * layer + self.added * positions * self._state + shared + self.vocabulary * _FP32

    def clean_run(self, positions: int, first: int) -> int:
        """Bytes of a clean run, its record included."""
        return self.forward(positions) + self.record(positions, first)

    def clean_runs(self, questions: int, positions: int, first: int) -> int:
        """Bytes of clean runs in one sequence, their images encoded together, with their records."""
        encoding = questions * (self._tower() + positions * self.width * self.itemsize)
        return max(encoding, questions * self.clean_run(positions, first))

    def answer(self, positions: int, new_tokens: int) -> int:
        """Bytes of a generated answer; while the cache grows, one layer of it exists twice."""
        return self.forward(positions) + (self.layers + 1) * (positions + new_tokens) * self._key_value

    def row(self, positions: int, start: int) -> int:
        """Bytes that one knockout adds to a batch, as a suffix from position ``start`` on."""
        suffix = positions - start
        # Where something is added: this, and the sum beside the layer's input.
        added = 2 * self._state if self.added else 0
        return max(self._layer(suffix, positions, start) + suffix * added, suffix * self._state + self._logits)

    def group(self, positions: int, start: int) -> int:
        """Bytes of one flow's masks from position ``start`` on, its own and the causal one, and of what is added."""
        added = positions * self._state if self.added else 0
        return 2 * (positions - start) * positions * (self.itemsize + 3) + added

    def batch(self, rows: Iterable[int]) -> int:
        """Bytes of a batch of knockouts, without the records; ``rows`` are given by `row`."""
        return sum(rows) + self._converted

    def measures(self, rows: int) -> int:
        """Bytes of a question's results: the logits and log-probabilities of all its rows."""
        return rows * self.vocabulary * (_FP32 + 2 * _FP64)


def batches(rows: Iterable[tuple[int, int]], room: int, most: int) -> list[range]:
    """Split rows into consecutive batches, each of at least one row and as many as fit.

    Args:
        rows: Bytes and positions of each row.
        room: Most bytes of a batch.
        most: Most positions of a batch.
    """
    found: list[range] = []
    first = held = length = stop = 0
    for number, (size, positions) in enumerate(rows):
        if number > first and (held + size > room or length + positions > most):
            found.append(range(first, number))
            first, held, length = number, 0, 0
        held, length, stop = held + size, length + positions, number + 1
    return [*found, range(first, stop)]


def halving(items: Sequence[Item], run: Callable[[Sequence[Item]], list[Result]], what: str) -> list[Result]:
    """Run items together; if they do not fit into memory, run each half and join the results.

    Args:
        items: May be empty.
        run: Returns a result for each of some items, in order.
        what: What the items are, for the log.

    Raises:
        torch.OutOfMemoryError: a single item does not fit.
    """
    if not items:
        return []
    try:
        return run(items)
    except torch.OutOfMemoryError:
        if len(items) == 1:
            raise
    # Outside the handler: its error would keep the tensors of the failed attempt alive.
    log.warning("%d %s do not fit into memory together: halved", len(items), what)
    torch.cuda.empty_cache()
    half = len(items) // 2
    return [*halving(items[:half], run, what), *halving(items[half:], run, what)]


def total_memory(device: torch.device) -> int:
    """Bytes of a device's memory; for the CPU, of the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def enough_positions(device: torch.device) -> int:
    """The entry of `ENOUGH` for a device."""
    return ENOUGH.get(device.type, ENOUGH["cpu"])


def capacity(device: torch.device) -> int:
    """Bytes of a device's memory to plan with."""
    return int(total_memory(device) * USABLE)
