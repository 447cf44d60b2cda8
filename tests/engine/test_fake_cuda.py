"""What the engine would ask of a GPU, held without one: `fake_cuda` records it on models of true width."""

from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from fake_cuda import CUDA, Measured, NoGuardError, Record, _guards, fake_cuda, measure, watching

PARTS = ("clean", "knockouts", "mass", "lens")
TOGETHER = ("clean", "knockouts")
LONG = ("llava15-13b", "llama3-llava-next-8b", "qwen25-vl-7b", "gemma3-12b")
MODELS = [
    "llava15-7b",
    "llava16-vicuna-7b",
    "gemma3-4b",
    *(pytest.param(name, marks=pytest.mark.long) for name in LONG),
]

# The most launches per question and layer: one question alone, and three together. `python -m fake_cuda` prints them.
_LLAMA = {"clean": (50, 50), "knockouts": (102, 70), "mass": (17, None), "lens": (47, None)}
_GROUPED = {"clean": (50, 50), "knockouts": (110, 78), "mass": (19, None), "lens": (47, None)}
# Norms of queries and keys and after each block, and two rotary embeddings.
_GEMMA = {"clean": (94, 94), "knockouts": (161, 99), "mass": (19, None), "lens": (91, None)}
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
WAITS = {
    "clean": {},
    "knockouts": {
        ("number", "shared_prefix._require_shared_prefix"): 2,
        ("to cuda", "shared_prefix._Group.__init__"): 4,
        ("number", "forward.require_legal_keys"): 1,
    },
    "mass": {("to cuda", "attention_mass.attention_mass"): 1},
    "lens": {("to cuda", "logit_lens._read_off"): 2, ("number", "logit_lens._read_off"): 2},
}
# Those in the code of transformers before the first decoder layer, by the model's type.
_LLAVA_NEXT = {("to cuda", "modeling_llava_next.LlavaNextModel.pack_image_features"): 1}
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
}
_GEMMA_WAITS = {("number", "modeling_gemma3.Gemma3Model.get_placeholder_mask"): 1}
TRANSFORMERS_WAITS = {
    "llava": {"lens": {("number", "modeling_llava.LlavaModel.get_placeholder_mask"): 1}},
    "llava_next": {
        "clean": {("to cpu", "encoding.encode_together"): 1} | _LLAVA_NEXT,
        "lens": {
            ("number", "modeling_llava_next.LlavaNextModel.get_placeholder_mask"): 1,
            ("number", "modeling_llava_next.get_anyres_image_grid_shape"): 1,
            ("number", "modeling_llava_next.image_size_to_num_patches"): 1,
            ("number", "modeling_llava_next.unpad_image"): 1,
        }
        | _LLAVA_NEXT,
    },
    "qwen2_5_vl": {"clean": _QWEN, "lens": _QWEN},
    "gemma3": {"clean": _GEMMA_WAITS, "lens": _GEMMA_WAITS},
}
# Functions of transformers that index a tensor of the device with one of the CPU.
MIXED = {
    "qwen2_5_vl": {
        "modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel.permute_input_for_window_attn",
        "modeling_qwen2_5_vl.Qwen2_5_VisionTransformerPretrainedModel.forward",
    }
}
# The shares of the suffixes' kernel calls, and of their queries, that take the kernel without a bias.
WITHOUT_BIAS = (0.0, 0.0)


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
    beside = TRANSFORMERS_WAITS[runs.alone.model_type]
    for part, record in runs.alone.parts.items():
        assert record.waits_by_function() == WAITS[part] | beside.get(part, {}), list(record.waits)


def test_the_host_never_waits_inside_the_layer_loop(runs: Runs) -> None:
    assert not {part: record.waits_inside() for part, record in runs.records() if record.waits_inside()}


def test_launches_stay_within_their_budget(runs: Runs) -> None:
    for part, (alone, together) in LAUNCHES[runs.name].items():
        assert 0 < runs.alone.launches(part) <= alone, part
        if part in TOGETHER:
            assert 0 < runs.together.launches(part) <= together, part


def test_kernels_get_arguments_that_cuda_takes(runs: Runs) -> None:
    for part, record in runs.records():
        assert not record.misaligned, part
    assert runs.alone.parts["knockouts"].kernels


def test_the_share_of_suffixes_attended_without_a_bias_is_as_stated(runs: Runs) -> None:
    assert runs.alone.parts["knockouts"].without_bias() == pytest.approx(WITHOUT_BIAS, abs=0.005)


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
