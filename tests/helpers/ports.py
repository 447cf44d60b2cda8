"""Tiny random models in the folder layout of the Hugging Face ports that the published study uses.

A folder has what a port has at the revision that params.yaml pins, as far as it matters for reading it: the files, their
keys, the defaults that are left out, the names of the weights, their type and shards, the tokenizer's special tokens.
Tiles, patches and grids of tiles are the true ones; only widths, depths and the vocabulary are small.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from crossflow.mini import random_model
from crossflow.mini.random_model import Geometry

TILE, PATCH = 336, 14
# Heights and widths of the grids of tiles.
PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
LLAMA_3_BEGIN, LLAMA_3_END = "<|begin_of_text|>", "<|eot_id|>"
LLAMA_3_SPECIAL = (LLAMA_3_BEGIN, "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", LLAMA_3_END)
# Llama 3 cuts a text before it merges bytes.
LLAMA_3_PIECES = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class Port:
    """One port, shrunk.

    Attributes:
        geometry: The shape of the tiny model.
        shards: Files of weights.
        text: Fields of ``text_config`` beside the sizes; others are left out because they are Llama's defaults.
        added: The tokens that the port adds behind those of its text model.
        pad: Its padding token.
    """

    geometry: Geometry
    shards: int
    text: Mapping[str, Any]
    added: tuple[str, ...] = ("<image>", "<pad>")
    pad: str = "<pad>"

    @property
    def tiles(self) -> bool:
        """Whether it is a LLaVA-NeXT model."""
        return self.geometry.architecture == "llava_next"


def _geometry(architecture: str, **sizes: int) -> Geometry:
    return Geometry(architecture, image_size=TILE, patch_size=PATCH, vision_width=16, vision_layers=3, **sizes)


_VICUNA = {"max_position_embeddings": 4096, "rms_norm_eps": 1e-05, "torch_dtype": "float16"}
# Slug in params.yaml -> the port it names.
PORTS = {
    "llava15-7b": Port(_geometry("llava", layers=3, width=32), 3, {"_name_or_path": "lmsys/vicuna-7b-v1.5"} | _VICUNA),
    "llava15-13b": Port(
        _geometry("llava", layers=4, width=40, heads=5, key_value_heads=5),
        6,
        {"_name_or_path": "lmsys/vicuna-13b-v1.5"} | _VICUNA,
    ),
    "llava16-vicuna-7b": Port(
        _geometry("llava_next", layers=3, width=32, heads=2, key_value_heads=2),
        3,
        {"_name_or_path": "lmsys/vicuna-7b-v1.5", "pad_token_id": 0} | _VICUNA,
        added=("<image>",),
        pad="<unk>",
    ),
    "llama3-llava-next-8b": Port(
        _geometry("llava_next", layers=3, width=32, key_value_heads=1),
        4,
        {
            "_name_or_path": "meta-llama/Meta-Llama-3-8B-Instruct",
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-05,
            "rope_theta": 500000.0,
            "torch_dtype": "bfloat16",
        },
    ),
}


def is_llama_3(port: Port) -> bool:
    """Whether the port's text model is Llama 3, which has other special tokens."""
    return "Llama-3" in port.text["_name_or_path"]


def llama_2_rules(vocabulary: dict[str, int], merges: list[tuple[str, str]]) -> Tokenizer:
    """Llama 2's tokenizer with some vocabulary: words begin with a blank, letters that it lacks are bytes."""
    tokenizer = Tokenizer(BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return tokenizer


def _small_llama_2() -> Tokenizer:
    """Llama 2's rules with the vocabulary of the mini world, and bytes for all other text."""
    first = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    trained = Tokenizer(BPE())
    words = ["▁" + word for word in random_model.mini_world_words()]
    trained.train_from_iterator(words, BpeTrainer(vocab_size=700, special_tokens=first, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    return llama_2_rules(model["vocab"], [(left, right) for left, right in model["merges"]])


def _small_llama_3() -> Tokenizer:
    """Llama 3's rules with a small vocabulary of bytes."""
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3_PIECES), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    words = [" " + word for word in random_model.mini_world_words()]
    trainer = BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.add_special_tokens(list(LLAMA_3_SPECIAL))
    begin = tokenizer.token_to_id(LLAMA_3_BEGIN)
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{LLAMA_3_BEGIN} $A", special_tokens=[(LLAMA_3_BEGIN, begin)]),
        ]
    )
    return tokenizer


