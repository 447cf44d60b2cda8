"""Changes of a model's folder: its configuration, its processor, its tokenizer."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, processors


def edit_json(path: Path, key: str, value: Any) -> None:
    """Set a dotted key of a JSON file; None takes it out."""
    content = json.loads(path.read_text())
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place[parent]
    if value is None:
        del place[last]
    else:
        place[last] = value
    path.write_text(json.dumps(content))


def set_post_processor(folder: Path, single: str) -> None:
    """Let the folder's tokenizer put tokens around a text, as ``$A <end>``."""
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    special = {token for token in single.split() if token != "$A"}
    tokenizer.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[(token, tokenizer.token_to_id(token)) for token in special]
    )
    tokenizer.save(str(folder / "tokenizer.json"))


def processor_file(folder: Path) -> tuple[Path, str]:
    """The file with the settings of the image processor, and what their keys begin with in it."""
    path = folder / "preprocessor_config.json"
    return (path, "") if path.is_file() else (folder / "processor_config.json", "image_processor.")


def edit_image_processor(folder: Path, key: str, value: Any) -> None:
    """Set a dotted key of the image processor's settings; None takes it out."""
    path, prefix = processor_file(folder)
    edit_json(path, prefix + key, value)
