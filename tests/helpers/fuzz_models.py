"""Images, tokenizers and model folders, drawn and spoilt, with rules of their own for what must come of them.

No rule calls the code that it judges: orientation and colours are worked out on arrays, prompts are rendered with jinja2
and read back byte by byte from the vocabulary, and numbers are compared with those of transformers' own forward.
"""

import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import pre_tokenizers, processors
from transformers import AutoModelForImageTextToText, AutoProcessor, PreTrainedTokenizerFast
from transformers.utils import logging

from byte_tokenizers import bytes_tokenizer, processor_of
from crossflow.core.errors import BrokenQuestion
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.data.images import Images
from crossflow.engine.forward import full_forward
from crossflow.mini import random_model
from crossflow.models.attention import Plain
from crossflow.models.loading import load_model, sketch_model
from crossflow.models.model import ModelSettings, MultimodalModel
from crossflow.models.positions import positions_of
from crossflow.models.prompts import render, repeated, tokenize
from crossflow.models.visual_tokens import VisualTokens
from spoiling import edit_image_processor, edit_json

REPO = Path(__file__).resolve().parents[2]
CPU = torch.device("cpu")
ASKED = "Is the ball red or blue?"
VISUAL = 6

# Images.

MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F"),
    "JPEG": ("L", "RGB", "CMYK"),
    "WEBP": ("RGB", "RGBA"),
}
# From the stored array to the upright one, as EXIF defines its eight orientations.
UPRIGHT: dict[int, Callable[[np.ndarray], np.ndarray]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: stored[::-1].swapaxes(0, 1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: stored[:, ::-1].swapaxes(0, 1),
}
_ORIENTATION = 274  # tag of EXIF
_LOSSY = 48  # levels of grey that JPEG and WebP may change in the middle of a flat part
_CELLS, _CELL = 6, 16  # of mini-llava's tile: patches in a row, pixels of a patch


class StoredImage(NamedTuple):
    """An image of four flat parts, as a file holds it, and a question about one of them.

    Attributes:
        encoding, mode: Pillow's names of the file's format and pixels.
        size: Width and height as stored.
        orientation: What EXIF data say; None without them, other numbers than 1 to 8 say nothing.
        seed: Of the colours.
        given: The size that the data give: of the image upright or as stored, times a factor; None = no size.
        box: Left, top, width and height, in eighths of the given size.
        damage: Bytes that are cut off (negative), or overwritten at a place in thousandths; 0 = none.
    """

    encoding: str
    mode: str
    size: tuple[int, int]
    orientation: int | None
    seed: int
    given: tuple[str, float] | None
    box: tuple[int, int, int, int]
    damage: int


_sides = st.integers(1, 160) | st.sampled_from([1, 2, 3, 7, 1500, 333, 500])
stored_images = st.sampled_from([(kind, mode) for kind, modes in MODES.items() for mode in modes]).flatmap(
    lambda kind: st.builds(
        StoredImage,
        st.just(kind[0]),
        st.just(kind[1]),
        st.tuples(_sides, _sides),
        st.sampled_from([None, *range(1, 9), 0, 9, 65_535]),
        st.integers(0, 999),
        st.sampled_from(
            [None] * 3
            + [(base, factor) for base in ("upright", "stored") for factor in (1, 1, 2, 0.5)]
            + [("other", 1)]
        ),
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 8), st.integers(1, 8)),
        st.sampled_from([0] * 12 + [-1, -40, -400, 1, 300, 700, 999]),
    )
)


