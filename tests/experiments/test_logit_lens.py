"""Answer tracking."""

import pandas as pd
import pytest
import torch

from crossflow.analysis.lens_table import lens_rows
from crossflow.core.errors import CrossflowError
from crossflow.experiments.answers import answer
from crossflow.experiments.logit_lens import TOKENS, last_states, track, tracked_tokens
from crossflow.figures.logit_lens import lens_panels
from tiny import draw_world, load_tiny, prepare_some


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def prepared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    root = tmp_path_factory.mktemp("lens")
    model = load_tiny(root / "model", architecture=request.param, layers=3)
    world = draw_world(root / "world", 6)
    questions = [world["ChooseAttr"][0], world["QueryAttr"][0]]
    return model, prepare_some(model, root / "world", questions)


def test_the_normed_state_after_the_last_layer_gives_the_models_own_probabilities(prepared) -> None:
    model, questions = prepared
    for question in questions:
        clean = answer(model, question)
        tokens = {"first": clean.tokens[0], "other": 5}
        columns = track(model, question, tokens)
        last = {
            name: p
            for layer, normed, name, p in zip(*columns.values(), strict=True)
            if normed and layer == len(model.layers)
        }
        for name, token in tokens.items():
            assert last[name] == pytest.approx(
                float(clean.probabilities[token]), abs=1e-6
            )  # fp32 products of another shape


def test_layer_0_is_the_embedding_of_the_last_token_and_every_layer_is_there_twice(prepared) -> None:
    model, questions = prepared
    for question in questions:
        embedding = model.network.get_input_embeddings()(question.inputs["input_ids"][0, -1])
        assert torch.equal(last_states(model, question)[0], embedding)
        columns = track(model, question, {"answer": 7})
        assert columns["layer"] == [0, 1, 2, 3] * 2
        assert columns["normed"] == [False] * 4 + [True] * 4


def test_the_model_is_left_as_it_was_when_a_question_fails(prepared) -> None:
    model, questions = prepared
    hooks = [len(module._forward_pre_hooks) for module in (*model.layers, model.norm)]
    before = track(model, questions[0], {"answer": 7})
    with pytest.raises(ValueError, match="exactly one of"):
        last_states(model, type(questions[0])(questions[0].question, {}, questions[0].positions, questions[0].visual))
    assert [len(module._forward_pre_hooks) for module in (*model.layers, model.norm)] == hooks
    assert track(model, questions[0], {"answer": 7}) == before


def test_tokens_are_the_first_of_both_forms_and_of_the_false_option_if_there_is_one(prepared) -> None:
    model, _ = prepared
    tokenizer = model.processor.tokenizer
    tokens = tracked_tokens(tokenizer, "red", "blue")
    assert tuple(tokens) == TOKENS
    assert tokenizer.convert_ids_to_tokens(list(tokens.values())) == ["red", "Red", "blue", "Blue"]
    assert list(tracked_tokens(tokenizer, "left", None)) == ["answer", "answer_capitalized"]


def _table() -> pd.DataFrame:
    """Two questions, one layer: probability 0.1 * (layer + 1), twice that with the norm; the answer only."""
    return pd.DataFrame(
        {
            "question_id": question,
            "image_id": image,
            "layer": layer,
            "normed": normed,
            "token": "answer",
            "probability": 0.1 * (layer + 1) * (1 + normed) + shift,
        }
        for question, image, shift in (("1", "a", 0.0), ("2", "b", 0.2))
        for normed in (False, True)
        for layer in (0, 1)
    )


def test_means_are_over_questions_for_each_layer_and_norm() -> None:
    rows = list(lens_rows(_table(), {"layers": 1}, model="m", category="c", seed=0))
    found = {(row["layer"], row["normed"]): (row["n"], float(row["mean"])) for row in rows}
    means = {("0", "false"): 0.2, ("1", "false"): 0.3, ("0", "true"): 0.3, ("1", "true"): 0.5}
    assert found == {key: ("2", pytest.approx(mean)) for key, mean in means.items()}
    assert all(float(row["low"]) <= float(row["mean"]) <= float(row["high"]) for row in rows)
    assert (
        list(lens_rows(_table().sample(frac=1, random_state=0), {"layers": 1}, model="m", category="c", seed=0)) == rows
    )
    with pytest.raises(CrossflowError, match="answer lacks a layer"):
        list(lens_rows(_table().iloc[1:], {"layers": 1}, model="m", category="c", seed=0))


@pytest.mark.parametrize(("published", "curve"), [(False, [30, 50]), (True, [20, 50])])
def test_a_panel_shows_percent_with_the_norm_or_as_published(published: bool, curve: list[int]) -> None:
    rows = list(lens_rows(_table(), {"layers": 1}, model="m", category="c", seed=0))
    full, empty = lens_panels(rows, model="m", categories=["c", "none"], published=published)
    assert full.lines[0].mean.tolist() == pytest.approx(curve)
    assert full.title == "c (n = 2)"
    assert empty.note == "no question selected"
    with pytest.raises(CrossflowError, match="no rows of other"):
        lens_panels(rows, model="other", categories=["c"], published=published)
