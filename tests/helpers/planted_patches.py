"""Patches of pairs with planted shares, as the analysis reads them."""

import numpy as np

from crossflow.analysis.patching import Moved

PASSED_ON = {"image": [1.0, 0.8, 0.2, 0.0], "question": [0.0, 0.3, 0.6, 0.1], "last": [0.0, 0.0, 0.25, 1.0]}
"""Set -> its share after each number of layers: the difference moves from the image to the last position."""


def planted_patches(shares: dict[str, list[float]] = PASSED_ON, pairs: int = 12) -> dict[str, Moved]:
    """Pairs whose margins differ, each with its own image."""
    apart = 3.0 + 1.5 * np.arange(pairs)
    images = np.array([str(number) for number in range(pairs)], dtype=object)
    return {
        name: Moved(tuple(range(len(curve))), images, apart[:, None] * np.array(curve), apart, 0)
        for name, curve in shares.items()
    }