def _four_parts(image: StoredImage) -> tuple[Any, np.ndarray]:
    """The array that Pillow stores, and the right colours ``(height, width, 3)`` of the image as stored."""
    rng = np.random.default_rng(image.seed)
    width, height = image.size
    part = np.minimum(np.arange(height)[:, None] * 2 // height * 2 + np.arange(width)[None] * 2 // width, 3)
    grey = rng.integers(0, 256, 4)
    colours = rng.integers(0, 256, (4, 4))
    match image.mode:
        case "1":
            levels = grey > 127
            return Image.fromarray((levels[part] * 255).astype(np.uint8)).convert("1"), _grey(levels * 255, part)
        case "L":
            return Image.fromarray(grey[part].astype(np.uint8)), _grey(grey, part)
        case "LA":
            pixels = np.stack([grey[part], colours[part][..., 3]], -1).astype(np.uint8)
            return Image.fromarray(pixels, "LA"), _grey(grey, part)
        case "P":
            stored = Image.fromarray(part.astype(np.uint8), "P")
            stored.putpalette(colours[:, :3].astype(np.uint8).tobytes())
            return stored, colours[part][..., :3]
        case "RGB":
            return Image.fromarray(colours[part][..., :3].astype(np.uint8)), colours[part][..., :3]
        case "RGBA":
            return Image.fromarray(colours[part].astype(np.uint8), "RGBA"), colours[part][..., :3]
        case "CMYK":
            inks = colours[part]
            shown = (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255
            return Image.fromarray(inks.astype(np.uint8), "CMYK"), shown
        case "I;16":
            return Image.fromarray((grey[part] * 257).astype(np.uint16)), _grey(grey, part)
        case "I":
            return Image.fromarray(grey[part].astype(np.int32)), _grey(grey, part)
        case _:
            return Image.fromarray((grey[part] / 255).astype(np.float32)), _grey(grey, part)


def _grey(levels: np.ndarray, part: np.ndarray) -> np.ndarray:
    return np.repeat(levels[part][..., None], 3, -1)


def _encoded(image: StoredImage, pixels: Any) -> bytes:
    exif = Image.Exif()
    if image.orientation is not None:
        exif[_ORIENTATION] = image.orientation
    file = io.BytesIO()
    lossless = {"lossless": True, "exact": True} if image.encoding == "WEBP" else {}
    pixels.save(file, image.encoding, exif=exif, **lossless)
    content = file.getvalue()
    if image.damage < 0:
        return content[: image.damage]
    if image.damage:
        at = len(content) * image.damage // 1000
        return content[:at] + b"\xa5\x5a" + content[at + 2 :]
    return content


def _like(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether the sizes are one shape in two scales, where one side decides and the other is rounded."""
    return any(
        abs(size[one] * other[two] / other[one] - size[two]) <= 1 for one, two in ((0, 1), (1, 0))
    )  # fmt: skip


@lru_cache
def _mini() -> MultimodalModel:
    return sketch_model(ModelSettings(REPO / "resources" / "mini-llava", "vicuna-v1", patches="overlap"), CPU)


def use_image(image: StoredImage, folder: Path) -> None:
    """Open an image, fit a question's box to it, and prepare both for mini-llava."""
    pixels, colours = _four_parts(image)
    (folder / "images").mkdir()
    (folder / "images" / "1.jpg").write_bytes(_encoded(image, pixels))
    turned = UPRIGHT[image.orientation if image.orientation in UPRIGHT else 1](colours)
    upright, stored = (turned.shape[1], turned.shape[0]), image.size
    given = None
    if image.given is not None:
        base, factor = {"upright": upright, "stored": stored}.get(image.given[0], (977, 13)), image.given[1]
        given = (max(1, round(base[0] * factor)), max(1, round(base[1] * factor)))
    expected = turned
    if given is not None and not _like(upright, given) and _like(stored, given):
        expected = colours
    width, height = size = (expected.shape[1], expected.shape[0])
    scale = given or size
    x, y, w, h = (round(part * side / 8) for part, side in zip(image.box, scale * 2, strict=True))
    box = Box(x, y, w, h)
    question = ChosenQuestion(
        "1", "1", "ChooseAttr", "d", ASKED, "red", "red", "blue", (ChosenObject("object", "1", "ball", box),), given
    )
    with Images(folder) as images:
        fitted, shown = images.open_for(question)
    assert image.mode not in ("I", "F"), "numbers of which none is known to be white"
    assert given is None or _like(size, given), "boxes of an image of another shape"
    assert shown.mode == "RGB"
    if image.damage:
        # A damaged file may still be one, of another size, without orientation or with other colours.
        return
    assert shown.size == size
    if min(size) >= 48 or image.encoding != "JPEG":
        allowed = _LOSSY if image.encoding == "JPEG" else 2
        for row in (height // 4, height * 3 // 4):
            for column in (width // 4, width * 3 // 4):
                found = np.asarray(shown)[row, column].astype(float)
                assert np.abs(found - expected[row, column]).max() <= allowed, (row, column, found)
    (one,) = fitted.objects
    for ours, theirs, side, of in zip(one.box, box, size * 2, scale * 2, strict=True):
        assert abs(ours - theirs * side / of) <= 1
    _check_tokens(fitted, shown, one.box)


def _check_tokens(question: ChosenQuestion, shown: Image.Image, box: Box) -> None:
    """Related are the patches that the box covers, of the image padded to a square; none far from it."""
    related = _mini().prepare(question, shown).visual.related.reshape(_CELLS, _CELLS)
    side = max(shown.size)
    left, top = ((side - length) // 2 for length in shown.size)
    cell, reach = side / _CELLS, 3 * max(1.0, side / (_CELLS * _CELL)) + 1
    for row in range(_CELLS):
        for column in range(_CELLS):
            # A box includes its last row and column, and ends with the image.
            right, bottom = min(box.x + box.w + 1, shown.width), min(box.y + box.h + 1, shown.height)
            across = min(right + left, (column + 1) * cell) - max(box.x + left, column * cell)
            down = min(bottom + top, (row + 1) * cell) - max(box.y + top, row * cell)
            if across >= min(cell, reach) and down >= min(cell, reach) and min(across, down) >= cell / 2:
                assert related[row, column], (row, column, box)
            if min(across, down) < -reach:
                assert not related[row, column], (row, column, box)


# Tokenizers and templates.

SPECIAL = ("<s>", "</s>", "<pad>", "<|user|>")
_piece = st.sampled_from(["", "USER: ", "<|user|>", "\n", "Q&A: ", "<s>", "</s>", " [INST] ", "é", "狗 "])
_FOR_PARTS = (
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}"
    "{% endif %}{% endfor %}"
)
_contents = st.sampled_from(
    [_FOR_PARTS, "{{ message['content'] }}", "{{ message['content'] | trim }}"]
) | st.sampled_from(
    [
        "{{ message.content[0] }}{{ message.content[1].text }}",
        "<image>{{ message['content'] }}",
        "{{ raise_exception('no') }}",
        "{{ message['content'",
        "{{ 1 // 0 }}",
        "",
    ]
)


class Spoken(NamedTuple):
    """A tokenizer and its template.

    Attributes:
        before, after: Special tokens that the tokenizer puts around a text.
        opens, content, closes: Parts of the template.
        answers: What the template adds for the answer.
        form: Whether the processor or the tokenizer holds the template, one or several named ones.
        asked: The question.
    """

    before: tuple[str, ...]
    after: tuple[str, ...]
    opens: str
    content: str
    closes: str
    answers: str
    form: str
    asked: str


_around = st.lists(st.sampled_from(SPECIAL), max_size=2).map(tuple)
spoken = st.builds(
    Spoken,
    st.sampled_from([(), ("<s>",)]) | st.sampled_from([(), ("<s>",)]) | _around,
    _around,
    _piece,
    _contents,
    _piece,
    _piece,
    st.sampled_from(["processor", "tokenizer", "named"] * 3 + ["none named default", "none"]),
    st.sampled_from([ASKED, "Is it?", "Where is the cat", "狗?"])
    | st.sampled_from(["a <s> ?", " What", ""])
    | st.text(max_size=8),
)


@lru_cache
def _bytes_of() -> dict[str, int]:
    """Character of a byte-level vocabulary -> byte: bytes that print stand for themselves, others follow from 256 on."""
    prints = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in prints]
    alphabet = {chr(byte): byte for byte in prints} | {chr(256 + n): byte for n, byte in enumerate(others)}
    assert set(alphabet) == set(pre_tokenizers.ByteLevel.alphabet())
    return alphabet


def _read_back(tokenizer: PreTrainedTokenizerFast, ids: list[int]) -> str:
    """The text that tokens stand for, by the vocabulary alone."""
    named = {number: token for token, number in tokenizer.get_vocab().items()}
    whole = {*SPECIAL, "<image>"}
    said = b""
    for number in ids:
        token = named[number]
        said += token.encode() if token in whole else bytes(_bytes_of()[sign] for sign in token)
    return said.decode()


def use_tokenizer(drawn: Spoken, folder: Path) -> None:
    """Tokenise a prompt with a template and a post-processor."""
    tokenizer = bytes_tokenizer("<s>", SPECIAL[1:])
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL}
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single=" ".join([*drawn.before, "$A", *drawn.after]), special_tokens=list(ids.items())
    )
    answers = f"{{% if add_generation_prompt %}}{drawn.answers}{{% endif %}}"
    template = f"{drawn.opens}{{% for message in messages %}}{drawn.content}{{% endfor %}}{drawn.closes}{answers}"
    held: Any = {
        "named": {"tools": "x", "default": template}, "none named default": {"a": template, "b": "x"}, "none": None,
    }.get(drawn.form, template)  # fmt: skip

    def apply(messages: Any, chat_template: str, add_generation_prompt: bool, **more: Any) -> Any:
        return tokenizer.apply_chat_template(
            messages, chat_template=chat_template, add_generation_prompt=add_generation_prompt, tokenize=False, **more
        )

    processor = processor_of(tokenizer, apply_chat_template=apply)
    (processor if drawn.form in ("processor", "named") else tokenizer).chat_template = held
    prompt = tokenize(render("chat-template", drawn.asked, processor), processor, repeated(processor, VISUAL))
    found = prompt.ids.tolist()
    # Rendered anew: as a list of parts, or as a text with the image's marker.
    environment = jinja2.Environment(trim_blocks=True, lstrip_blocks=True)
    user = f"<image>\n{drawn.asked} \nAnswer the question using a single word or phrase."
    parts = [{"type": "image"}, {"type": "text", "text": user.removeprefix("<image>\n")}]
    written = set()
    for content in (parts, user):
        try:
            written.add(
                environment.from_string(template).render(
                    messages=[{"role": "user", "content": content}], add_generation_prompt=True
                )
            )
        except (jinja2.TemplateError, ZeroDivisionError, TypeError):
            continue
    begun = drawn.before == ("<s>",)
    text = _read_back(tokenizer, found)
    assert text.count("<image>") == VISUAL
    right = {one.replace("<image>", "<image>" * VISUAL) for one in written if one.count("<image>") == 1}
    if begun:
        right = {one if one.startswith("<s>") else f"<s>{one}" for one in right}
    assert text in right, (text, right)
    assert found[:2] != [ids["<s>"]] * 2
    question = ChosenQuestion("1", "1", "c", "", drawn.asked, "a", None, None, ())
    positions = positions_of(prompt, question, VisualTokens(*np.zeros((5, VISUAL), dtype=bool)))
    assert positions["last"].tolist() == [len(found) - 1]
    spoken_there = _read_back(tokenizer, [found[place] for place in positions["question"]])
    assert spoken_there.split() == drawn.asked.split()


# Model folders.


@lru_cache
def whole_folder() -> Path:
    """A small good model, written once."""
    folder = Path(tempfile.mkdtemp())
    random_model.save(folder, 0, random_model.Geometry(layers=2, width=32, vision_layers=2, vision_width=32))
    return folder


NAMED = (
    "layers.1.self_attn.q_proj.weight",
    "layers.0.mlp.down_proj.weight",
    "model.norm.weight",
    "layers.0.self_attn.k_proj.bias",
    "multi_modal_projector.linear_1.weight",
    "lm_head.weight",
)
SETTINGS: dict[str, tuple[Any, ...]] = {
    "text_config.num_hidden_layers": (1, 2, 3),
    "text_config.hidden_size": (32, 64),
    "text_config.num_attention_heads": (2, 4, 8),
    "text_config.num_key_value_heads": (2, 4),
    "text_config.model_type": ("llama", "mistral", "phi", "qwen2", "gemma2", "opt", "nothing"),
    "text_config.rms_norm_eps": (1e-6, 1e-2),
    "text_config.vocab_size": (5, 4000),
    "vision_config.patch_size": (6, 12, 18, 0),
    "vision_config.image_size": (72, 84, 36),
    "vision_config.num_hidden_layers": (1, 2, 3),
    "vision_config.model_type": ("clip_vision_model", "siglip_vision_model", "nothing"),
    "vision_feature_layer": (-2, -1, -9),
    "vision_feature_select_strategy": ("default", "full", "all"),
    "image_token_index": (4, 3, 10_000),
    "image_token_id": (4, 3, 10_000),
    "model_type": ("llava", "llava_next", "paligemma", "blip", 3),
    "image_grid_pinpoints": ([[72, 144]],),
}
PROCESSING: dict[str, tuple[Any, ...]] = {
    "crop_size": ({"height": 72, "width": 72}, {"height": 84, "width": 84}, 72, None),
    "size": ({"shortest_edge": 72}, {"shortest_edge": 60}, {"height": 72, "width": 72}, {"longest_edge": 72}),
    "do_pad": (True, False),
    "do_center_crop": (True, False),
    "do_resize": (True, False),
    "do_normalize": (True, False),
    "image_mean": ([0.5, 0.5, 0.5], [0.5]),
    "image_processor_type": ("CLIPImageProcessor", "LlavaNextImageProcessor", "SiglipImageProcessor", "None"),
    "resample": (2, 3, 99),
}
FILES = ("config.json", "processor_config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
model_changes = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(["missing", "extra", "renamed", "reshaped", "nan"]), st.sampled_from(NAMED)),
        st.sampled_from(list(SETTINGS)).flatmap(
            lambda key: st.tuples(st.just(f"config:{key}"), st.sampled_from(SETTINGS[key]))
        ),
        st.sampled_from(list(PROCESSING)).flatmap(
            lambda key: st.tuples(st.just(f"processor:{key}"), st.sampled_from(PROCESSING[key]))
        ),
        st.tuples(st.sampled_from(["absent", "cut", "flipped"]), st.sampled_from(FILES)),
        st.tuples(st.just("beside"), st.sampled_from(["adapter_config.json", "chat_template.jinja", "more.json"])),
        st.tuples(st.just("patch_size"), st.sampled_from([12, 14, None])),
    ),
    max_size=2,
)


