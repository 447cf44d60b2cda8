"""Images of several questions, encoded in one call of the vision tower.

A tower is narrow beside the decoder: of one image, its products are too small for a large GPU. What a forward is
given in place of pixels are the embeddings that the model itself would have made of them.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from crossflow.models.model import MultimodalModel, Prepared

Inputs = Mapping[str, Tensor]
"""Keyword arguments of the model's forward."""


def encode_together(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Inputs]:
    """Each prompt's inputs, its image already encoded.

    An architecture that does not say that its images go together (`Architecture.stacks`) encodes each in its own
    forward: the inputs are the prompt's own.
    """
    if not prompts or not model.architecture.stacks:
        return [prompt.inputs for prompt in prompts]
    with torch.inference_mode():
        # Tiles one after another, whether a model counts them by image or has one of each.
        pixels = torch.cat([prompt.inputs["pixel_values"].flatten(0, -4) for prompt in prompts])
        sizes = [prompt.inputs["image_sizes"] for prompt in prompts if "image_sizes" in prompt.inputs]
        # The model reads them number by number: on a GPU, it would wait for the tower each time.
        beside = {"image_sizes": torch.cat(sizes).cpu()} if sizes else {}
        features = model.network.base_model.get_image_features(pixels, **beside, return_dict=True).pooler_output
        return [_embedded(model, prompt, shown) for prompt, shown in zip(prompts, features, strict=True)]


def _embedded(model: MultimodalModel, prompt: Prepared, features: Tensor) -> Inputs:
    tokens = prompt.inputs["input_ids"]
    embeddings = model.network.get_input_embeddings()(tokens)
    visual = (tokens == model.network.config.image_token_id)[..., None]
    embeddings = embeddings.masked_scatter(visual, features.to(embeddings.dtype))
    return {"inputs_embeds": embeddings, "attention_mask": prompt.inputs["attention_mask"]}
