"""Loading a model's processor: its tokenizer, its image processor (PIL backend) and its chat template.

`AutoProcessor` also loads the video processors of architectures that have one, which need torchvision. The processors
of these architectures are assembled here without it.
"""

from pathlib import Path
from typing import Any

import transformers
from transformers import AutoProcessor, AutoTokenizer, LlavaImageProcessorPil, ProcessorMixin

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
        raise CrossflowError(f"{path} is asked for image: pad, which its architecture does not know; use processor.")
    names = ("processor_config.json", "preprocessor_config.json")
    if not any((path / name).is_file() for name in names):
        raise CrossflowError(f"{path} holds neither {' nor '.join(names)}: the model's processor is missing.")
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
            f"{path} is asked for image: anyres, but its {type(processor.image_processor).__name__} does not tile; "
            "use image: processor or pad."
        )
    return processor