def special_tokens(port: Port) -> dict[str, str]:
    """The tokens with a role, as tokenizer_config.json and special_tokens_map.json name them."""
    begin, end = (LLAMA_3_BEGIN, LLAMA_3_END) if is_llama_3(port) else ("<s>", "</s>")
    unknown = {} if is_llama_3(port) else {"unk_token": "<unk>"}
    return {"bos_token": begin, "eos_token": end, "pad_token": port.pad} | unknown


def _write(folder: Path, **files: Any) -> None:
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_tokenizer(folder: Path, port: Port, tokenizer: Tokenizer, **settings: Any) -> None:
    """The files of a port's tokenizer: that of its text model with the tokens that the port adds.

    ``settings`` go over its tokenizer_config.json.
    """
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in port.added])
    tokenizer.save(str(folder / "tokenizer.json"))
    special = special_tokens(port)
    plain = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
    kinds = {"additional_special_tokens": ["<image>"]} | {
        role: {"content": token} | plain for role, token in special.items()
    }
    config = {
        "added_tokens_decoder": {
            str(number): {"content": token.content} | plain | {"special": True}
            for number, token in sorted(tokenizer.get_added_tokens_decoder().items())
        },
        "clean_up_tokenization_spaces": is_llama_3(port),
        "extra_special_tokens": {"image_token": "<image>"},
        "image_token": "<image>",
        "model_max_length": 1000000000000000019884624838656,
        "padding_side": "left",
        "processor_class": "LlavaNextProcessor" if port.tiles else "LlavaProcessor",
        **special,
    }
    if is_llama_3(port):
        config["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        config |= {"add_bos_token": True, "add_eos_token": False, "add_prefix_space": None, "legacy": False}
        config |= {"sp_model_kwargs": {}, "tokenizer_class": "LlamaTokenizer", "use_default_system_prompt": False}
    added = {token: tokenizer.token_to_id(token) for token in port.added}
    _write(folder, tokenizer_config=config | settings, special_tokens_map=kinds, added_tokens=added)


def _write_processor(folder: Path, port: Port) -> None:
    square = {"height": TILE, "width": TILE}
    images = {
        "crop_size": square,
        "do_center_crop": True,
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.48145466, 0.4578275, 0.40821073],
        "image_processor_type": "CLIPImageProcessor",
        "image_std": [0.26862954, 0.26130258, 0.27577711],
        "processor_class": "LlavaProcessor",
        "resample": 3,
        "rescale_factor": 0.00392156862745098,
        "size": {"shortest_edge": TILE},
    }
    if port.tiles:
        images |= {
            "aspect_ratio_setting": "anyres",
            "do_pad": True,
            "image_grid_pinpoints": PINPOINTS,
            "image_processor_type": "LlavaNextImageProcessor",
            "processor_class": "LlavaNextProcessor",
        }
    processor = {
        "image_token": "<image>",
        "num_additional_image_tokens": 1,
        "patch_size": PATCH,
        "processor_class": images["processor_class"],
        "vision_feature_select_strategy": "default",
    }
    user, assistant = ("USER: ", "ASSISTANT:")
    if is_llama_3(port):
        user, assistant = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("user", "assistant"))
    template = (
        "{{ bos_token }}{% for message in messages %}" + user + "{% for part in message['content'] %}"
        "{% if part['type'] == 'image' %}<image>\n{% else %}{{ part['text'] }} {% endif %}{% endfor %}{% endfor %}"
        "{% if add_generation_prompt %}" + assistant + "{% endif %}"
    )
    _write(folder, preprocessor_config=images, processor_config=processor, chat_template={"chat_template": template})


