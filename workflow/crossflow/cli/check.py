"""``crossflow check``: verify a model before it is studied."""

from pathlib import Path
from typing import Literal

from PIL import Image, ImageDraw
from tyro.conf import UseAppendAction

from crossflow import asking
from crossflow.cli.where import Where
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.flows import require_window
from crossflow.core.records import Box
from crossflow.experiments.trace import box_of, own_question
from crossflow.figures import overlay
from crossflow.verify.model_check import checks, turned

_QUESTION = "Is the ball red or blue?"
_BALL = Box(300, 60, 110, 110)


def _drawn() -> Image.Image:
    """A wide image of a red ball and a blue box on a lawn."""
    image = Image.new("RGB", (480, 320), (120, 160, 90))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 0, 480, 120), fill=(170, 200, 230))
    draw.ellipse((_BALL.x, _BALL.y, _BALL.x + _BALL.w, _BALL.y + _BALL.h), fill=(200, 40, 40))
    draw.rectangle((60, 190, 190, 290), fill=(50, 70, 190))
    return image


def _middle(image: Image.Image) -> Box:
    """A box right of the centre, so that its mirror image is another box."""
    width, height = image.size
    return Box(width * 2 // 5, height // 3, width * 2 // 5, height * 2 // 5)


def run(
    where: Where,
    model: str = "mini-llava",
    model_path: Path | None = None,
    prompt: str | None = None,
    processing: Literal["processor", "pad", "anyres"] | None = None,
    patches: Literal["published", "overlap"] | None = None,
    dtype: Literal["float32", "float16", "bfloat16"] | None = None,
    image: Path | None = None,
    question: str = _QUESTION,
    box: UseAppendAction[tuple[str, ...]] = (),
    output: Path = Path("check"),
) -> None:
    """Verify a model before it is studied: one line per check, and images of the visual tokens that show the boxes.

    Args:
        where: The file that names models, and the device.
        model: A model in params.yaml.
        model_path: A folder in Hugging Face format, instead of a model in params.yaml.
        prompt: By default the entry's; for a folder, chat-template.
        processing: `image` of params.yaml; by default the entry's.
        patches: By default the entry's; for a folder, overlap.
        dtype: By default the entry's; for a folder, float32.
        image: The image; by default a drawn one.
        question: The question about the image.
        box: An object that the question is about: left,top,width,height in pixels of the image; repeatable.
        output: Folder for the images.

    Raises:
        CrossflowError: the model, the image or the question cannot be used, or a check failed.
    """
    seen = _drawn() if image is None else asking.open_image(image)
    asked = own_question(question, [box_of(text) for text in box] or [_BALL if image is None else _middle(seen)])
    given = asking.load(
        model_path or model,
        params=where.params,
        prompt=prompt,
        image=processing,
        patches=patches,
        dtype=dtype,
        device=where.device,
    )
    name, loaded, settings = given.name, given.loaded, given.loaded.settings
    window = given.window if where.window is None else where.window
    require_window(str(window), given.layers, name)
    kind = loaded.network.config.model_type
    print(f"{name}: {kind}, {given.layers} layers, {settings.dtype}, prompt {settings.prompt}")
    failed, made = [], 0
    for check in checks(loaded, asked, seen, window):
        print(f"{'ok' if check.passed else 'FAILED':<8}{check.name:<11}{check.found}", flush=True)
        made += 1
        if not check.passed:
            failed.append(check.name)
    if "positions" not in failed:
        for file, (about, shown) in {"patches.png": (asked, seen), "patches-turned.png": turned(asked, seen)}.items():
            path = output / file
            try:
                drawn = overlay.draw_overlay(loaded, loaded.prepare(about, shown), shown)
            except (ValueError, LookupError) as error:
                # The packing may be wrong; then a check has failed.
                print(f"{path} is not drawn: the visual tokens do not form rows ({error})")
                continue
            with replacing(path) as temporary:
                drawn.save(temporary, "png")
            print(path)
    if failed:
        names = ", ".join(dict.fromkeys(failed))
        raise CrossflowError(f"{name} fails {len(failed)} of {made} checks: {names}; fix its entry before studying it.")