def _spoil(folder: Path, how: str, what: Any) -> None:
    weights = folder / "model.safetensors"
    kind, _, key = how.partition(":")
    match kind:
        case "missing" | "extra" | "renamed" | "reshaped" | "nan":
            held = load_file(weights)
            name = next(name for name in sorted(held) if name.endswith(what))
            tensor = held[name]
            if kind in ("missing", "renamed"):
                del held[name]
            if kind in ("extra", "renamed"):
                held[name.replace("weight", "more").replace("bias", "other")] = tensor.clone()
            if kind == "reshaped":
                held[name] = tensor.flatten()[:-1].clone()
            if kind == "nan":
                tensor.view(-1)[0] = torch.nan
            weights.unlink()
            save_file(held, weights, {"format": "pt"})
        case "config":
            edit_json(folder / "config.json", key, what)
        case "processor":
            edit_image_processor(folder, key, what)
        case "absent":
            (folder / what).unlink()
        case "cut":
            (folder / what).write_bytes((folder / what).read_bytes()[:-30])
        case "flipped":
            content = bytearray((folder / what).read_bytes())
            content[len(content) // 3] ^= 0xFF
            (folder / what).write_bytes(content)
        case "beside":
            (folder / what).write_text("{}")
        case _:
            edit_json(folder / "processor_config.json", "patch_size", what)


def _place(name: str) -> str:
    """Where a weight of the file belongs in the network, below ``model``."""
    return (
        name.removeprefix("model.")
        .replace("language_model.model.", "language_model.")
        .replace("language_model.lm_head", "lm_head")
    )


def use_model(changes: list[tuple[str, Any]], folder: Path) -> None:
    """Load a spoilt model and ask it about a wide and a tall image."""
    folder = Path(shutil.copytree(whole_folder(), folder / "model"))
    for how, what in changes:
        try:
            _spoil(folder, how, what)
        except (OSError, ValueError, KeyError, TypeError, StopIteration, SafetensorError):
            continue  # what the first change took away or broke cannot be changed again
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = load_model(ModelSettings(folder, "vicuna-v1"), CPU)
    theirs = AutoModelForImageTextToText.from_pretrained(folder, attn_implementation="eager").eval()
    # Every weight of the file is in the network, bit by bit, and the network has no other.
    held = {_place(name): weight for name, weight in load_file(folder / "model.safetensors").items()}
    named = {name.removeprefix("model."): weight for name, weight in model.network.named_parameters()}
    assert held.keys() == named.keys()
    assert all(torch.equal(weight, held[name]) and weight.isfinite().all() for name, weight in named.items())
    processor = AutoProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
    answered = 0
    for number, size in enumerate(((90, 60), (40, 120))):
        noise = np.random.default_rng(number).integers(0, 255, (size[1], size[0], 3), dtype=np.uint8)
        question = ChosenQuestion("1", "1", "c", "", ASKED, "red", "red", "blue", ())
        try:
            prepared = model.prepare(question, Image.fromarray(noise))
        except BrokenQuestion:
            continue
        answered += 1
        pixels = processor.image_processor(Image.fromarray(noise), return_tensors="pt")["pixel_values"]
        assert torch.equal(torch.as_tensor(np.asarray(pixels)), prepared.inputs["pixel_values"])
        logits = full_forward(model, prepared, Plain()).logits[0]
        with torch.inference_mode():
            expected = theirs(**prepared.inputs).logits[0, -1]
        assert torch.allclose(logits, expected, rtol=1e-4, atol=1e-4)
        assert logits.isfinite().all()
    if not answered:
        raise BrokenQuestion("no question was left")
    assert json.loads((folder / "config.json").read_text())["model_type"] in ("llava", "llava_next")
