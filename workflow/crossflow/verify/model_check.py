"""Does a model behave as this project assumes? One check per assumption, made on the network itself.

Geometry is checked with a *blinkered* network, in whose vision tower no patch sees another: the input of the language
model at a visual token then depends on that token's own patches only. Two forwards are compared exactly, without a
tolerance: they have the same shapes, so a number that depends on nothing changed keeps its bits. Forwards of different
shapes, as those of the engine and the reference, differ by rounding and are compared within `ROUNDING`.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw
from torch import Tensor, nn

from crossflow.core.errors import BrokenQuestion, CrossflowError
from crossflow.core.flows import BASIC_SETS, parse_flow
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.engine.edges import Edges, Row, edges_of, rows_of
from crossflow.engine.engines import ENGINES
from crossflow.engine.forward import run_clean
from crossflow.models.model import ROUNDING, MultimodalModel, Prepared
from crossflow.models.prompts import render
from crossflow.models.visual_tokens import LEAST_SHARE, ToTiles

_FLOWS = ("question->last", "image->last", "image->question", "related->question")
_CHANGES = 32  # noisy images; about half of them distinguish a given pair of tokens
_CLEAR_SHARE = 0.02  # of changed patches in a token: with less, a half-precision feature may stay unchanged
_STANDS_OUT = 10
_STRIPS = 12  # in an image's width or height
_ASPECTS = ((320, 320), (960, 80), (80, 960))
_WIDEST_FILTER = 3  # reach of Lanczos, in pixels of the smaller image


class Check(NamedTuple):
    """One check.

    Attributes:
        name: What was checked.
        passed: Whether it holds.
        found: What was found, with its numbers.
    """

    name: str
    passed: bool
    found: str


class _Received(Exception):
    """Carries the input of the first decoder layer; nothing after it has to be computed."""


def _received(model: MultimodalModel, inputs: dict[str, Tensor]) -> Float[Tensor, "positions width"]:
    """What the language model receives at each position.

    Raises:
        CrossflowError: it contains NaN or infinite values.
    """

    def keep(layer: nn.Module, positional: tuple[Tensor, ...], named: dict[str, Any]) -> None:
        raise _Received(positional[0] if positional else named["hidden_states"])

    try:
        with model.layers[0].register_forward_pre_hook(keep, with_kwargs=True), torch.inference_mode():
            model.network.base_model(**inputs, use_cache=False)
    except _Received as received:
        hidden: Tensor = received.args[0][0]
    if not hidden.isfinite().all():
        raise CrossflowError(f"what the language model receives is not finite in {model.settings.dtype}")
    return hidden


def _nothing(attention: nn.Module, inputs: Any, output: Any) -> Any:
    if isinstance(output, tuple):
        return tuple(torch.zeros_like(part) if isinstance(part, Tensor) else part for part in output)
    return torch.zeros_like(output)


@contextmanager
def _blinkered(model: MultimodalModel) -> Iterator[None]:
    """Silence the vision tower's attention inside the ``with`` block, so that no patch sees another."""
    decoder = set(model.layers.modules())
    with ExitStack() as hooks:
        for module in model.network.modules():
            if "Attention" in type(module).__name__ and module not in decoder:
                hooks.enter_context(module.register_forward_hook(_nothing))
        yield


def _differs(one: Tensor, other: Tensor) -> Bool[np.ndarray, " positions"]:
    return np.asarray((one != other).any(-1).cpu())


def _visual(model: MultimodalModel, prepared: Prepared) -> Bool[np.ndarray, " positions"]:
    return np.asarray((prepared.inputs["input_ids"][0] == model.network.config.image_token_id).cpu())


