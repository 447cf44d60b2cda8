"""What the engine would ask of a GPU, held without one: `fake_cuda` records it on models of true width."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from crossflow.verify import clock
from fake_cuda import CUDA, Measured, NoGuardError, Record, _guards, fake_cuda, measure, watching

PARTS = ("clean", "knockouts", "modules", "patches", "mass", "lens", "answers")
TOGETHER = ("clean", "knockouts", "lens", "answers")
LONG = ("llama3-llava-next-8b", "qwen25-vl-7b", "gemma3-4b")
SLOW = ("llava15-13b", "gemma3-12b")
MODELS = [
    "llava15-7b",
    "llava16-vicuna-7b",
    *(pytest.param(name, marks=pytest.mark.long) for name in LONG),
    *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW),
]

# The most launches per question and layer: one question alone, and three together. `python -m fake_cuda` prints them.
_LLAMA = {"clean": (49, 18), "knockouts": (77, 39), "mass": (16, None), "lens": (49, 18), "answers": (149, 57)}
_GROUPED = _LLAMA | {"knockouts": (88, 50)}
# Norms of queries and keys and after each block, and two rotary embeddings.
_GEMMA = {"clean": (93, 32), "knockouts": (142, 74), "mass": (16, None), "lens": (93, 32), "answers": (282, 102)}
LAUNCHES = {
    "llava15-7b": _LLAMA,
    "llava15-13b": _LLAMA,
    "llava16-vicuna-7b": _LLAMA,
    "llama3-llava-next-8b": _GROUPED,
    "qwen25-vl-7b": _GROUPED,
    "gemma3-4b": _GEMMA,
    "gemma3-12b": _GEMMA,
}

# Where the host waits for the device, or the device for the host, for one question: (kind, function) -> how often.
_PLACES = {("to cuda", "packed.Packing.on"): 1}
WAITS = {
    "clean": _PLACES,
    "knockouts": {("to cuda", "shared_prefix_attention.masks_of"): 2, ("to cuda", "shared_prefix._on"): 2},
    # The third copy: the places of all replaced outputs, in all layers.
    "modules": {("to cuda", "shared_prefix_attention.masks_of"): 2, ("to cuda", "shared_prefix._on"): 3},
    "patches": {("to cuda", "shared_prefix_attention.masks_of"): 2, ("to cuda", "shared_prefix._on"): 1},
    "mass": {("to cuda", "attention_mass.attention_weights"): 1, ("to cuda", "attention_mass.head_mass"): 1},
    "lens": _PLACES | {("to cuda", "logit_lens.track"): 2, ("number", "logit_lens.track"): 2},
    # The prompt and two further passes: each says where its tokens stand, which they are, and which come next.
    "answers": {
        ("to cuda", "model.Prepared.answered_by"): 1,
        ("to cuda", "packed.Packing.on"): 3,
        ("to cuda", "greedy._advance"): 5,
        ("number", "greedy._advance"): 3,
        ("to cuda", "greedy._mask_of"): 1,
        ("to cpu", "answers.answer_together"): 1,
    },
}
# Beside these, by the model's type: those in the code of transformers before the first decoder layer, and those for
# masks that a model requests.
_FED = {("number", "masking_utils._ignore_causal_mask_sdpa"): 1}
_LLAVA_NEXT = {
    ("to cpu", "encoding.encode_together"): 1,
    ("to cuda", "modeling_llava_next.LlavaNextModel.pack_image_features"): 1,
} | _FED
_QWEN = {
    ("number", "vision_utils.get_vision_position_ids"): 2,
    ("to cuda", "vision_utils.get_vision_position_ids"): 1,
    ("count", "vision_utils.get_vision_cu_seqlens"): 1,
    ("number", "vision_utils.get_vision_window_index"): 1,
    ("to cuda", "vision_utils.get_vision_window_index"): 1,
    ("count", "vision_utils.get_vision_window_index"): 1,
    ("number", "modeling_qwen2_5_vl.Qwen2_5_VLVisionAttention.forward"): 9,
    ("number", "modeling_qwen2_5_vl.Qwen2_5_VLModel.get_image_features"): 1,
    ("number", "modeling_qwen2_5_vl.Qwen2_5_VLModel.get_placeholder_mask"): 1,
    ("count", "modeling_qwen2_5_vl.Qwen2_5_VLModel.get_rope_index"): 3,
    ("number", "modeling_qwen2_5_vl.Qwen2_5_VLModel.get_rope_index"): 3,
    ("to cuda", "modeling_qwen2_5_vl.Qwen2_5_VLModel.get_rope_index"): 1,
    ("number", "modeling_qwen2_5_vl.Qwen2_5_VLModel.get_vision_position_ids"): 3,
} | _FED
_GEMMA_FED = {("number", "modeling_gemma3.Gemma3Model.get_placeholder_mask"): 1}
_GEMMA_RUN = _GEMMA_FED | {("to cpu", "forward._visible"): 2}
_STEPS = {("number", "masking_utils.find_packed_sequence_indices"): 2}
BESIDE = {
    "llava": {"clean": _FED, "lens": _FED, "answers": _FED | _STEPS},
    "llava_next": {"clean": _LLAVA_NEXT, "lens": _LLAVA_NEXT, "answers": _LLAVA_NEXT | _STEPS},
    "qwen2_5_vl": {"clean": _QWEN, "lens": _QWEN, "answers": _QWEN},
    "gemma3": {
        "clean": _GEMMA_RUN,
        "lens": _GEMMA_RUN,
        **{part: {("to cuda", "shared_prefix_attention.masks_of"): 4} for part in ("knockouts", "modules", "patches")},
        "mass": {("to cuda", "attention_mass.attention_weights"): 2, ("to cuda", "attention_mass.head_mass"): 1},
        "answers": _GEMMA_FED
        | {
            ("to cpu", "greedy._Edges.__init__"): 2,
            ("to cuda", "greedy._mask_of"): 4,
            ("number", "masking_utils.find_packed_sequence_indices"): 4,
        },
    },
}
# Functions of transformers that index a tensor of the device with one of the CPU.
MIXED = {
    "qwen2_5_vl": {
        "modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel.permute_input_for_window_attn",
        "modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel.forward",
    }
}
# The shares of the suffixes' kernel calls, and of their queries, that take the kernel without a bias, in 4 layers; masks
# that a model requests are biases.
WITHOUT_BIAS = {"gemma3": (0.0, 0.0)}
WITHOUT_BIAS_ELSE = (12 / 28, 9 / 17)


@pytest.fixture(scope="module", autouse=True)
def _guarded() -> None:
    try:
        _guards()
    except NoGuardError as reason:
        pytest.skip(f"this PyTorch cannot be told that there is a CUDA device: {reason}")


class Runs:
    """One model with one question and with three."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.alone: Measured = measure(name, 1, PARTS)
        self.together: Measured = measure(name, 3, TOGETHER)

    def records(self) -> Iterator[tuple[str, Record]]:
        for measured in (self.alone, self.together):
            for part, record in measured.parts.items():
                yield f"{part} of {measured.questions}", record


