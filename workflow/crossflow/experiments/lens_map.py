"""What each visual token of a question says after every layer, and who reads it: a table, and a map of the image."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jaxtyping import Float

from crossflow.engine.attention_mass import mean_weights
from crossflow.engine.edges import Indices
from crossflow.engine.forward import CleanRun, run_clean
from crossflow.experiments.token_lens import Reading, Words, read_positions, words_of
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.token_places import TokenPlaces, places_of


def recorded_from(clean: CleanRun, first: int) -> CleanRun:
    """A clean run as it is if recorded from a later position on."""
    gone = first - clean.first
    layers = [
        replace(
            record,
            hidden=record.hidden[:, gone:],
            query=record.query[:, :, gone:],
            visible=record.visible[gone:],
            reads_ahead=record.reads_ahead or bool(record.visible[:gone, first:].any()),
        )
        for record in clean.layers
    ]
    return replace(clean, first=first, layers=layers, after=clean.after[:, gone:])


class LensMap(NamedTuple):
    """The lens over an image.

    Attributes:
        positions: The positions of the image.
        places: Where they lie in it.
        size: Width and height of the image.
        reading: Of the positions.
        read: The names of the reading's words, in their order.
        words: Texts of the model's tokens.
        attention: Target -> its attention on the positions in each layer, 0..1, mean over heads and targets.
    """

    positions: Indices
    places: TokenPlaces
    size: tuple[int, int]
    reading: Reading
    read: Sequence[str]
    words: Words
    attention: dict[str, Float[np.ndarray, "layers positions"]]

    @classmethod
    def of(
        cls,
        model: MultimodalModel,
        clean: CleanRun,
        reading: Reading,
        read: Sequence[str],
        words: Words,
        size: tuple[int, int],
    ) -> "LensMap":
        """The map of a question.

        Args:
            model: The model.
            clean: The question's clean run, recorded from the first position of the image on.
            reading: Of the positions of the image.
            read: See the attribute.
            words: Texts of the model's tokens.
            size: Width and height of the image.
        """
        sets = clean.prepared.positions
        late = recorded_from(clean, int(sets["question"][0]))
        attention = {
            name: mean_weights(late, sets[name]).double().mean(dim=1).cpu().numpy()[:, sets["image"]]
            for name in ("last", "question")
        }
        return cls(sets["image"], places_of(model, clean.prepared, size), size, reading, read, words, attention)

    @classmethod
    def asked(
        cls, model: MultimodalModel, prepared: Prepared, generated: str, most: int, size: tuple[int, int]
    ) -> "LensMap":
        """Run a question that was answered.

        Args:
            model: The model.
            prepared: The question.
            generated: The model's answer.
            most: Words per visual token.
            size: Width and height of the image.
        """
        tokenizer = model.processor.tokenizer
        words = Words(tokenizer)
        sought = words_of(words, tokenizer, prepared.question, generated)
        image = prepared.positions["image"]
        clean = run_clean(model, prepared, int(image[0]))
        reading = read_positions(model, clean, image, [word.tokens for word in sought.values()], most)
        return cls.of(model, clean, reading, list(sought), words, size)

    def columns(self) -> dict[str, list[Any]]:
        """The columns of `crossflow.core.image_lens.LENS_MAP`: one row per state and position of the image."""
        states, positions, most = self.reading.likeliest.shape
        boxes = np.broadcast_to(self.places.boxes(self.size), (states, positions, 4)).reshape(-1, 4)

        def or_none(values: np.ndarray) -> list[float | None]:
            return [None if np.isnan(value) else value for value in values.ravel().tolist()]

        def probability(name: str) -> list[float | None]:
            if name not in self.read:
                return [None] * (states * positions)
            return or_none(self.reading.probabilities[..., self.read.index(name)])

        def attention(name: str) -> list[float | None]:
            return or_none(np.concatenate([self.attention[name], np.full((1, positions), np.nan)]))

        return {
            "layer": np.repeat(np.arange(states), positions).tolist(),
            "position": np.tile(self.positions, states).tolist(),
            "base": np.tile(self.places.base, states).tolist(),
            **{name: or_none(boxes[:, side]) for side, name in enumerate(("left", "top", "width", "height"))},
            "words": [list(map(self.words.of, row)) for row in self.reading.likeliest.reshape(-1, most).tolist()],
            "probabilities": self.reading.theirs.reshape(-1, most).tolist(),
            "p_object": probability("object"),
            "p_answer": probability("answer"),
            "attention_last": attention("last"),
            "attention_question": attention("question"),
        }

    def table(self) -> pd.DataFrame:
        """The columns of `crossflow.core.image_lens.LENS_MAP`."""
        return pd.DataFrame(self.columns())
