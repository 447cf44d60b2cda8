"""mini-llava in training: the network, its read-outs and its losses.

Segments never see one another: the text before the image runs once, each image runs once after it, and all segments of
the image run as separate rows after its keys and values. The results equal those of separate prompts, at a fraction of
the work.

The read-outs are separate linear maps, so that they favour no word, and are discarded after training.
"""

import math
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import DynamicCache

from crossflow.mini.random_model import build_model, build_processor, build_tokenizer, mini_world_words
from crossflow.mini.recipe import Recipe, Stage
from crossflow.mini.scenes import PLURALS
from crossflow.mini.training_data import CHECKED, FACTS, PATCH_WORDS, TrainingBatch, TrainingBatches

# Relative to patch embeddings of length 9.
_PLACES_LENGTH = 6.0


class Losses(NamedTuple):
    """Mean cross-entropies of a batch, in nats, and which segments' answers are the most likely word."""

    seeing: Tensor
    reading: Tensor
    checking: Tensor
    answering: Tensor
    right: Tensor


def _places(across: int, width: int) -> Float[Tensor, "patches width"]:
    """Sines and cosines of a patch's row and column: the nearer two places, the more similar their embeddings."""
    frequencies = torch.exp(torch.linspace(math.log(math.pi / across), math.log(math.pi / 1.5), width // 4))
    row, column = torch.meshgrid(torch.arange(across), torch.arange(across), indexing="ij")
    angles = [place.flatten()[:, None] * frequencies for place in (row, column)]
    waves = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=-1)
    return functional.normalize(waves, dim=-1)


def _initialise(network: Any, seed: int) -> None:
    """Initialise the weights.

    Each block adds little to the residual stream, and word embeddings have length 1. At first, patches of the vision
    tower attend to near and similar patches: places are sinusoids, and queries and keys the same rotation (after A.
    Trockman and J. Z. Kolter, Mimetic initialization of self-attention layers, ICML 2023). This speeds up learning
    shapes, which only neighbouring patches together show.
    """
    generator = torch.Generator().manual_seed(seed)
    text, vision = network.config.text_config, network.config.vision_config
    for name, parameter in network.named_parameters():
        if parameter.ndim == 1 and ("norm" in name or name.endswith("bias")):
            continue
        if parameter.ndim == 1 or "embed_tokens" in name or "position_embedding" in name:
            spread = parameter.shape[-1] ** -0.5
        else:
            spread = 0.8 * math.prod(parameter.shape[1:]) ** -0.5
        if "o_proj" in name or "down_proj" in name:
            spread /= math.sqrt(2 * text.num_hidden_layers)
        nn.init.normal_(parameter, std=spread, generator=generator)
    tower = network.model.vision_tower
    width = vision.hidden_size
    with torch.no_grad():
        places = _places(vision.image_size // vision.patch_size, width)
        tower.embeddings.position_embedding.weight[1:] = _PLACES_LENGTH * places
        for layer in tower.encoder.layers:
            rotation, _ = torch.linalg.qr(torch.randn(width, width, generator=generator))
            for weight in (layer.self_attn.q_proj.weight, layer.self_attn.k_proj.weight):
                weight.copy_(rotation + 0.3 * weight)


class TrainingModel(nn.Module):
    """The model of a recipe with its read-outs, in training."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.tokenizer = build_tokenizer(mini_world_words())
        self.processor = build_processor(recipe.geometry, self.tokenizer)
        self.network = build_model(recipe.geometry, self.tokenizer, recipe.seed)
        # The tower is small, so its last layer is used.
        self.network.config.vision_feature_layer = -1
        _initialise(self.network, recipe.seed)
        self.middle = recipe.geometry.layers // 2
        self.readout = nn.Linear(recipe.geometry.width, sum(FACTS.values()), bias=False)
        self.check_layer = recipe.geometry.layers * 3 // 4
        self.check = nn.Linear(recipe.geometry.width, CHECKED * 2, bias=False)
        nn.init.zeros_(self.readout.weight)
        nn.init.zeros_(self.check.weight)
        images = self.processor.image_processor
        self._mean = nn.Buffer(torch.tensor(images.image_mean)[:, None, None], persistent=False)
        self._spread = nn.Buffer(torch.tensor(images.image_std)[:, None, None], persistent=False)
        self._patch_words = [self.tokenizer.convert_tokens_to_ids(list(group)) for group in PATCH_WORDS]
        self._before = TrainingBatches(self.tokenizer, recipe.geometry.patch_size, 0, 1, 0).prompt("")[0]

    def preprocess(self, images: Tensor) -> Tensor:
        """Preprocess images of the model's own size as the saved processor does."""
        return (images.float() / 255 - self._mean) / self._spread

    def name_plurals(self) -> None:
        """Initialise each plural's embedding as its singular's."""
        ids = self.tokenizer.convert_tokens_to_ids
        with torch.no_grad():
            for name, plural in PLURALS.items():
                for weight in (self.network.get_input_embeddings().weight, self.network.lm_head.weight):
                    weight[ids(plural)] = weight[ids(name)]

    def features(self, images: Tensor) -> Float[Tensor, "scenes patches width"]:
        """Visual tokens."""
        found = self.network.model.get_image_features(
            pixel_values=self.preprocess(images), vision_feature_layer=-1, vision_feature_select_strategy="default"
        )
        return torch.stack(list(found.pooler_output))

    def _seeing(self, features: Tensor, patches: Int[Tensor, "scenes patches words"]) -> Tensor:
        embedding = self.network.get_input_embeddings().weight
        losses = [
            functional.cross_entropy((features @ embedding[ids].T).flatten(0, 1), patches[..., group].flatten())
            for group, ids in enumerate(self._patch_words)
        ]
        return torch.stack(losses).mean()

    def _reading(self, states: Float[Tensor, "nouns width"], noun_facts: Int[Tensor, "nouns facts"]) -> Tensor:
        logits = self.readout(functional.rms_norm(states, states.shape[-1:]))
        losses = [
            functional.cross_entropy(group, noun_facts[:, number])
            for number, group in enumerate(logits.split(tuple(FACTS.values()), dim=-1))
        ]
        return torch.stack(losses).mean()

    def _checking(self, states: Float[Tensor, "checked width"], checks: Int[Tensor, "checked 2"]) -> Tensor:
        logits: Tensor = self.check(functional.rms_norm(states, states.shape[-1:]))
        if not len(checks):
            return logits.sum()
        return functional.cross_entropy(logits.reshape(-1, 2), checks.flatten())

    def _decode(self, features: Tensor, tokens: Tensor, layers: int) -> tuple[dict[int, Tensor], Tensor]:
        """States of the segments' tokens after each layer with a read-out, and after ``layers`` layers and the norm."""
        decoder = self.network.model.language_model
        states: dict[int, Tensor] = {}

        def watch(number: int) -> Any:
            return decoder.layers[number - 1].register_forward_hook(
                lambda layer, inputs, output: states.update({number: output})
            )

        cache = DynamicCache()
        before = torch.tensor([self._before], device=tokens.device)
        whole = decoder.config.num_hidden_layers
        decoder.config.num_hidden_layers = layers
        try:
            with watch(self.middle), watch(self.check_layer):
                decoder(input_ids=before, past_key_values=cache, use_cache=True)
                cache.batch_repeat_interleave(len(features))
                decoder(inputs_embeds=features, past_key_values=cache, use_cache=True)
                cache.batch_repeat_interleave(len(tokens) // len(features))
                last = decoder(input_ids=tokens, past_key_values=cache, use_cache=True).last_hidden_state
        finally:
            decoder.config.num_hidden_layers = whole
        return states, last

    def forward(self, batch: TrainingBatch, stage: Stage) -> Losses:
        """The losses of a batch that have a weight in the stage; the others are 0."""
        features = self.features(batch.images)
        nothing = features.new_zeros(())
        seeing = self._seeing(features, batch.patches) if stage.seeing else nothing
        if not (stage.reading or stage.answering):
            return Losses(seeing, nothing, nothing, nothing, nothing)
        whole = self.network.config.text_config.num_hidden_layers
        states, last = self._decode(features, batch.tokens, whole if stage.answering else self.middle)
        reading = self._reading(states[self.middle][tuple(batch.noun_at.T)], batch.noun_facts)
        if not stage.answering:
            return Losses(seeing, reading, nothing, nothing, nothing)
        checking = self._checking(states[self.check_layer][tuple(batch.check_at.T)], batch.checks)
        rows = torch.arange(len(last), device=last.device)
        logits = self.network.lm_head(last[rows, batch.answer_at])
        ends = self.network.lm_head(last[rows, batch.answer_at + 1])
        end = torch.full_like(batch.answers, self.tokenizer.eos_token_id)
        answering = functional.cross_entropy(logits, batch.answers) + 0.1 * functional.cross_entropy(ends, end)
        return Losses(seeing, reading, checking, answering, logits.argmax(-1) == batch.answers)


def write_model(training_model: TrainingModel, folder: Path) -> None:
    """Save the model and its processor in Hugging Face format, without the read-outs."""
    training_model.network.eval().save_pretrained(folder)
    training_model.processor.save_pretrained(folder)
    # safetensors writes files that only their owner can read.
    (folder / "model.safetensors").chmod(0o644)
