"""One question's attention on the image: its table, and its map."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crossflow.core.columns import ATTENTION_MAP
from crossflow.core.flows import Window
from crossflow.engine.attention_mass import attention_weights
from crossflow.engine.forward import run_clean
from crossflow.experiments.attention_map import AttentionMap
from crossflow.models.model import MultimodalModel, Prepared
from loaded_families import question_about
from tiny import load_tiny

LAYERS, ON_LAYER = 3, 4
SIZE = (230, 150)


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = tmp_path_factory.mktemp("map") / request.param
    return load_tiny(folder, architecture=request.param, key_value_heads=2, layers=LAYERS, width=32)


@pytest.fixture(scope="module")
def prepared(model: MultimodalModel, repo: Path) -> Prepared:
    image = Image.open(repo / "resources/example/pictures/scene6.jpg").convert("RGB").resize(SIZE)
    return model.prepare(question_about(), image)


def test_the_table_has_every_head_and_every_position_of_the_image(model: MultimodalModel, prepared: Prepared) -> None:
    table = AttentionMap.of(model, prepared, "last", SIZE).table()
    assert list(table) == list(ATTENTION_MAP)
    positions, visual = prepared.positions["image"], prepared.visual
    assert len(table) == LAYERS * ON_LAYER * len(positions)
    clean = run_clean(model, prepared, prepared.length - 1)
    for layer, weights in enumerate(attention_weights(clean)):
        for head in range(ON_LAYER):
            rows = table[(table["layer"] == layer) & (table["head"] == head)]
            np.testing.assert_array_equal(rows["position"], positions)
            np.testing.assert_array_equal(rows["weight"], weights[head, 0, positions])
            np.testing.assert_array_equal(rows["row"].isna(), visual.newline | visual.padding)
            np.testing.assert_array_equal(rows["x"].isna(), rows["row"].isna())


def test_the_map_holds_the_attention_on_what_shows_the_image(model: MultimodalModel, prepared: Prepared) -> None:
    found = AttentionMap.of(model, prepared, "question", SIZE)
    window = Window(1, 2)
    x, y, values = found.density(window)
    area = np.outer(np.diff(y), np.diff(x)) / (SIZE[0] * SIZE[1] / 100)
    shown = found.averaged(window)[found.places.shown].sum()
    assert (values * area).sum() / 100 == pytest.approx(shown)
    # A question attends to other positions too: all of them make 1.
    assert 0 < shown + found.elsewhere(window) < 1
    assert (found.elsewhere(window) > 0) == (not found.places.shown.all())


def test_a_tokens_attention_lies_where_its_pixels_are(model: MultimodalModel, prepared: Prepared) -> None:
    found = AttentionMap.of(model, prepared, "question", SIZE)
    for token in np.flatnonzero(found.places.shown)[::7]:
        alone = np.zeros_like(found.weights)
        alone[..., token] = 0.5
        x, y, values = found._replace(weights=alone).density(Window(0, 0))
        share = values * np.outer(np.diff(y), np.diff(x)) / values.size
        centres = ((x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2)
        lies = [(share.sum(axis) * at).sum() / share.sum() for axis, at in enumerate(centres)]
        # Half a token, if the cut at the image's border makes it narrower.
        np.testing.assert_allclose(lies, [found.places.x[token], found.places.y[token]], atol=3)
