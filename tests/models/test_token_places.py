"""Where visual tokens lie in their image, against the places of each family worked out by hand."""

import numpy as np
import pytest

from crossflow.models.token_places import places_of
from loaded_families import SIZES, Loaded
from tiny_families import FAMILIES

# Rows and columns of the view of the whole wide image, and of its parts; of the tall image.
GRIDS = {
    "gemma3": [[(4, 4)], [(4, 4)]],
    "idefics3": [[(3, 3), (6, 6)], [(3, 3), (6, 6)]],
    "smolvlm": [[(3, 3), (6, 6)], [(3, 3), (6, 6)]],
    "internvl": [[(3, 3), (6, 9)], [(3, 3), (6, 3)]],
    "llava_onevision": [[(6, 6), (6, 10)], [(6, 6), (12, 6)]],
    "qwen2_vl": [[(5, 8)], [(7, 4)]],
    "qwen2_5_vl": [[(5, 8)], [(7, 4)]],
    "qwen3_vl": [[(5, 7)], [(6, 3)]],
}


@pytest.fixture(scope="module", params=FAMILIES)
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Loaded:
    return Loaded(request.param, tmp_path_factory.mktemp("family"))


def test_every_token_lies_where_its_pixels_are(loaded: Loaded) -> None:
    for size, grids in zip(SIZES, GRIDS[loaded.name], strict=True):
        prepared = loaded.prepared[size]
        found = places_of(loaded.model, prepared, size)
        left, top, right, bottom = loaded.family.places(prepared, size).T
        np.testing.assert_array_equal(found.shown, np.isfinite(left))
        # OneVision's tokens mix patches, and its padding is cut off by whole patches, which `places` ignores.
        allowed = 0.4 if loaded.name == "llava_onevision" else 0.02
        for centre, first, last in ((found.x, left, right), (found.y, top, bottom)):
            apart = abs(centre - (first + last) / 2) / (last - first)
            assert apart[found.shown].max() < allowed
        views = [view for view in (found.base & found.shown, ~found.base & found.shown) if view.any()]
        assert [(1 + found.row[view].max(), 1 + found.column[view].max()) for view in views] == grids
        for view in views:
            assert len({*zip(found.row[view].tolist(), found.column[view].tolist(), strict=True)}) == view.sum()
