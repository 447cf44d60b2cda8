"""Images that are read at known layers."""

import numpy as np

from crossflow.analysis.fusion import Cut


def planted_cut(
    rng: np.random.Generator,
    *,
    images: int,
    layers: int,
    steps: dict[float, float],
    window: str = "top",
    spread: float = 1.0,
    noise: float = 0.1,
    binary: bool = False,
) -> Cut:
    """Questions (1 to 3 an image) whose measure rises from 0.2 to 0.8 by steps; they share part of their noise.

    Args:
        steps: Layer -> share of the rise there; each question's own layer scatters around it by ``spread``.
        noise: Of each value, in the measure's unit.
        binary: Right or wrong answers instead of probabilities.
    """
    which = np.repeat(np.arange(images), rng.integers(1, 4, images))
    shared, places = rng.normal(size=images)[which], np.arange(layers + 1)
    read = np.zeros((len(which), len(places)))
    for layer, share in steps.items():
        own = layer + spread * (shared + rng.normal(size=len(which))) / 2**0.5
        read += share / (1 + np.exp((own[:, None] - places) / 0.7))
    if window == "bottom":
        read = 1 - read
    read[:, -1 if window == "top" else 0] = 1
    true = 0.2 + 0.6 * np.column_stack([read, np.zeros(len(which))])
    values = true + noise * rng.normal(size=true.shape) + 0.5 * noise * shared[:, None]
    if binary:
        values = (rng.random(true.shape) < true).astype(float)
    return Cut(window, layers, tuple(map(int, places)), which, values)
