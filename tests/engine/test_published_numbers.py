"""Position sets, related patches and knockouts equal those that the published program printed."""

from pathlib import Path

import numpy as np
import pytest
import torch

from crossflow.core.records import ChosenQuestion
from crossflow.data.categories import attach_objects, classify
from crossflow.data.gqa import read_questions, read_scenes
from crossflow.data.images import Images
from crossflow.engine.edges import Edges, rows_of
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import run_clean
from crossflow.experiments.answers import answer
from crossflow.experiments.logit_lens import last_states, track, tracked_tokens
from crossflow.experiments.measures import ScoredTokens, measure
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from published import FLOWS, MISSING, TOLERANCE, WINDOWS, Published

SPLIT = "val_balanced"


@pytest.fixture(scope="module", params=["llava15", "llava16"])
def published(request: pytest.FixtureRequest, shared: Path) -> Published:
    return Published(shared / "reference" / request.param)


@pytest.fixture(scope="module")
def model(published: Published) -> MultimodalModel:
    return load_model(ModelSettings(published.model, "vicuna-v1"), torch.device("cpu"))


@pytest.fixture(scope="module")
def prepared(published: Published, model: MultimodalModel) -> dict[str, Prepared]:
    questions = list(read_questions(published.root, SPLIT))
    scenes = read_scenes(published.root, SPLIT, {question.image_id for question in questions})
    chosen = [attach_objects(classify(question), scenes[question.image_id]) for question in questions]
    assert all(isinstance(question, ChosenQuestion) for question in chosen)
    with Images(published.root) as images:
        return {question.question_id: model.prepare(question, images.open(question.image_id)) for question in chosen}


def test_all_questions_of_the_published_program_are_prepared(
    published: Published, prepared: dict[str, Prepared]
) -> None:
    assert prepared.keys() == published.cases.keys()
    assert len(prepared) == 12


def test_position_sets_equal_the_published_ranges(published: Published, prepared: dict[str, Prepared]) -> None:
    for question_id, case in published.cases.items():
        positions = prepared[question_id].positions
        assert positions.length == case["sequence_length"]
        for theirs, ours in FLOWS.items():
            source, target = ours.split("->")
            assert positions[source].tolist() == case["ranges"][theirs]["source"], (question_id, ours)
            assert positions[target].tolist() == case["ranges"][theirs]["target"], (question_id, ours)


def test_related_and_newline_patches_equal_the_published_ones(
    published: Published, prepared: dict[str, Prepared]
) -> None:
    for question_id, case in published.cases.items():
        visual = prepared[question_id].visual
        assert np.flatnonzero(visual.related).tolist() == case["related_patches"], question_id
        assert np.flatnonzero(visual.newline).tolist() == case["pad_patches"], question_id


def test_the_clean_answer_equals_the_published_one(
    published: Published, model: MultimodalModel, prepared: dict[str, Prepared]
) -> None:
    for question_id, case in published.cases.items():
        ours = answer(model, prepared[question_id])
        assert ours.tokens[0] == case["first_token"]
        assert float(ours.probabilities[ours.tokens[0]]) == pytest.approx(case["base_prob"], abs=TOLERANCE)


@pytest.mark.parametrize("engine", ["knockout", pytest.param("reference", marks=pytest.mark.long)])
def test_every_knockout_equals_the_published_number(
    engine: str, published: Published, model: MultimodalModel, prepared: dict[str, Prepared]
) -> None:
    compared = 0
    for question_id, case in published.cases.items():
        question = prepared[question_id]
        rows, expected = [], []
        for flow in FLOWS.values():
            source, target = (question.positions[name] for name in flow.split("->"))
            for window in WINDOWS:
                theirs = published.p_knockout(question_id, flow, window)
                if theirs is None:
                    assert len(source) == 0
                else:
                    # The engine shares one mask per flow name, so a width gets a name of its own.
                    rows += rows_of(f"{flow} {window}", [Edges(source, target)], str(window), published.layers)
                    expected += theirs
        clean = run_clean(model, question, min(row.start for row in rows))
        (reading,) = ENGINES[engine](model, [(clean, rows)])
        measured = measure(clean.reading, reading, ScoredTokens(case["first_token"], (), None))
        np.testing.assert_allclose(measured["p_knockout"], expected, rtol=0, atol=TOLERANCE)
        compared += len(expected)
    empty = len([None for question_id, _ in MISSING if question_id in published.cases])
    assert compared == (12 * len(FLOWS) - empty) * len(WINDOWS) * published.layers


def test_answer_tracking_equals_the_published_programs(
    published: Published, model: MultimodalModel, prepared: dict[str, Prepared]
) -> None:
    compared = 0
    for question_id, question in prepared.items():
        tokens = tracked_tokens(model.processor.tokenizer, question.question.answer, None)
        columns = track(model, *last_states(model, [question]), tokens)
        ours = {(layer, normed, token): p for layer, normed, token, p in zip(*columns.values(), strict=True)}
        for theirs, token in (("lower", "answer"), ("capital", "answer_capitalized")):
            for layer, expected in enumerate(published.cases[question_id]["lens"][theirs]):
                # Theirs has the final norm after the last layer only.
                assert ours[layer, layer == published.layers, token] == pytest.approx(expected, abs=TOLERANCE)
                compared += 1
    assert compared == 12 * 2 * (published.layers + 1)
