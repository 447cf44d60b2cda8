"""The logit lens: what is read off the last position after every layer."""

import pytest
import torch

from crossflow.engine.packed import feed
from crossflow.experiments.answers import answer
from crossflow.experiments.logit_lens import TOKENS, last_states, track, tracked_tokens
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
        columns = track(model, *last_states(model, [question]), tokens)
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
        (states,) = last_states(model, [question])
        assert torch.equal(states[0], embedding)
        columns = track(model, states, {"answer": 7})
        assert columns["layer"] == [0, 1, 2, 3] * 2
        assert columns["normed"] == [False] * 4 + [True] * 4


def test_the_model_is_left_as_it_was_when_a_question_fails(prepared) -> None:
    model, questions = prepared
    before = track(model, *last_states(model, questions[:1]), {"answer": 7})
    with pytest.raises(ValueError, match="exactly one of"):
        feed(model, {})
    assert not [layer for layer in model.layers if "forward" in vars(layer)]
    assert track(model, *last_states(model, questions[:1]), {"answer": 7}) == before


def test_tokens_are_the_first_of_both_forms_and_of_the_false_option_if_there_is_one(prepared) -> None:
    model, _ = prepared
    tokenizer = model.processor.tokenizer
    tokens = tracked_tokens(tokenizer, "red", "blue")
    assert tuple(tokens) == TOKENS
    assert tokenizer.convert_ids_to_tokens(list(tokens.values())) == ["red", "Red", "blue", "Blue"]
    assert list(tracked_tokens(tokenizer, "left", None)) == ["answer", "answer_capitalized"]
