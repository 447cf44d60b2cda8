"""``crossflow check``: right models pass, and each wrong one fails the check that is about it."""

import copy
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.records import Box
from crossflow.engine.forward import Readout, full_forward
from crossflow.models.architectures import ARCHITECTURES
from crossflow.models.attention import Plain
from crossflow.models.loading import load_model
from crossflow.models.model import ModelSettings, MultimodalModel
from crossflow.models.visual_tokens import Tiling
from crossflow.verify import model_check as checking
from crossflow.verify.model_check import ROUNDING, Check, checks, turned
from loaded_families import SIZES, Loaded, middle, noise, question_about
from spoiling import edit_image_processor, set_post_processor
from tiny import CPU
from tiny_families import FAMILIES, QWEN_TEMPLATE, load, write

ALL = ["positions"] * 2 + ["geometry", "boxes", "edges"] * 2 + ["prompt", "aspects", "causality", "floor", "engine"]
SIZE = SIZES[0]


@pytest.fixture(scope="module")
def loaded_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Loaded]:
    root, made = tmp_path_factory.mktemp("family"), {}

    def load(name: str) -> Loaded:
        if name not in made:
            made[name] = Loaded(name, root)
        return made[name]

    return load


@pytest.fixture(scope="module")
def read_once(repo: Path) -> MultimodalModel:
    return load_model(ModelSettings(repo / "resources/mini-llava", "vicuna-v1"), CPU)


@pytest.fixture
def mini(read_once: MultimodalModel) -> MultimodalModel:
    """A model that a test may spoil."""
    return replace(read_once, network=copy.deepcopy(read_once.network), processor=copy.deepcopy(read_once.processor))


def _found(model: MultimodalModel, *boxes: Box) -> list[Check]:
    return list(checks(model, question_about(*(boxes or (middle(SIZE),))), noise(SIZE), 2))


def _failed(found: list[Check]) -> set[str]:
    return {check.name for check in found if not check.passed}


def _packing(model: MultimodalModel, change: Callable[[torch.Tensor], torch.Tensor]) -> MultimodalModel:
    """The same model with another packing in its entry of the table."""
    pack = model.architecture.pack
    entry = replace(model.architecture, pack=lambda network, labels, size: change(pack(network, labels, size)))
    return replace(model, architecture=entry)


@pytest.mark.long
@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_passes(loaded_once: Callable[[str], Loaded], name: str) -> None:
    model = loaded_once(name).model
    before = full_forward(model, loaded_once(name).prepared[SIZE], Plain()).logits
    found = _found(model, middle(SIZE), Box(3, 5, 60, 40))
    assert [check.name for check in found] == ALL
    assert not _failed(found), found
    for check in found:
        if match := re.search(r"(\d+) follow any, and 32 changes tell (\d+) apart", check.found):
            assert int(match[1]) == int(match[2]) > 10
    assert torch.equal(full_forward(model, loaded_once(name).prepared[SIZE], Plain()).logits, before), (
        "a check left a trace"
    )


@pytest.mark.parametrize(
    "dtype", [name if name == "float32" else pytest.param(name, marks=pytest.mark.long) for name in ROUNDING]
)
def test_mini_llava_passes_in_every_type(repo: Path, dtype: str) -> None:
    model = load_model(ModelSettings(repo / "resources/mini-llava", "vicuna-v1", dtype=dtype), CPU)
    found = _found(model)
    assert [check.name for check in found] == ALL
    assert not _failed(found), found
    floor = next(check for check in found if check.name == "floor").found
    assert f"allowed {ROUNDING[dtype]:.0e}" in floor
    assert float(re.search(r"at most (\S+)", floor)[1]) > 0, "one probability is to be rounded at least"


WRONG_ORDERS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "transposed": lambda packed: packed.reshape(6, 6, -1).transpose(0, 1).reshape(36, -1),
    "upside down": lambda packed: packed.flip(0),
    "two neighbours exchanged": lambda packed: packed[[1, 0, *range(2, 36)]],
    "one further": lambda packed: packed.roll(1, 0),
}


@pytest.mark.parametrize("order", WRONG_ORDERS)
def test_a_wrong_order_of_the_visual_tokens_is_caught(mini: MultimodalModel, order: str) -> None:
    found = _found(_packing(mini, WRONG_ORDERS[order]))
    assert "geometry" in _failed(found) <= {"geometry", "boxes", "edges"}