def check_positions(model: MultimodalModel, prepared: Prepared, size: tuple[int, int]) -> Check:
    """The basic sets hold every position once, and the question's tokens decode to it; see `check_geometry`."""
    positions, ids = prepared.positions, prepared.inputs["input_ids"][0].cpu().numpy()
    cut = np.concatenate([positions[name] for name in BASIC_SETS])
    asked = model.processor.tokenizer.decode(ids[positions["question"]], clean_up_tokenization_spaces=False)
    sizes = ", ".join(f"{name} {len(positions[name])}" for name in BASIC_SETS)
    # A tokenizer may put blanks between words and punctuation.
    same = "".join(asked.split()) == "".join(prepared.question.question.split())
    passed = np.array_equal(cut, np.arange(len(ids))) and same
    return Check(
        "positions", passed, f"{size[0]} x {size[1]}: {len(ids)} = {sizes}; the question's decode to {asked.strip()!r}"
    )


class _OnAnotherDay:
    """A processor whose chat template is told another date."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def apply_chat_template(self, *given: Any, **options: Any) -> Any:
        return self._processor.apply_chat_template(*given, strftime_now=lambda form: "another day", **options)


def check_prompt(model: MultimodalModel, prepared: Prepared) -> Check:
    """The tokens decode to the rendered template, with the right number of begin-of-text tokens and nothing behind."""
    tokenizer, ids = model.processor.tokenizer, prepared.inputs["input_ids"][0].tolist()
    prompt = render(model.settings.prompt, prepared.question.question, model.processor, model.settings.instruction)
    visual = np.flatnonzero(_visual(model, prepared))
    begins = 0
    while tokenizer.bos_token_id is not None and ids[begins] == tokenizer.bos_token_id:
        begins += 1

    def decoded(tokens: list[int]) -> str:
        return "".join(tokenizer.decode(tokens, clean_up_tokenization_spaces=False).split())

    before, after = ("".join(part.split()) for part in prompt.text.split(model.processor.image_token))
    # What the architecture writes around and between tiles is not in the template.
    front, end = decoded(ids[: visual[0]]), decoded(ids[visual[-1] + 1 :])
    bare = (tokenizer.bos_token or "") * begins
    same = front.removeprefix(bare).startswith(before.removeprefix(bare)) and end.endswith(after)
    right = begins == prompt.begins if prompt.begins is not None else begins <= 1
    dated = replace(model, processor=_OnAnotherDay(model.processor)).prompt != model.prompt
    found = f"{len(ids)} tokens, {begins} of them begin-of-text,"
    if not same:
        found += f" decode to {front!r}, the image and {end!r}, but the template says {before!r} and {after!r}"
    else:
        found += " decode to the template"
        kept = tokenizer("a")["input_ids"][-1]
        if prompt.begins is None and kept != tokenizer("a", add_special_tokens=False)["input_ids"][-1]:
            found += f"; {tokenizer.convert_ids_to_tokens(kept)}, which the tokenizer adds behind it, is left out"
    if dated:
        found += "; the template writes the date, so that answers of different days are given to different prompts"
    return Check("prompt", same and right and not dated, found)


def _noisy(
    model: MultimodalModel, prepared: Prepared, chosen: Bool[np.ndarray, " patches"], rng: np.random.Generator
) -> dict[str, Tensor]:
    """A question's inputs, with noise on some patches, numbered through all tiles."""
    clean = prepared.inputs["pixel_values"]
    pixels = clean.float().cpu().numpy().copy()
    # A view of the inputs, so that adding to the tiles changes the inputs.
    tiles = model.architecture.tiling.tiles(model.processor.image_processor, {"pixel_values": pixels})
    if not np.shares_memory(tiles, pixels):
        raise CrossflowError("the architecture's tiling copies the pixels, so they cannot be changed patch by patch")
    side = model.patch_size
    count, _, height, width = tiles.shape
    high, wide = height // side, width // side
    mask = chosen.reshape(count, 1, high, wide).repeat(side, 2).repeat(side, 3)
    tiles[:, :, : high * side, : wide * side] += mask * rng.standard_normal((*mask.shape[:1], 3, *mask.shape[2:]))
    return prepared.inputs | {"pixel_values": torch.from_numpy(pixels).to(clean)}