def old_name(name: str) -> str:
    """The name of a weight in the ports, which were made with transformers 4.36 to 4.40."""
    for now, then in (
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^model\.vision_tower\.(vision_model\.)?", "vision_tower.vision_model."),
        (r"^model\.", ""),
    ):
        renamed, times = re.subn(now, then, name)
        if times:
            return renamed
    raise AssertionError(f"{name} has no place in the ports")


def _write_weights(folder: Path, port: Port, weights: Mapping[str, torch.Tensor]) -> None:
    names = sorted(weights)
    size = -(-len(names) // port.shards)
    place = {name: f"model-{i // size + 1:05}-of-{port.shards:05}.safetensors" for i, name in enumerate(names)}
    for file in set(place.values()):
        save_file({name: weights[name] for name in names if place[name] == file}, folder / file, {"format": "pt"})
    total = sum(weight.numel() * weight.element_size() for weight in weights.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": place}, indent=2)
    )


def write(folder: Path, slug: str, seed: int = 0) -> dict[str, torch.Tensor]:
    """Write the port that ``slug`` of params.yaml names, shrunk; returns its weights by the names that the ports use."""
    port = PORTS[slug]
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = _small_llama_3() if is_llama_3(port) else _small_llama_2()
    write_tokenizer(folder, port, tokenizer)
    geometry, ids = port.geometry, {role: tokenizer.token_to_id(token) for role, token in special_tokens(port).items()}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special_tokens(port))
    # The ports pad the vocabulary to a multiple of 64.
    words = -(-len(fast) // 64) * 64
    weights = {}
    for name, weight in random_model.build_model(geometry, fast, seed).state_dict().items():
        if "embed_tokens" in name or "lm_head" in name:
            weight = torch.nn.functional.pad(weight, (0, 0, 0, words - len(fast)))
        weights[old_name(name)] = weight.to(torch.float16).contiguous()
    _write_weights(folder, port, weights)
    _write_processor(folder, port)
    text = {
        **port.text,
        "architectures": ["LlamaForCausalLM"],
        "hidden_size": geometry.width,
        "intermediate_size": 2 * geometry.width,
        "model_type": "llama",
        "num_attention_heads": geometry.heads,
        "num_hidden_layers": geometry.layers,
        "vocab_size": words,
    }
    if geometry.key_value_heads != geometry.heads:
        text["num_key_value_heads"] = geometry.key_value_heads
    generation = {key.replace("_token", "_token_id"): number for key, number in ids.items() if key != "unk_token"}
    if is_llama_3(port):
        text |= {"bos_token_id": ids["bos_token"], "eos_token_id": ids["eos_token"]}
    config = {
        "architectures": [f"{'LlavaNext' if port.tiles else 'Llava'}ForConditionalGeneration"],
        "ignore_index": -100,
        "image_seq_length": (TILE // PATCH) ** 2,
        "image_token_index": tokenizer.token_to_id("<image>"),
        "model_type": geometry.architecture,
        "projector_hidden_act": "gelu",
        "text_config": text,
        "tie_word_embeddings": False,
        "torch_dtype": "float16",
        "transformers_version": "4.36.0.dev0",
        "vision_config": {
            "hidden_size": geometry.vision_width,
            "image_size": TILE,
            "intermediate_size": 2 * geometry.vision_width,
            "model_type": "clip_vision_model",
            "num_attention_heads": 4,
            "num_hidden_layers": geometry.vision_layers,
            "patch_size": PATCH,
            "projection_dim": geometry.vision_width,
            "vocab_size": 32000,
        },
        "vision_feature_layer": -2,
        "vision_feature_select_strategy": "default",
        "vocab_size": words,
    }
    if port.tiles:
        config |= {"image_grid_pinpoints": PINPOINTS, "use_image_newline_parameter": True}
    else:
        config |= {"pad_token_id": ids["pad_token"]}
    _write(folder, config=config, generation_config={"_from_model_config": True, **generation})
    return weights
