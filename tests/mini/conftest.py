"""Scenes that the tests of the mini world share."""

import pytest

from crossflow.mini.scenes import Scene, draw_scene


@pytest.fixture(scope="session")
def scenes() -> list[Scene]:
    """Scenes of the evaluation world, enough for statistics."""
    return [draw_scene(seed=1, index=index) for index in range(4000)]
