"""Loading a model's processor: its tokenizer, its image processor (PIL backend) and its chat template.

`AutoProcessor` also loads the video processors of architectures that have one, which need torchvision. The processors
of these architectures are assembled here without it.

Pillow resizes one axis after the other and rounds in between, so the pixels depend on the order. Up to version 12 the
horizontal pass comes first; version 13 begins with the vertical one where an image is taller than wide. The published
geometries (``pad`` and ``anyres``) always take the horizontal pass first, as the published program's Pillow did; other
processors keep the pixels of the Pillow that is installed.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import transformers
from transformers import AutoProcessor, AutoTokenizer, LlavaImageProcessorPil, ProcessorMixin
from transformers.image_utils import SizeDict

# Up to 5.17, the one in transformers' top-level namespace requires torchvision, whatever the backend.
from transformers.models.auto.image_processing_auto import AutoImageProcessor

from crossflow.core.errors import CrossflowError
from crossflow.models.architectures import Architecture


def _check_all_but_video(processor: Any, argument_name: str, argument: Any) -> Any:
    if argument_name == "video_processor":
        return None
    check: Any = ProcessorMixin.check_argument_for_proper_class
    return check(processor, argument_name, argument)


def _without_video(path: Path, name: str) -> Any:
    kind: Any = type(
        name,
        (getattr(transformers, name),),
        {
            "check_argument_for_proper_class": _check_all_but_video,
            # SmolVLM's own method uses its video processor even if the conversation has no video.
            "apply_chat_template": ProcessorMixin.apply_chat_template,
        },
    )
    load_images: Any = AutoImageProcessor.from_pretrained
    images = load_images(path, backend="pil", local_files_only=True, trust_remote_code=False)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True, trust_remote_code=False)
    settings, _ = kind.get_processor_dict(path, local_files_only=True)
    return kind.from_args_and_dict([images, tokenizer, None], settings)


def _horizontal_first(resize: Callable[..., np.ndarray], image: np.ndarray, size: Any, **options: Any) -> np.ndarray:
    """An image processor's ``resize`` of an image ``(3, height, width)``, in two passes of one axis each."""
    if size.height and size.width:
        image = resize(image, SizeDict(height=image.shape[-2], width=size.width), **options)
    return resize(image, size, **options)


def load_processor(path: Path, image: str, architecture: Architecture) -> Any:
    """Load the processor of a model's folder.

    Args:
        path: Folder in Hugging Face format.
        image: ``processor`` (as the folder says), ``pad`` (square padding) or ``anyres`` (an error if the folder's
            processor does not tile).
        architecture: The model's entry of the table.

    Raises:
        CrossflowError: the folder's image processor or the architecture does not support ``image``.
        Exception: the folder is incomplete or broken, or a package is missing.
    """
    if image == "pad" and not architecture.pads:
        raise CrossflowError(f"{path} does not support image: pad; use image: processor.")
    names = ("processor_config.json", "preprocessor_config.json")
    if not any((path / name).is_file() for name in names):
        raise CrossflowError(f"{path} has neither {' nor '.join(names)}: the model's processor is missing.")
    processor: Any
    if architecture.processor is None:
        processor = AutoProcessor.from_pretrained(  # type: ignore[no-untyped-call]
            path, backend="pil", local_files_only=True, trust_remote_code=False
        )
    else:
        processor = _without_video(path, architecture.processor)
    if image == "pad":
        # Only this class pads: a CLIPImageProcessor takes the argument and ignores it.
        processor.image_processor = LlavaImageProcessorPil.from_pretrained(path, do_pad=True, local_files_only=True)
    elif image == "anyres" and not hasattr(processor.image_processor, "image_grid_pinpoints"):
        raise CrossflowError(
            f"{path} does not support image: anyres: its {type(processor.image_processor).__name__} does not tile; use "
            "image: processor or pad."
        )
    if image in ("pad", "anyres"):
        # An image that is padded to a square is resized by its shortest edge, where the order is the same everywhere.
        processor.image_processor.resize = partial(_horizontal_first, processor.image_processor.resize)
    return processor