@pytest.fixture(scope="module", params=MODELS)
def runs(request: pytest.FixtureRequest) -> Runs:
    return Runs(request.param)


def test_no_tensor_of_the_cpu_meets_one_of_the_device(runs: Runs) -> None:
    allowed = MIXED.get(runs.alone.model_type, set())
    found = {(part, *each) for part, record in runs.records() for each in record.mixed}
    assert not {each for each in found if each[-1].function not in allowed}


def test_the_host_waits_exactly_where_stated(runs: Runs) -> None:
    beside = BESIDE[runs.alone.model_type]
    for part, record in runs.alone.parts.items():
        assert record.waits_by_function() == WAITS[part] | beside.get(part, {}), list(record.waits)


def test_the_host_never_waits_inside_the_layer_loop(runs: Runs) -> None:
    assert not {part: record.waits_inside() for part, record in runs.records() if record.waits_inside()}


def test_launches_stay_within_their_budget(runs: Runs) -> None:
    for part, (alone, together) in LAUNCHES[runs.name].items():
        assert 0 < runs.alone.launches(part) <= alone, part
        if part in TOGETHER:
            assert 0 < runs.together.launches(part) <= together, part


def test_the_launches_behind_the_hours_are_within_the_budgets() -> None:
    budgets = LAUNCHES["llava15-7b"]
    assert (
        pytest.approx(budgets["clean"][1] + budgets["knockouts"][1] + budgets["mass"][0], rel=0.05)
        == clock.KNOCKOUT_LAUNCHES
    )
    assert clock.ANSWER_LAUNCHES[True] == pytest.approx(budgets["answers"][1], rel=0.05)
    more = LAUNCHES["llama3-llava-next-8b"]["knockouts"][1] - budgets["knockouts"][1]
    assert more == clock.GROUPED_LAUNCHES


