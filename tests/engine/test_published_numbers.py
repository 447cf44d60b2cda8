"""Position sets, related patches and knockouts equal those that the published program printed."""

from collections.abc import Sequence

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
from published import FLOWS, SHIPPED, TOLERANCE, WINDOWS, Published

SPLIT = "val_balanced"


@pytest.fixture(
    scope="module",
    params=[
        "shipped/llava15",
        "shipped/llava16",
        pytest.param("shared/llava15", marks=pytest.mark.long),
        pytest.param("shared/llava16", marks=pytest.mark.long),
    ],
)
def published(request: pytest.FixtureRequest) -> Published:
    place, model = request.param.split("/")
    return Published((SHIPPED if place == "shipped" else request.getfixturevalue("shared") / "reference") / model)


@pytest.fixture(scope="module")
def model(published: Published) -> MultimodalModel:
    # Only the first token of an answer is printed.
    return load_model(ModelSettings(published.model, "vicuna-v1", max_new_tokens=1), torch.device("cpu"))


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


def _measured(
    engine: str,
    published: Published,
    model: MultimodalModel,
    prepared: dict[str, Prepared],
    questions: list[str],
    windows: Sequence[int] = WINDOWS,
) -> dict[str, np.ndarray]:
    """Question id -> our probabilities: every flow that has a source, every window, every centre layer."""
    measured = {}
    for question_id in questions:
        question = prepared[question_id]
        rows = []
        for flow in FLOWS.values():
            source, target = (question.positions[name] for name in flow.split("->"))
            if (question_id, flow) in published.missing:
                assert len(source) == 0
                continue
            for window in windows:
                # The engine shares one mask per flow name, so a width gets a name of its own.
                rows += rows_of(f"{flow} {window}", [Edges(source, target)], str(window), published.layers)
        clean = run_clean(model, question, min(row.start for row in rows))
        (reading,) = ENGINES[engine](model, [(clean, rows)])
        tokens = ScoredTokens(published.cases[question_id]["first_token"], (), None)
        measured[question_id] = measure(clean.reading, reading, tokens)["p_knockout"]
    return measured


def _compare(published: Published, measured: dict[str, np.ndarray], windows: Sequence[int] = WINDOWS) -> int:
    """Compare with the published numbers. Returns how many were compared."""
    compared = 0
    for question_id, ours in measured.items():
        curves = [published.p_knockout(question_id, flow, window) for flow in FLOWS.values() for window in windows]
        theirs = [p for curve in curves if curve is not None for p in curve]
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=TOLERANCE, err_msg=question_id)
        compared += len(theirs)
    return compared


def _curves(published: Published, questions: list[str]) -> int:
    """Flows of some questions that have a source."""
    return len(questions) * len(FLOWS) - len([None for question_id, _ in published.missing if question_id in questions])


@pytest.mark.parametrize("engine", ["knockout", pytest.param("reference", marks=pytest.mark.long)])
def test_every_knockout_equals_the_published_number(
    engine: str, published: Published, model: MultimodalModel, prepared: dict[str, Prepared]
) -> None:
    measured = _measured(engine, published, model, prepared, list(published.cases))
    assert _compare(published, measured) == _curves(published, list(published.cases)) * len(WINDOWS) * published.layers


def test_knockouts_by_full_forwards_equal_the_published_numbers_in_one_question(
    published: Published, model: MultimodalModel, prepared: dict[str, Prepared]
) -> None:
    question_id = list(published.cases)[2]
    measured = _measured("reference", published, model, prepared, [question_id], [3])
    assert _compare(published, measured, [3]) == _curves(published, [question_id]) * published.layers


def test_a_changed_digit_in_any_published_curve_is_noticed(
    published: Published, model: MultimodalModel, prepared: dict[str, Prepared]
) -> None:
    question_id = list(published.cases)[2]  # one whose source sets all have positions
    measured = _measured("knockout", published, model, prepared, [question_id])
    curves = [published.cases[question_id]["windows"][flow][str(window)] for flow in FLOWS for window in WINDOWS]
    assert len(curves) == _curves(published, [question_id]) * len(WINDOWS)
    for number, curve in enumerate(curves):
        layer = number % published.layers
        printed, curve[layer] = curve[layer], curve[layer] + 3e-5  # three more in the fifth decimal
        with pytest.raises(AssertionError, match=question_id):
            _compare(published, measured)
        curve[layer] = printed
    assert _compare(published, measured) == len(curves) * published.layers


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
