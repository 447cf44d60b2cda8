"""Tiny models of the real architectures and prepared questions, for tests of the engines."""

from pathlib import Path

import torch

from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import Classified, attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.data.images import Images
from crossflow.experiments.answers import Answer
from crossflow.mini import random_model, world
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel

CPU = torch.device("cpu")


def load_tiny(folder: Path, dtype: str = "float32", **geometry: object) -> MultimodalModel:
    """A random model of the given geometry, written to ``folder`` and loaded as any other model is."""
    if not (folder / "config.json").exists():
        random_model.save(folder, 0, random_model.Geometry(**geometry))  # type: ignore[arg-type]
    return load_model(ModelSettings(folder, "vicuna-v1", dtype=dtype), CPU)


def draw_world(root: Path, scenes: int) -> dict[str, list[ChosenQuestion]]:
    """A small drawn world under ``root``, and its questions by category."""
    world.write_world(root, scenes, 0)
    questions: dict[str, list[ChosenQuestion]] = {}
    classified = [
        found
        for question in read_questions(root, "val_balanced")
        if isinstance(found := classify(question), Classified)
    ]
    graphs = read_scenes(root, "val_balanced", {found.question.image_id for found in classified})
    for found in classified:
        chosen = attach_objects(found, graphs[found.question.image_id])
        assert isinstance(chosen, ChosenQuestion)
        questions.setdefault(chosen.category, []).append(chosen)
    return questions


def prepare_some(model: MultimodalModel, root: Path, questions: list[ChosenQuestion]) -> list:
    with Images(root) as images:
        return [model.prepare(question, images.open(question.image_id)) for question in questions]


def assert_same_answer(ours: Answer, theirs: Answer, tolerance: float) -> None:
    """The same tokens, and probabilities of the first within a tolerance."""
    assert (ours.text, ours.tokens) == (theirs.text, theirs.tokens)
    torch.testing.assert_close(ours.probabilities, theirs.probabilities, rtol=0, atol=tolerance)
