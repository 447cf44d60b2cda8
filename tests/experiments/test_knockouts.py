"""All knockouts of a question: controls, sums, paths, whole answers and attention, against plain computations."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from crossflow.core.flows import CONTROL_FLOWS, PUBLISHED_FLOWS, Window, parse_flow, with_controls
from crossflow.data.boxes import moved_boxes
from crossflow.data.images import Images
from crossflow.engine import forward, shared_prefix
from crossflow.engine.attention_mass import attention_mass
from crossflow.engine.blocking import Blocking, image_removed
from crossflow.engine.edges import Edges, edges_of
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import full_forward, run_clean
from crossflow.experiments.answers import answer
from crossflow.experiments.knocked_out import Answered, knock_out
from crossflow.models.attention import Call, Plain, using
from crossflow.models.model import MultimodalModel, Prepared
from tiny import draw_world, load_tiny

LAYERS = 4
FLOWS = [*PUBLISHED_FLOWS, *with_controls(PUBLISHED_FLOWS, 2, CONTROL_FLOWS), "image->question+image->last"]
ANSWER = [7, 9, 11]


@pytest.fixture(scope="module", params=["llava", "llava_next"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> MultimodalModel:
    folder = tmp_path_factory.mktemp("question") / request.param
    return load_tiny(folder, architecture=request.param, key_value_heads=2, layers=LAYERS, width=32)


@pytest.fixture(scope="module")
def prepared(model: MultimodalModel, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    world = tmp_path_factory.mktemp("world")
    question = draw_world(world, 3)["ChooseAttr"][0]
    with Images(world) as images:
        image = images.open(question.image_id)
        moved = moved_boxes([chosen.box for chosen in question.objects], image.size, 0)
        return model.prepare(question, image, moved)


def _columns(
    model: MultimodalModel,
    prepared: Prepared,
    flows: Mapping[str, Sequence[int]] | None = None,
    window: str = "2",
    engine: str = "knockout",
    **options: Any,
) -> dict[str, Any]:
    flows = flows or {name: list(range(LAYERS)) for name in FLOWS}
    answered = Answered(prepared, "a b c", ANSWER)
    (outcome,) = knock_out(model, [answered], flows, window, ENGINES[engine], 0, **options)
    return outcome.columns()


@pytest.mark.parametrize("stage", ["clean runs", "knockouts"])
def test_questions_that_do_not_fit_together_are_halved(
    stage: str,
    model: MultimodalModel,
    prepared: Prepared,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    questions = [Answered(prepared, "a b c", [token, 9, 11]) for token in (5, 7, 8)]
    flows = {"image->question": [1, 2], "question->last": [0]}

    def columns(part: Sequence[Answered]) -> list[dict[str, Any]]:
        return [outcome.columns() for outcome in knock_out(model, part, flows, "2", ENGINES["knockout"], 0)]

    alone = [found for question in questions for found in columns([question])]
    encode, run, together = forward.encode_together, shared_prefix._run_suffixes, []

    def encode_on_a_small_device(model: MultimodalModel, prompts: Sequence[Prepared]) -> object:
        together.append(len(prompts))
        if stage == "clean runs" and len(prompts) > 1:
            raise torch.OutOfMemoryError
        return encode(model, prompts)

    def run_on_a_small_device(model: MultimodalModel, batch: Sequence[shared_prefix.Knockout]) -> object:
        if stage == "knockouts" and together[-1] > 1:
            raise torch.OutOfMemoryError
        return run(model, batch)

    monkeypatch.setattr(forward, "encode_together", encode_on_a_small_device)
    monkeypatch.setattr(shared_prefix, "_run_suffixes", run_on_a_small_device)
    assert columns(questions) == alone
    assert together == [3, 1, 2, 1, 1]
    assert "3 questions do not fit into memory together: halved" in caplog.text


@pytest.mark.parametrize("window", ["1", "2", "bottom", "top"])
def test_engine_and_reference_agree_on_every_flow_and_measure(
    window: str, model: MultimodalModel, prepared: Prepared
) -> None:
    ours = _columns(model, prepared, window=window, whole_answer=True)
    theirs = _columns(model, prepared, window=window, engine="reference", whole_answer=True)
    assert ours["flow"] == theirs["flow"]
    assert ours["edges"] == theirs["edges"]
    compared = 0
    for name in ("p_knockout", "logprob_change", "answer_logprob_change", "last_token_change_percent", "attention"):
        for mine, other in zip(ours[name], theirs[name], strict=True):
            assert (mine is None) == (other is None)
            if mine is not None:
                # Log-probabilities of a vocabulary of some hundred tokens: nats, where fp32 is good to 1e-5.
                limit = {"p_knockout": 1e-6, "last_token_change_percent": 2e-3}.get(name, 2e-5)
                assert mine == pytest.approx(other, abs=limit)
                compared += 1
    assert compared >= 4 * LAYERS * (len(FLOWS) - 8)


def test_everything_that_is_asked_for_is_there(model: MultimodalModel, prepared: Prepared) -> None:
    columns = _columns(model, prepared, {"image->last": [0, 1, 2, 3], "related~moved->question": [0, 2]})
    assert list(zip(columns["flow"], columns["layer"], strict=True)) == [
        ("image->last", 0), ("image->last", 1), ("image->last", 2), ("image->last", 3),
        ("related~moved->question", 0), ("related~moved->question", 2),
    ]  # fmt: skip
    assert columns["answer_logprob_change"] == columns["last_token_change_percent"] == [None] * 6
    assert None not in columns["p_knockout"] + columns["attention"]
    assert 0 <= columns["noise_floor"] < 1e-6
    assert 0 <= columns["noise_floor_percent"] < 1e-3


def test_a_missing_flow_has_rows_without_measures(model: MultimodalModel, prepared: Prepared) -> None:
    columns = _columns(model, prepared, {"object->last": [0, 1], "image~random1->question": [0]}, window="1")
    missing = edges_of(parse_flow("image~random1->question"), prepared.positions, 0, prepared.question.question_id)
    assert columns["edges"][2] == (0 if not missing else columns["edges"][2])
    for name in ("p_knockout", "attention", "correct"):
        assert [value is None for value in columns[name]] == [edges == 0 for edges in columns["edges"]]


def test_the_whole_image_hidden_everywhere_is_the_image_removed(model: MultimodalModel, prepared: Prepared) -> None:
    edges = edges_of(parse_flow("image->all"), prepared.positions, 0, "")
    clean = run_clean(model, prepared, int(edges[0].targets[0]))
    removed = full_forward(model, prepared, image_removed(prepared)).logits.double().softmax(-1)
    assert float((removed - clean.logits.double().softmax(-1)).abs().max()) > 1e-3, "the image does nothing"
    columns = _columns(model, prepared, {"image->all": [LAYERS - 1]}, window="bottom")
    # The image's own positions lie before all others and are not changed by removing it.
    assert columns["p_knockout"][0] == pytest.approx(float(removed[0, ANSWER[0]]), abs=1e-6)
    columns = _columns(model, prepared, {"image->all": [0]}, window="top")
    assert columns["p_knockout"][0] == pytest.approx(float(removed[0, ANSWER[0]]), abs=1e-6)


def test_a_sum_of_all_targets_is_the_joint_knockout(model: MultimodalModel, prepared: Prepared) -> None:
    targets = ("separator", "question", "instruction", "last")
    summed = "+".join(f"image->{target}" for target in targets if len(prepared.positions[target]))
    columns = _columns(model, prepared, {"image->all": [1, 2], summed: [1, 2]})
    assert columns["p_knockout"][:2] == pytest.approx(columns["p_knockout"][2:], abs=1e-6)
    assert columns["edges"][:2] == columns["edges"][2:]


def test_a_whole_answer_is_scored_as_its_tokens_one_after_another(model: MultimodalModel, prepared: Prepared) -> None:
    columns = _columns(model, prepared, {"image->last": [1]}, whole_answer=True)
    assert columns["p_knockout"] == pytest.approx(
        _columns(model, prepared, {"image->last": [1]})["p_knockout"], abs=1e-6
    )

    def logprobs(edges: Sequence[Edges]) -> np.ndarray:
        """The definition: one token at a time, each predicted by a forward of its own."""
        found = []
        for place in range(len(ANSWER)):
            longer = prepared.answered_by(ANSWER[: place + 1])
            blocking = Blocking(
                [each.extended_by(prepared.positions.length - 1, place) for each in edges], Window(0, 1)
            )
            with torch.inference_mode():
                network = model.network.base_model
                with using(blocking):
                    states = network(**longer.inputs, use_cache=False).last_hidden_state
            found.append(torch.log_softmax(model.logits(states[:, -1])[0].double(), -1)[ANSWER[place]])
        return np.array(found)

    edges = edges_of(parse_flow("image->last"), prepared.positions, 0, "")
    before, after = logprobs([]), logprobs(edges)
    assert columns["answer_logprob_change"][0] == pytest.approx((after - before).sum(), abs=1e-5)
    last = 100 * (np.exp(after[-1] - before[-1]) - 1)
    assert columns["last_token_change_percent"][0] == pytest.approx(last, abs=1e-3)
    assert abs(last - columns["change_percent"][0]) > 0.1
    assert abs(columns["answer_logprob_change"][0] - columns["logprob_change"][0]) > 1e-4


class _Weights(Plain):
    """Attend plainly, and keep the softmax weights of every layer, computed the slow way."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def attend(self, call: Call) -> torch.Tensor:
        groups = call.query.shape[1] // call.key.shape[1]
        scores = call.query @ call.key.repeat_interleave(groups, dim=1).transpose(2, 3) * call.scaling
        self.weights.append(scores.masked_fill(~call.visible(), -torch.inf).softmax(-1)[0])
        return super().attend(call)