def check_geometry(model: MultimodalModel, prepared: Prepared, size: tuple[int, int]) -> Check:
    """Noise on random patches changes exactly the visual tokens that the packing makes of them, 32 times.

    Args:
        size: Width and height of the question's image.
    """
    side, rng = model.patch_size, np.random.default_rng(0)
    tiles, _, height, width = ToTiles(model.processor.image_processor, model.architecture.tiling)(
        Image.new("RGB", size)
    ).shape
    patches = (height // side) * (width // side)
    visual = _visual(model, prepared)
    merged = max(1, round(tiles * patches / visual.sum()))
    codes, wrong, text = [], np.zeros(visual.sum(), dtype=bool), False
    with _blinkered(model):
        before = _received(model, prepared.inputs)
        for _ in range(_CHANGES):
            chosen = rng.random(tiles * patches) < 1 / (2 * merged)
            labels = torch.from_numpy(np.stack([chosen, np.zeros_like(chosen)], -1).astype(np.float32))
            share = model.pack(labels.reshape(tiles, patches, 2), size)[:, 0].numpy()
            follow = _differs(before, _received(model, _noisy(model, prepared, chosen, rng)))
            wrong |= (share > _CLEAR_SHARE) & ~follow[visual] | follow[visual] & ~(share > LEAST_SHARE)
            text |= bool(follow[~visual].any())
            codes.append(follow[visual])
    following = np.stack(codes, -1)
    apart = len(np.unique(following[following.any(-1)], axis=0))
    found = (
        f"{size[0]} x {size[1]}: {(~wrong).sum()} of {visual.sum()} visual tokens follow the patches of which they are "
        f"made, and no others; {following.any(-1).sum()} follow any, and {_CHANGES} changes tell {apart} apart"
    )
    return Check("geometry", not wrong.any() and not text, found + ("; positions of the text follow too" * text))


def _request(question: ChosenQuestion, box: Box) -> ChosenQuestion:
    return replace(question, objects=(ChosenObject("object", "0", "", box),))


class _Follower:
    """Finds the positions that change with the pixels inside a box, in the blinkered network."""

    def __init__(self, model: MultimodalModel, question: ChosenQuestion, image: Image.Image) -> None:
        self.model, self.question, self.image = model, question, image
        self.before = self._received(image)

    def _received(self, image: Image.Image) -> Tensor:
        with _blinkered(self.model):
            return _received(self.model, self.model.prepare(self.question, image).inputs)

    def __call__(self, box: Box) -> set[int]:
        follow = np.zeros(len(self.before), dtype=bool)
        # No pixel already has both values.
        for colour in ("white", "black"):
            changed = self.image.copy()
            # With the last row and column, as `paint` fills boxes.
            ImageDraw.Draw(changed).rectangle((box.x, box.y, box.x + box.w, box.y + box.h), fill=colour)
            follow |= _differs(self.before, self._received(changed))
        return set(np.flatnonzero(follow).tolist())


def check_boxes(model: MultimodalModel, question: ChosenQuestion, image: Image.Image) -> Check:
    """A change of the pixels inside a box changes every related token, and no token far from the box."""
    follower = _Follower(model, question, image)
    to_tiles = ToTiles(model.processor.image_processor, model.architecture.tiling)
    tiles, _, height, width = to_tiles(image).shape
    base = np.zeros(tiles, dtype=bool)
    base[model.architecture.tiling.base] = True
    # The reach of the base's resampling, in pixels of the image, and one pixel for rounding.
    reach = math.ceil(_WIDEST_FILTER * max(1, max(image.size) / math.sqrt(base.sum() * height * width))) + 1
    generous = replace(model, settings=replace(model.settings, patches="overlap"))
    passed, found = True, []
    for box in (chosen.box for chosen in question.objects):
        related = set(model.prepare(_request(question, box), image).positions["related"].tolist())
        grown = Box(box.x - reach, box.y - reach, box.w + 2 * reach, box.h + 2 * reach)
        near = set(generous.prepare(_request(question, grown), image).positions["related"].tolist())
        follow = follower(box)
        passed &= bool(related) and related <= follow <= near
        found.append(
            f"box {box.x},{box.y},{box.w},{box.h}: {len(related & follow)} of {len(related)} related tokens follow it, "
            f"and {len(follow - near)} further than {reach} pixels from it"
        )
    return Check("boxes", passed, f"{image.width} x {image.height}: " + "; ".join(found))


def check_edges(model: MultimodalModel, question: ChosenQuestion, image: Image.Image) -> Check:
    """A change along each edge of the image reaches the base, and the grid if there is one: nothing is cropped."""
    follower, (width, height) = _Follower(model, question, image), image.size
    wide, high = math.ceil(width / _STRIPS) - 1, math.ceil(height / _STRIPS) - 1
    strips = {
        "left": Box(0, 0, wide, height),
        "right": Box(width - 1 - wide, 0, wide, height),
        "upper": Box(0, 0, width, high),
        "lower": Box(0, height - 1 - high, width, high),
    }
    positions = model.prepare(question, image).positions
    shown = {name: set(positions[name].tolist()) for name in ("base", "grid") if len(positions[name])}
    found, lost = [], []
    for name, box in strips.items():
        follow = follower(box)
        reached = {part: len(follow & tokens) for part, tokens in shown.items()}
        found.append(f"{name} edge {' and '.join(f'{number} of {part}' for part, number in reached.items())}")
        lost += [name] if 0 in reached.values() else []
    hint = f"; the model does not see the {' and '.join(lost)} edge: does its image processor crop?" if lost else ""
    return Check("edges", not lost, f"{width} x {height}: tokens that follow its {', '.join(found)}{hint}")


def check_aspects(model: MultimodalModel, question: ChosenQuestion) -> Check:
    """Square and extreme images reach the language model with as many visual tokens as the prompt has."""
    found = []
    for size in _ASPECTS:
        prepared = model.prepare(question, Image.new("RGB", size, "teal"))
        _received(model, prepared.inputs)
        found.append(f"{size[0]} x {size[1]}: {_visual(model, prepared).sum()} visual tokens")
    return Check("aspects", True, "; ".join(found))


def _states(model: MultimodalModel, inputs: dict[str, Tensor]) -> list[Float[Tensor, "positions width"]]:
    """What each decoder layer returns."""
    states: list[Tensor] = []

    def keep(layer: nn.Module, positional: Any, output: Any) -> None:
        states.append((output[0] if isinstance(output, tuple) else output)[0].clone())

    with ExitStack() as hooks, torch.inference_mode():
        for layer in model.layers:
            hooks.enter_context(layer.register_forward_hook(keep))
        model.network.base_model(**inputs, use_cache=False)
    return states


def check_causality(model: MultimodalModel, prepared: Prepared) -> Check:
    """Another token at a position changes no state before it, in any layer; the configuration is not trusted."""
    before, ids = _states(model, prepared.inputs), prepared.inputs["input_ids"]
    asked = prepared.positions["question"]
    leaks = []
    places = {
        "first of the question": asked[0],
        "last of the question": asked[-1],
        "last": prepared.positions.length - 1,
    }
    for name, place in places.items():
        others = [token for token in ids[0, asked].tolist() if token != ids[0, place]]
        if not others:
            raise CrossflowError("the question has only one token: ask a longer one")
        changed = ids.clone()
        changed[0, place] = others[0]
        after = _states(model, prepared.inputs | {"input_ids": changed})
        moved = [_differs(one, other) for one, other in zip(before, after, strict=True)]
        if not moved[-1][place]:
            raise CrossflowError(f"another token at the {name} position changes nothing")
        earlier = np.array([layer[:place].sum() for layer in moved])
        if earlier.any():
            leaks.append(f"{name}: {earlier.max()} of {place} earlier positions, from layer {earlier.argmax()} on")
    if leaks:
        return Check("causality", False, f"the model is not causal; what changes with the token: {'; '.join(leaks)}")
    found = f"another token ({', '.join(places)}) changes no earlier state in any of {len(before)} layers"
    return Check("causality", True, found)


def _largest_difference(one: Tensor, other: Tensor) -> float:
    return float((torch.softmax(one.double(), -1) - torch.softmax(other.double(), -1)).abs().max())


def check_floor(model: MultimodalModel, prepared: Prepared, width: int) -> Check:
    """A no-op knockout changes no probability by more than rounding."""
    positions, layers = prepared.positions, len(model.layers)
    rows = [
        row
        for target in ("question", "last")
        for row in rows_of("nothing", [Edges(np.arange(0), positions[target])], str(width), layers)
    ]
    clean = run_clean(model, prepared, int(positions["question"][0]))
    logits = ENGINES["knockout"](model, [(clean, rows)])[0].logits
    floor, most = _largest_difference(logits, clean.logits.expand_as(logits)), ROUNDING[model.settings.dtype]
    found = f"a no-op knockout changes a probability by at most {floor:.1e} (allowed {most:.0e})"
    return Check("floor", floor <= most, found)


def check_engine(model: MultimodalModel, prepared: Prepared, width: int) -> Check:
    """The engine's probabilities equal those of full forwards."""
    layers = len(model.layers)
    centres = sorted({0, layers // 2, layers - 1})
    rows: list[Row] = []
    for name in _FLOWS:
        edges = edges_of(parse_flow(name), prepared.positions, 0, prepared.question.question_id)
        rows += rows_of(name, edges, str(width), layers, centres) if edges else []
    clean = run_clean(model, prepared, int(prepared.positions["question"][0]))
    ours, theirs = (ENGINES[name](model, [(clean, rows)])[0].logits for name in ("knockout", "reference"))
    apart, most = _largest_difference(ours, theirs), ROUNDING[model.settings.dtype]
    effect = _largest_difference(theirs, clean.logits.expand_as(theirs))
    found = (
        f"{len(rows)} knockouts differ from full forwards by at most {apart:.1e} (allowed {most:.0e}), and change a "
        f"probability by up to {effect:.1e}"
    )
    # The knockouts must have an effect well above their difference: two that do nothing prove nothing.
    return Check("engine", apart <= most and apart < effect / _STANDS_OUT, found)


def _attempt(name: str, check: Callable[..., Check], *arguments: Any) -> Check:
    try:
        return check(*arguments)
    # The last four are what transformers and torch raise for inputs that do not fit a model.
    except (BrokenQuestion, CrossflowError, RuntimeError, ValueError, LookupError, TypeError) as error:
        return Check(name, False, str(error).strip().splitlines()[0])


def turned(question: ChosenQuestion, image: Image.Image) -> tuple[ChosenQuestion, Image.Image]:
    """The question about the image mirrored along its diagonal, so that wide becomes tall."""
    objects = tuple(
        replace(chosen, box=Box(chosen.box.y, chosen.box.x, chosen.box.h, chosen.box.w)) for chosen in question.objects
    )
    return replace(question, objects=objects), image.transpose(Image.Transpose.TRANSPOSE)


def checks(model: MultimodalModel, question: ChosenQuestion, image: Image.Image, width: int) -> Iterator[Check]:
    """Run all checks in order; those of geometry on the image and on the turned image, `check_aspects` on others.

    Args:
        question: A question about objects in at least one box.
        width: Width of the window of the knockouts, in layers.
    """
    both = [(question, image), turned(question, image)]
    prepared: list[Prepared] = []

    def prepare(question: ChosenQuestion, image: Image.Image) -> Check:
        prepared.append(model.prepare(question, image))
        return check_positions(model, prepared[-1], image.size)

    for asked, shown in both:
        found = _attempt("positions", prepare, asked, shown)
        yield found
        if not found.passed:
            return
    for ready, (asked, shown) in zip(prepared, both, strict=True):
        yield _attempt("geometry", check_geometry, model, ready, shown.size)
        yield _attempt("boxes", check_boxes, model, asked, shown)
        yield _attempt("edges", check_edges, model, asked, shown)
    yield _attempt("prompt", check_prompt, model, prepared[0])
    yield _attempt("aspects", check_aspects, model, question)
    yield _attempt("causality", check_causality, model, prepared[0])
    yield _attempt("floor", check_floor, model, prepared[0], width)
    yield _attempt("engine", check_engine, model, prepared[0], width)
