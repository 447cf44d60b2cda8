"""Small byte-level tokenizers with the templates of the real ones, for tests that load no model."""

from types import SimpleNamespace
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

LLAMA_3 = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")


def bytes_tokenizer(begin: str, special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    """A small byte-level BPE tokenizer, as Llama 3 has a large one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=320, special_tokens=[begin, *special, "<image>"], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(["Is the cat on the left or the right side? Answer the question."], trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"{begin} $A", special_tokens=[(begin, 0)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=begin, extra_special_tokens={"image_token": "<image>"}
    )


def processor_of(tokenizer: PreTrainedTokenizerFast, **more: Any) -> Any:
    return SimpleNamespace(
        tokenizer=tokenizer,
        image_token="<image>",
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        **more,
    )


def chat_template(messages: list[dict[str, Any]], add_generation_prompt: bool, chat_template: str = "") -> str:
    (message,) = messages
    parts = ["<image>" if part["type"] == "image" else "\n" + part["text"] for part in message["content"]]
    assert add_generation_prompt
    return f"<s>[user] {''.join(parts)} [assistant]"


VICUNA = processor_of(bytes_tokenizer("<s>", ()), chat_template="given", apply_chat_template=chat_template)
LLAMA = processor_of(bytes_tokenizer(LLAMA_3[0], LLAMA_3[1:]))
PROCESSORS = {"vicuna-v1": VICUNA, "llava-llama-3": LLAMA, "chat-template": VICUNA}