def test_patches_that_are_merged_in_the_wrong_order_are_caught(loaded_once: Callable[[str], Loaded]) -> None:
    def in_rows(network: Any, labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        """As if patches came row by row."""
        high, wide = (2 * round(length / 28) for length in size[::-1])
        cells = labels.reshape(high // 2, 2, wide // 2, 2, -1)
        return cells.amax((1, 3)).reshape(-1, labels.shape[-1])

    model = loaded_once("qwen2_vl").model
    assert "geometry" in _failed(_found(replace(model, architecture=replace(model.architecture, pack=in_rows))))


def test_another_number_of_visual_tokens_is_caught(mini: MultimodalModel) -> None:
    found = _found(_packing(mini, lambda packed: packed[:-1]))
    assert {"geometry", "boxes", "edges", "causality", "engine"} <= _failed(found)
    assert "Image features and image tokens do not match" in found[2].found


def test_a_base_that_is_no_whole_image_is_caught(loaded_once: Callable[[str], Loaded]) -> None:
    model = loaded_once("internvl").model
    tiling = Tiling(model.architecture.tiling.tiles, slice(1), model.architecture.tiling.options)
    found = _found(replace(model, architecture=replace(model.architecture, tiling=tiling)))
    assert "edges" in _failed(found)
    assert "right edge 0 of base and" in next(check.found for check in found if not check.passed)


def test_a_processor_that_crops_is_caught(mini: MultimodalModel) -> None:
    mini.processor.image_processor.do_pad = False
    found = _found(mini)
    assert _failed(found) == {"edges"}
    wide, tall = (check.found for check in found if check.name == "edges")
    assert "does not see the left and right edge" in wide
    assert "does not see the upper and lower edge" in tall


def test_a_processor_that_treats_boxes_otherwise_than_images_is_caught(mini: MultimodalModel) -> None:
    whole = mini.processor.image_processor

    class Zooming:
        """Cuts off the left half of what it normalises, and of nothing else."""

        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def __call__(self, image: Image.Image, **options: Any) -> Any:
            if options.get("do_normalize", True):
                image = image.crop((image.width // 2, 0, image.width, image.height))
            return whole(image, **options)

    mini.processor.image_processor = Zooming()
    assert _failed(_found(mini)) == {"boxes", "edges"}


def _leaking(tower: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output + 0.1 * output.mean(-2, keepdim=True)


def test_a_tower_that_mixes_patches_in_more_than_its_attention_is_caught(mini: MultimodalModel) -> None:
    mini.network.model.multi_modal_projector.register_forward_hook(_leaking)
    found = _found(mini)
    assert _failed(found) == {"geometry", "boxes"}
    assert "0 of 36 visual tokens follow" in found[2].found


def test_a_image_that_enters_the_texts_positions_is_caught(mini: MultimodalModel) -> None:
    def spread(layer: torch.nn.Module, positional: tuple[torch.Tensor, ...], named: dict[str, Any]) -> Any:
        hidden = positional[0].clone()
        hidden[:, -1] += hidden.mean(1)
        return (hidden, *positional[1:]), named

    mini.layers[0].register_forward_pre_hook(spread, with_kwargs=True)
    found = _found(mini)
    assert "geometry" in _failed(found)
    assert "positions of the text follow too" in found[2].found


def test_attention_in_both_directions_is_caught_though_the_configuration_says_nothing(mini: MultimodalModel) -> None:
    mini.layers[3].self_attn.is_causal = False
    found = _found(mini)
    assert _failed(found) == {"causality", "floor", "engine"}
    causality, floor = (next(check.found for check in found if check.name == name) for name in ("causality", "floor"))
    assert "the model is not causal" in causality
    assert "last: 86 of 86 earlier positions, from layer 3 on" in causality
    assert "positions before the targets attend to later ones" in floor


def test_a_layer_that_looks_ahead_without_attention_is_caught(mini: MultimodalModel) -> None:
    def ahead(layer: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        return output + 1e-3 * output.roll(-1, 1)

    mini.layers[7].register_forward_hook(ahead)
    found = _found(mini)
    assert "causality" in _failed(found)
    assert "last: 1 of 86 earlier positions, from layer 7 on" in next(
        check.found for check in found if check.name == "causality"
    )


def test_an_engine_that_is_not_exact_is_caught(mini: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = checking.ENGINES["knockout"]

    def rough(model: Any, work: Any) -> list[Readout]:
        ((clean, _),), (reading,) = work, exact(model, work)
        logits = reading.logits.clone()
        logits[-1, int(clean.logits.argmax())] -= 1e-3
        return [reading._replace(logits=logits)]

    monkeypatch.setitem(checking.ENGINES, "knockout", rough)
    assert _failed(_found(mini)) == {"floor", "engine"}


def test_knockouts_that_do_nothing_prove_nothing(mini: MultimodalModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def idle(model: Any, work: Any) -> list[Readout]:
        return [
            Readout(clean.logits.expand(len(rows), -1), clean.reading.further.expand(len(rows), -1))
            for clean, rows in work
        ]

    for name in checking.ENGINES:
        monkeypatch.setitem(checking.ENGINES, name, idle)
    assert _failed(_found(mini)) == {"engine"}


def test_weights_that_are_no_numbers_are_caught(mini: MultimodalModel) -> None:
    with torch.no_grad():
        mini.network.model.multi_modal_projector.linear_1.weight[0] = torch.nan
    found = _found(mini)
    assert {"geometry", "boxes", "edges", "floor", "engine"} <= _failed(found)
    assert found[2].found == "what the language model receives is not finite in float32"


def test_a_question_that_does_not_fit_the_prompt_ends_the_checks(mini: MultimodalModel) -> None:
    (found,) = checks(mini, replace(question_about(middle(SIZE)), question="What is <image>?"), noise(SIZE), 2)
    assert found == Check("positions", False, "the question contains the image's marker <image>")


def test_the_turned_image_shows_the_same_in_the_turned_boxes() -> None:
    image, box = noise(SIZE), Box(10, 20, 60, 30)
    question, other = turned(question_about(box), image)
    ((x, y, w, h),) = (chosen.box for chosen in question.objects)
    assert other.size == SIZE[::-1]
    part = np.asarray(other.crop((x, y, x + w, y + h)))
    assert np.array_equal(part.swapaxes(0, 1), np.asarray(image.crop((10, 20, 70, 50))))


def test_the_shortest_command_needs_no_option(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    assert main(["check", "--device", "cpu", "--output", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "mini-llava: llava, 8 layers, float32, prompt vicuna-v1"
    assert [line.split()[:2] for line in lines[1:-2]] == [["ok", name] for name in ALL]
    for name in lines[-2:]:
        assert Image.open(name).width > 700


@pytest.mark.long
def test_a_failed_check_is_named_in_one_sentence(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "cropping"
    folder.mkdir()
    for file in (repo / "resources/mini-llava").iterdir():
        text = file.read_bytes()
        (folder / file.name).write_bytes(text.replace(b'"do_pad": true', b'"do_pad": false'))
    command = ["check", "--model-path", str(folder), "--prompt", "vicuna-v1", "--device", "cpu"]
    image = ["--image", str(tmp_path / "wide.png"), "--box", "60,20,40,40", "--question", "Is the ball red?"]
    noise(SIZE).save(tmp_path / "wide.png")
    assert main([*command, *image, "--output", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert "FAILED  edges" in said.out
    assert said.err.splitlines()[-1] == (
        f"crossflow check: {folder} fails 2 of 13 checks: edges; fix its entry before studying it."
    )
    assert (tmp_path / "patches.png").is_file()
    assert main([*command, *image, "--processing", "pad", "--output", str(tmp_path)]) == 0


def test_a_packing_of_another_number_of_tokens_ends_in_one_sentence(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    entry = ARCHITECTURES["llava"]
    short = replace(entry, pack=lambda network, labels, size: entry.pack(network, labels, size)[:-1])
    monkeypatch.setitem(ARCHITECTURES, "llava", short)
    assert main(["check", "--device", "cpu", "--output", str(tmp_path)]) == 1
    said = capsys.readouterr()
    assert f"{tmp_path / 'patches.png'} is not drawn: the visual tokens do not form rows" in said.out
    assert "mini-llava fails 10 of 13 checks: geometry, boxes, edges, aspects, causality, floor, engine;" in said.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "gpt"], "params.yaml has no model 'gpt'; choose from mini-llava"),
        (["--model-path", "nowhere"], "nowhere has no config.json"),
        (["--model-path", "resources/mini-llava"], "has no chat template: set its prompt to vicuna-v1"),
        (["--image", "resources/example/questions.csv"], "does not decode"),
        (["--window", "16"], "A window of 16 layers does not fit mini-llava, which has 8"),
    ],
)
def test_bad_input_is_one_sentence(
    repo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
    options: list[str], message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(repo)
    assert main(["check", "--device", "cpu", "--output", str(tmp_path), *options]) == 1
    said = capsys.readouterr()
    assert message in said.err + said.out


def _written(name: str, to: Path) -> Path:
    write(to / name, FAMILIES[name])
    return to / name


def _said_by_check(folder: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What `crossflow check` prints of a folder that it does not let pass, the error last."""
    assert main(["check", "--model-path", str(folder), "--device", "cpu", "--output", str(output)]) == 1
    said = capsys.readouterr()
    last = said.err.strip().splitlines()[-1]
    assert last.startswith("crossflow check: ")
    return "\n".join([line for line in said.out.splitlines() if line.startswith("FAILED")] + [last])


def _template(text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / "chat_template.jinja").write_text(text) and None


SPOILT_FOLDERS: dict[str, tuple[str, Callable[[Path], None], str]] = {
    "doubled begin token": (
        "gemma3", lambda folder: set_post_processor(folder, "<bos> <bos> $A"), "begins a prompt with <bos> <bos>",
    ),
    "begun by another token": (
        "qwen2_vl", lambda folder: set_post_processor(folder, "<pad> $A"), "begins a prompt with <pad>",
    ),
    "template that does not parse": ("qwen2_vl", _template("{% for %}"), "chat template does not parse"),
    "template that raises": ("qwen2_vl", _template("{{ raise_exception('text only') }}"), "text only"),
    "template without the question": ("qwen2_vl", _template("<|image_pad|> What?"), "does not contain the question's text exactly once"),
    "template with the date": (
        "qwen2_vl", _template("{{ strftime_now('%d %b %Y') }} " + QWEN_TEMPLATE), "FAILED  prompt",
    ),
    "merged patches": (
        "qwen2_vl", lambda folder: edit_image_processor(folder, "merge_size", 1), "spatial_merge_size 2",
    ),
    "adapter": (
        "qwen2_vl", lambda folder: (folder / "adapter_config.json").write_text("{}") and None, "holds an adapter",
    ),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("how", SPOILT_FOLDERS)
def test_a_folder_that_is_spoilt_in_any_part_is_found(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], how: str
) -> None:
    name, spoil, message = SPOILT_FOLDERS[how]
    folder = _written(name, tmp_path)
    spoil(folder)
    assert message in _said_by_check(folder, tmp_path, capsys)


@pytest.mark.parametrize("after", ["<end>", "<end> <pad>"])
def test_what_a_tokenizer_adds_behind_the_prompt_is_said_and_left_out(tmp_path: Path, after: str) -> None:
    folder = _written("qwen2_vl", tmp_path)
    set_post_processor(folder, f"$A {after}")
    model = load(folder)
    found = checking.check_prompt(model, model.prepare(question_about(middle(SIZE)), noise(SIZE)))
    assert found.passed
    assert f"; {after.split()[-1]}, which the tokenizer adds behind it, is left out" in found.found


def test_a_token_behind_the_prompt_is_found_by_the_template(mini: MultimodalModel) -> None:
    prepared = mini.prepare(question_about(middle(SIZE)), noise(SIZE))
    assert checking.check_prompt(mini, prepared).passed
    tokenizer = mini.processor.tokenizer
    for place, token, there in (
        (None, tokenizer.eos_token_id, "</s>"),
        (0, tokenizer.bos_token_id, "2 of them begin-of-text"),
    ):
        ids = prepared.inputs["input_ids"][0].tolist()
        ids.insert(len(ids) if place is None else place, token)
        spoilt = replace(prepared, inputs=prepared.inputs | {"input_ids": torch.tensor([ids])})
        found = checking.check_prompt(mini, spoilt)
        assert not found.passed
        assert there in found.found


def test_images_of_any_aspect_have_to_reach_the_language_model(mini: MultimodalModel) -> None:
    question = question_about(middle(SIZE))
    found = checking.check_aspects(mini, question)
    assert found == Check(
        "aspects", True, "; ".join(f"{size}: 36 visual tokens" for size in ("320 x 320", "960 x 80", "80 x 960"))
    )
    pack = mini.architecture.pack

    def short_if_tall(network: Any, labels: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
        return pack(network, labels, size)[: 35 if size[1] > 4 * size[0] else 36]

    spoilt = replace(mini, architecture=replace(mini.architecture, pack=short_if_tall))
    found = checking._attempt("aspects", checking.check_aspects, spoilt, question)
    assert (found.passed, "Image features and image tokens do not match" in found.found) == (False, True)
