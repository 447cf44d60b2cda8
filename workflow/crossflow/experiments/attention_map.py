"""The attention of one question's clean run on its visual tokens, as a table and as a map of the image."""

from typing import NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from crossflow.core.columns import ATTENTION_MAP
from crossflow.core.flows import Window
from crossflow.core.tables import schema_of
from crossflow.engine.attention_mass import mean_weights
from crossflow.engine.edges import Indices
from crossflow.engine.forward import run_clean
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.token_places import TokenPlaces, places_of

ATTENTION = schema_of(ATTENTION_MAP)
"""One row per layer, head and position of the image."""


class Density(NamedTuple):
    """Attention over the image.

    Attributes:
        x, y: Edges of the cells, in pixels.
        values: Percent of the target's attention that a hundredth of the image draws; NaN where no token shows it.
    """

    x: Float[np.ndarray, " edges_across"]
    y: Float[np.ndarray, " edges_down"]
    values: Float[np.ndarray, "rows columns"]


class AttentionMap(NamedTuple):
    """A target set's attention on the positions of the image.

    Attributes:
        positions: The positions of the image.
        places: Where they lie in it.
        size: Width and height of the image.
        weights: Averaged over the target's positions, 0..1.
    """

    positions: Indices
    places: TokenPlaces
    size: tuple[int, int]
    weights: Float[np.ndarray, "layers heads positions"]

    @classmethod
    def of(cls, model: MultimodalModel, prepared: Prepared, target: str, size: tuple[int, int]) -> "AttentionMap":
        """Run a question.

        Args:
            model: The model.
            prepared: The question.
            target: The position set that attends.
            size: Width and height of the image.
        """
        targets, positions = prepared.positions[target], prepared.positions["image"]
        weights = mean_weights(run_clean(model, prepared, int(targets[0])), targets)
        return cls(positions, places_of(model, prepared, size), size, weights.cpu().double().numpy()[..., positions])

    def table(self) -> pd.DataFrame:
        """The columns of `ATTENTION`."""
        layers, heads, positions = self.weights.shape
        layer, head, place = (each.ravel() for each in np.indices((layers, heads, positions)))
        places, shown = self.places, self.places.shown[place]
        return pd.DataFrame(
            {
                "layer": layer,
                "head": head,
                "position": self.positions[place],
                "base": places.base[place],
                "row": pd.Series(places.row[place], dtype="Int64").where(shown),
                "column": pd.Series(places.column[place], dtype="Int64").where(shown),
                "x": places.x[place],
                "y": places.y[place],
                "weight": self.weights.ravel(),
            }
        )

    def averaged(self, window: Window) -> Float[np.ndarray, " positions"]:
        """The weights averaged over heads and over the layers of a window."""
        return np.asarray(self.weights[window.first : window.last + 1].mean(axis=(0, 1)))

    def elsewhere(self, window: Window) -> float:
        """The share of the attention, 0..1, on positions of the image that show nothing of it."""
        return float(self.averaged(window)[~self.places.shown].sum())

    def density(self, window: Window) -> Density:
        """The attention in the layers of a window over the image; a token's is spread evenly over what it shows."""
        places, weights = self.places, self.averaged(window)
        views = []
        for view in places.views:
            x, y = places.grid(view, self.size)
            values = np.zeros((len(y) - 1, len(x) - 1))
            values[places.row[view], places.column[view]] = weights[view]
            views.append(Density(x, y, values / np.outer(np.diff(y), np.diff(x)) * np.prod(self.size)))
        x, y = (np.unique(np.concatenate([each[axis] for each in views])) for axis in (0, 1))
        across, down = (x[1:] + x[:-1]) / 2, (y[1:] + y[:-1]) / 2
        total = np.full((len(down), len(across)), np.nan)
        for each in views:
            column, row = (np.searchsorted(edges, at) - 1 for edges, at in ((each.x, across), (each.y, down)))
            wide, high = (
                np.flatnonzero((at >= 0) & (at < len(edges) - 1)) for at, edges in ((column, each.x), (row, each.y))
            )
            seen = np.ix_(high, wide)
            total[seen] = np.nan_to_num(total[seen]) + each.values[np.ix_(row[high], column[wide])]
        return Density(x, y, total)
