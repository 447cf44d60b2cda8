"""The logit lens over the image and the question: what their tokens say after every layer, and who reads them.

For each answered question: how likely the object's name, the answer and the false option are at the related, the
other, some random visual tokens and the question's; the most likely words at the last position; for some questions a
map of the image, with the attention on it.

Source: C. Neo, L. Ong, P. Torr, M. Geva, D. Krueger, F. Barez, Towards interpreting visual information processing in
vision-language models (arXiv 2410.07149).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crossflow.core.devices import take_device
from crossflow.core.flows import parse_flow
from crossflow.core.image_lens import IMAGE_LENS, LENS_MAPS, LENS_WORDS, PLACES, TOKENS, TOP
from crossflow.core.tables import question_rows, write_parquet
from crossflow.data.images import Images
from crossflow.engine.edges import Indices, edges_of
from crossflow.engine.forward import CleanRun, run_clean_together
from crossflow.engine.planning import plan_parts
from crossflow.experiments.job import (
    Given,
    Item,
    Job,
    Outcome,
    Part,
    finished_parts,
    require_same_clean_run,
    still_usable,
)
from crossflow.experiments.lens_map import LensMap
from crossflow.experiments.selection import Select, Selected, select_answered
from crossflow.experiments.token_lens import Reading, ReadWord, Words, read_positions, words_of
from crossflow.models.loading import load_model
from crossflow.models.memory import halving
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest

_RANDOM = parse_flow("related~random1->last")
"""The flow whose random sources are the place `random`."""
_PLANNED_AS = ("image->image",)
"""The memory is that of a clean run for a flow that begins with the image."""
FILES = {"curves": ("", IMAGE_LENS), "words": (".words", LENS_WORDS), "map": (".maps", LENS_MAPS)}
"""Part of an entry -> what its table's name ends with, and the table's columns."""


@dataclass(frozen=True)
class ImageLensSettings:
    """The lens of a job.

    Attributes:
        answers: Folder of the model's answers to the questions, {category}.parquet.
        words: Most likely words per visual token in a map.
        maps: Questions of each category that have a map: the first of the selected ones.
        seed: Seed of random visual tokens.
        select: Which questions are read, by the model's answer.
    """

    answers: Path
    words: int = 5
    maps: int = 4
    seed: int = 0
    select: Select = "correct"


def places_in(prepared: Prepared, seed: int) -> dict[str, Indices]:
    """The positions of each of `PLACES` in a prompt; some may be empty."""
    positions = prepared.positions
    drawn = edges_of(_RANDOM, positions, seed, prepared.question.question_id)
    # Where the image has too few other tokens, the engine takes positions outside it.
    random = [edges.sources for edges in drawn if np.isin(edges.sources, positions.shown).all()]
    own = {"random": random[0] if random else np.arange(0)}
    return {name: own[name] if name in own else positions[name] for name in PLACES}


def _curves(
    reading: Reading, read: Indices, words: Mapping[str, ReadWord], places: Mapping[str, Indices]
) -> dict[str, list[Any]]:
    """A question's part of `IMAGE_LENS`.

    Args:
        reading: Of some positions.
        read: These positions, ascending.
        words: The reading's words, from `words_of`.
        places: The positions of each place.
    """
    states = len(reading.probabilities)
    columns: dict[str, list[Any]] = {name: [] for name in IMAGE_LENS.names[2:]}
    names = list(words)
    for place in PLACES:
        at = reading.at(np.searchsorted(read, places[place]))
        for name in TOKENS:
            word = words.get(name)
            probability: list[float | None] = [None] * states
            top: list[float | None] = [None] * states
            if word and len(places[place]):
                probability = at.probabilities[..., names.index(name)].mean(axis=1).tolist()
                top = np.isin(at.likeliest[..., 0], word.tokens).mean(axis=1).tolist()
            columns["layer"] += range(states)
            columns["place"] += [place] * states
            columns["token"] += [name] * states
            columns["word"] += [word.word if word else None] * states
            columns["positions"] += [len(places[place])] * states
            columns["probability"] += probability
            columns["top"] += top
    return columns


def _last_words(reading: Reading, words: Words) -> dict[str, list[Any]]:
    """A question's part of `LENS_WORDS`, from the reading of its last position."""
    states, _, most = reading.likeliest.shape
    ids = reading.likeliest.ravel().tolist()
    return {
        "layer": np.repeat(np.arange(states), most).tolist(),
        "rank": list(range(1, most + 1)) * states,
        "token_id": ids,
        "word": list(map(words.of, ids)),
        "probability": reading.theirs.ravel().tolist(),
    }


