"""Encode the images of several questions in one call of the vision tower.

A tower is small compared with the decoder: the products of a single image do not fill a large GPU. A forward then gets
the embeddings, in place of pixels, that the model itself would have computed.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from crossflow.core.errors import CrossflowError
from crossflow.engine.packed import Inputs
from crossflow.models.model import MultimodalModel, Prepared


def encode_together(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Inputs]:
    """The inputs of each prompt, with the image already encoded.

    Without `Architecture.stacks`, each forward encodes its own image, and the inputs are the prompt's own.

    Raises:
        CrossflowError: the model makes another number of visual tokens of an image than the prompt has.
    """
    if not prompts or not model.architecture.stacks:
        return [prompt.inputs for prompt in prompts]
    with torch.inference_mode():
        # All tiles in a row, whether a model counts them by image or has one per image.
        pixels = torch.cat([prompt.inputs["pixel_values"].flatten(0, -4) for prompt in prompts])
        sizes = [prompt.inputs["image_sizes"] for prompt in prompts if "image_sizes" in prompt.inputs]
        # The model reads these numbers one by one: on a GPU, each would wait for the tower.
        beside = {"image_sizes": torch.cat(sizes).cpu()} if sizes else {}
        features = model.network.base_model.get_image_features(pixels, **beside, return_dict=True).pooler_output
        return [_embedded(model, prompt, shown) for prompt, shown in zip(prompts, features, strict=True)]


def _embedded(model: MultimodalModel, prompt: Prepared, features: Tensor) -> Inputs:
    if len(features) != len(prompt.visual):
        # Scattered as they are, too many would be cut off and all others shifted.
        raise CrossflowError(
            f"{model.settings.path}: the prompt of question {prompt.question.question_id} has {len(prompt.visual)} "
            f"visual tokens, but the model makes {len(features)} of its image; the folder's processor is of another "
            "model."
        )
    tokens = prompt.inputs["input_ids"]
    embeddings = model.network.get_input_embeddings()(tokens)
    visual = (tokens == model.network.config.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(visual, features.to(embeddings.dtype))
    return {"inputs_embeds": embeddings, "attention_mask": prompt.inputs["attention_mask"]}
