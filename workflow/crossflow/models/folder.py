"""A model's folder in Hugging Face format: which of its files are read, and the hash that stands for them."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from crossflow.core.errors import CrossflowError

# Never pickles, never code.
PATTERNS = ["*.json", "*.jinja", "*.model", "*.safetensors"]


def is_model_file(name: str) -> bool:
    path = Path(name)
    return path.parent == Path() and any(path.match(pattern) for pattern in PATTERNS)


def files_in(folder: Path) -> list[Path]:
    """The files of a model's folder, by name: configuration, templates, tokenizer and weights."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_model_file(path.name))


def shards_of(folder: Path) -> set[str]:
    """The names of the files that hold a model's weights.

    Raises:
        CrossflowError: the index of the weights is broken, or names a file that is not in the folder itself.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        own = all(Path(name).name == name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CrossflowError(f"{index} is not the index of a model's weights ({error!r}).") from error
    if not own:
        raise CrossflowError(f"{index} names weights outside of its folder: they are not read.")
    return names


def hash_model(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the names of a model's files and the SHA-256 of their contents, wherever they lie."""
    digest = hashlib.sha256()
    for name in sorted(hashes):
        digest.update(f"{name} {hashes[name]}\n".encode())
    return digest.hexdigest()


def lacking(folder: Path) -> list[str]:
    """The names of the files that a model's folder lacks: its configuration, or weights in safetensors.

    Raises:
        CrossflowError: the index of its weights is none.
    """
    needed = {"config.json"} | shards_of(folder)
    return sorted(needed - {path.name for path in files_in(folder)})