class ImageLens:
    """The lens for one model.

    Args:
        settings: The lens.
        model: The model.
        images: The data set's images, which the maps lie over.
    """

    def __init__(self, settings: ImageLensSettings, model: MultimodalModel, images: Images) -> None:
        self._settings = settings
        self._model = model
        self._images = images
        self._words = Words(model.processor.tokenizer)

    def entry(self, clean: CleanRun, answer: Any, mapped: bool) -> dict[str, Any]:
        """The entry of one question: its columns of each of `FILES`, and the probability of its answer.

        Args:
            clean: Its clean run, recorded from the first position of the image on.
            answer: Its row of the answers table.
            mapped: Whether it has a map.
        """
        model, prepared = self._model, clean.prepared
        sets, question = prepared.positions, prepared.question
        words = words_of(self._words, model.processor.tokenizer, question, answer.generated)
        read = np.concatenate([sets["image"], sets["question"]])
        sought = [word.tokens for word in words.values()]
        reading = read_positions(model, clean, read, sought, self._settings.words if mapped else 1)
        last = read_positions(model, clean, sets["last"], [], TOP)
        found = None
        if mapped:
            _, image = self._images.open_for(question)
            of_image = reading.at(np.arange(len(sets["image"])))
            found = LensMap.of(model, clean, of_image, list(words), self._words, image.size).columns()
        probabilities = torch.softmax(clean.logits.double(), dim=-1)
        return {
            "p_clean": float(probabilities[int(answer.first_token)]),
            "curves": _curves(reading, read, words, places_in(prepared, self._settings.seed)),
            "words": _last_words(last, self._words),
            "map": found,
        }

    def run(self, mapped: frozenset[str], batch: Sequence[Item], given: Sequence[Given]) -> list[Outcome]:
        """The entries of questions that run together; ``mapped`` are the ids of those with a map."""
        prompts = [still_usable(prepared, item.question) for item, (prepared,) in zip(batch, given, strict=True)]

        def together(part: Sequence[tuple[Item, Prepared]]) -> list[dict[str, Any]]:
            firsts = [int(prepared.positions["image"][0]) for _, prepared in part]
            cleans = run_clean_together(self._model, [prepared for _, prepared in part], firsts)
            return [
                self.entry(clean, item.answer, item.question.question_id in mapped)
                for (item, _), clean in zip(part, cleans, strict=True)
            ]

        entries = halving(list(zip(batch, prompts, strict=True)), together, "questions")
        for item, entry in zip(batch, entries, strict=True):
            require_same_clean_run(
                item.question.question_id, item.answer.p_clean, entry["p_clean"], self._model.settings.dtype
            )
        return [partial(dict, entry) for entry in entries]


def write_image_lens(job: Job, settings: ImageLensSettings) -> None:
    """Read the logit lens over the image and the question of every answered question.

    Beside each table, {category}.words.parquet has the most likely words at the last position, and
    {category}.maps.parquet the maps. Finished questions survive a killed job.

    Args:
        job: The job.
        settings: The lens.

    Raises:
        CrossflowError: the model or a question cannot be used.
    """
    chosen = select_answered(job, settings.answers, settings.select)
    device = take_device(job.device)
    together = plan_parts(job.settings, [each.asked for each in chosen.values()], device, _PLANNED_AS)
    model = load_model(job.settings, device)
    for each in chosen.values():
        each.require_prompt(model.prompt)

    with job.images.open() as images:
        lens = ImageLens(settings, model, images)

        def part(category: str, selection: Selected, at_once: int) -> Part:
            determined = job.determining(category, model.prompt) | {
                **selection.determining(),
                "seed": settings.seed,
                "words": settings.words,
                "maps": settings.maps,
            }
            mapped = frozenset(question.question_id for question in selection.asked[: settings.maps])
            items = [
                Item(question, [PrepareRequest(question, question.image_id)], row)
                for question, row in selection.questions
            ]
            return Part.of(category, determined, items, at_once, partial(lens.run, mapped))

        parts = [part(*each, at_once) for each, at_once in zip(chosen.items(), together, strict=True)]
        with finished_parts(job, model, __name__, parts) as finished:
            for (category, determined, *_), (entries, _) in zip(parts, finished, strict=True):
                asked = chosen[category].asked
                found = [(question, entries[question.question_id]) for question in asked]
                counts = {
                    "layers": len(model.layers),
                    "selected": len(asked),
                    "excluded": chosen[category].answered - len(asked),
                }
                for name, (suffix, schema) in FILES.items():
                    rows = question_rows(
                        schema, [(question, entry[name]) for question, entry in found if entry[name] is not None]
                    )
                    write_parquet(job.output / f"{category}{suffix}.parquet", schema, rows, dict(determined) | counts)