def test_kernels_get_arguments_that_cuda_takes(runs: Runs) -> None:
    for part, record in runs.records():
        assert not record.misaligned, part
    assert runs.alone.parts["knockouts"].kernels


def test_the_share_of_suffixes_attended_without_a_bias_is_as_stated(runs: Runs) -> None:
    expected = WITHOUT_BIAS.get(runs.alone.model_type, WITHOUT_BIAS_ELSE)
    assert runs.alone.parts["knockouts"].without_bias() == pytest.approx(expected, abs=0.005)


@pytest.fixture
def layer() -> SimpleNamespace:
    """A model of one layer, which gives back what it is given."""
    return SimpleNamespace(layers=nn.ModuleList([nn.Identity()]))


def test_waits_and_mixtures_are_seen_inside_and_outside_the_layers(layer: SimpleNamespace) -> None:
    layer.layers[0].register_forward_hook(lambda *_: bool(torch.ones(2, device=CUDA).any()), prepend=True)
    real = torch.tensor([0, 2])
    with fake_cuda(), watching(layer) as record:
        known = real.to(CUDA)
        assert (known == 2).nonzero().shape == (1, 1)
        assert known.tolist() == [0, 2]
        torch.zeros(3, 4, device=CUDA)[real]
        layer.layers[0](known)
        known.cpu()
        torch.cuda.synchronize(CUDA)
        real.pin_memory().to(CUDA, non_blocking=True)
    assert [(kind, inside) for kind, _, inside in record.waits] == [
        ("to cuda", False), ("count", False), ("number", False), ("number", True), ("to cpu", False),
        ("everything", False),
    ]  # fmt: skip
    assert [name for name, _ in record.mixed] == ["index"]
    assert record.inside == {"ones": 1, "any": 1}


def test_arguments_that_cuda_refuses_are_seen(layer: SimpleNamespace) -> None:
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    with fake_cuda(), watching(layer) as record:
        query, key, value = (torch.zeros(1, 2, 5, 64, dtype=torch.float16, device=CUDA) for _ in range(3))
        kernel(
            query,
            key,
            value,
            torch.zeros(1, 1, 5, 8, dtype=torch.float16, device=CUDA)[..., :5].expand(1, 2, 5, 5),
            True,
        )
        assert not record.misaligned
        kernel(query, key, value, torch.zeros(1, 2, 5, 5, device=CUDA), True)
        kernel(
            torch.zeros(5, 641, dtype=torch.float16, device=CUDA)[:, 1:].view(1, 5, 10, 64).transpose(1, 2)[:, :2],
            key,
            value,
            None,
            True,
        )
    assert {what for what, _ in record.misaligned} == {
        "type of bias",
        "stride of bias",
        "stride of query",
        "offset of query",
    }
    assert record.kernels == {True: 2, False: 1}


def test_the_borrowed_guard_is_given_back() -> None:
    before = list(_guards())
    with pytest.raises(ZeroDivisionError), fake_cuda():
        assert torch.zeros(1, device=CUDA).device == CUDA
        raise ZeroDivisionError
    assert list(_guards()) == before
