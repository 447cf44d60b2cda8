"""The noise floor: how much a probability changes by what should change nothing; the rounding of the engine."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

NOTHING = {"noise_floor": None, "noise_floor_percent": None}
"""The noise floor of a question in which nothing was run."""


def noise_floor(p_clean: float, p_unchanged: Sequence[float]) -> dict[str, float]:
    """The largest change of a probability, absolute and in percent of it.

    Args:
        p_clean: The probability in the clean run, 0 to 1.
        p_unchanged: The same where nothing was knocked out or patched; at least one.
    """
    largest = float(np.abs(np.asarray(p_unchanged) - p_clean).max())
    return {"noise_floor": largest, "noise_floor_percent": 100 * largest / p_clean}


def largest_floor(found: Iterable[Mapping[str, Any]]) -> dict[str, float | None]:
    """The largest noise floor of several questions; None if nothing was run in any."""
    floors = [each for each in found if each["noise_floor"] is not None]
    return {name: max((each[name] for each in floors), default=None) for name in NOTHING}
