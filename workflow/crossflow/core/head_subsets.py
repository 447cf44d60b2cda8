"""Random subsets of a model's attention heads: drawn, and written in a table."""

from collections.abc import Collection, Iterable

import numpy as np
from jaxtyping import Bool

from crossflow.core.seeds import derived_seed


def draw_subsets(
    seed: int, question_id: str, number: int, share: float, layers: Collection[int], shape: tuple[int, int]
) -> Bool[np.ndarray, "subsets layers heads"]:
    """Subsets in which each head is independently of the others.

    Args:
        seed: The study's seed.
        question_id: The question; all its flows have the same subsets.
        number: How many subsets.
        share: Probability that a head is in a subset.
        layers: The layers whose heads are drawn.
        shape: Number of layers and of heads per layer of the model.
    """
    generator = np.random.default_rng(derived_seed(seed, question_id, "subsets of heads"))
    drawn = generator.random((number, *shape)) < share
    drawn[:, [layer not in layers for layer in range(shape[0])]] = False
    return drawn


def written(subset: Bool[np.ndarray, "layers heads"]) -> str:
    """A subset as a table holds it: a bit for each head, by layer and head, in hexadecimal."""
    return np.packbits(subset).tobytes().hex()


def read_subsets(texts: Iterable[str], shape: tuple[int, int]) -> Bool[np.ndarray, "subsets layers heads"]:
    """Subsets as `written`.

    Args:
        texts: The subsets.
        shape: Number of layers and of heads per layer of the model.
    """
    size = shape[0] * shape[1]
    bits = [np.unpackbits(np.frombuffer(bytes.fromhex(text), dtype=np.uint8), count=size) for text in texts]
    return np.array(bits, dtype=bool).reshape(-1, *shape)