def test_attention_mass_is_the_share_of_the_clean_weights_on_blocked_edges(
    model: MultimodalModel, prepared: Prepared
) -> None:
    names = ["image->question", "related->question", "question->last", "only:image->question->last"]
    flows = [edges_of(parse_flow(name), prepared.positions, 0, "") for name in names]
    clean = run_clean(model, prepared, int(prepared.positions["all"][0]))
    found = attention_mass(clean, flows).numpy()
    seen = _Weights()
    full_forward(model, prepared, seen)
    for number, edges in enumerate(flows):
        for layer in range(LAYERS):
            mass: dict[int, torch.Tensor] = {}
            for sources, targets, _ in edges:
                for target in targets.tolist():
                    mass[target] = mass.get(target, 0) + seen.weights[layer][:, target, sources].sum(-1)
            assert found[number, layer] == pytest.approx(float(torch.stack(list(mass.values())).mean()), abs=1e-6)
    assert (found > 0).all()
    assert (found <= 1).all()


def test_the_answer_of_a_model_can_be_scored(model: MultimodalModel, prepared: Prepared) -> None:
    generated = answer(model, prepared)
    answered = Answered(prepared, generated.text, generated.tokens)
    (outcome,) = knock_out(model, [answered], {"image->last": [0]}, "1", ENGINES["knockout"], 0, True)
    assert np.isfinite(outcome.columns()["answer_logprob_change"]).all()
