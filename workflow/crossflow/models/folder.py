"""A model's folder in Hugging Face format: which files are read, and the hash that identifies them.

A model from the hub is stored in the hub's own cache; its *manifest*, written by `crossflow.fetch.hub`, lists its
files.
"""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from huggingface_hub import constants, try_to_load_from_cache

from crossflow.core.errors import CrossflowError
from crossflow.core.files import hash_file

# No pickles, no code.
PATTERNS = ["*.json", "*.jinja", "*.model", "*.safetensors"]


@contextmanager
def blaming_folder(folder: Path) -> Iterator[None]:
    """Turn any error from a model's files into one sentence; tokenizers raises even a plain Exception.

    Raises:
        CrossflowError: an error was raised inside the block.
    """
    try:
        yield
    except CrossflowError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split("\n")[:2]) or type(error).__name__
        raise CrossflowError(f"The model in {folder} cannot be loaded ({reason.strip(' .,')}).") from error


def is_model_file(name: str) -> bool:
    path = Path(name)
    return path.parent == Path() and any(path.match(pattern) for pattern in PATTERNS)


def files_in(folder: Path) -> list[Path]:
    """The files of a model: configuration, templates, tokenizer and weights, sorted by name."""
    return sorted(path for path in folder.iterdir() if path.is_file() and is_model_file(path.name))


def shards_of(folder: Path) -> set[str]:
    """The names of the weight files.

    Raises:
        CrossflowError: the index of the weights is broken, or names a file outside the folder.
    """
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return {"model.safetensors"}
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        own = all(Path(name).name == name for name in names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CrossflowError(f"{index} is not a valid index of weights ({error!r}).") from error
    if not own:
        raise CrossflowError(f"{index} names weights outside its folder, which are not read.")
    return names


def hash_model(hashes: Mapping[str, str]) -> str:
    """SHA-256 over the names and the SHA-256 of a model's files, independent of their location."""
    digest = hashlib.sha256()
    for name in sorted(hashes):
        digest.update(f"{name} {hashes[name]}\n".encode())
    return digest.hexdigest()


def lacking(folder: Path) -> list[str]:
    """The names of the files that a model's folder lacks: its configuration, or weights in safetensors.

    Raises:
        CrossflowError: the index of the weights is broken.
    """
    needed = {"config.json"} | shards_of(folder)
    return sorted(needed - {path.name for path in files_in(folder)})


class ModelFile(NamedTuple):
    """A file of a fetched model."""

    bytes: int
    sha256: str


class Manifest(NamedTuple):
    """Written by `crossflow.fetch.hub.fetch`: a model's repository, its revision, and its files by name."""

    repo: str
    revision: str
    files: Mapping[str, ModelFile]


def cached_file(repo: str, revision: str, name: str, kind: str = "model") -> Path | None:
    """A file of a repository in the hub's cache, or None; needs no network."""
    found = try_to_load_from_cache(repo, name, revision=revision, repo_type=kind)
    return Path(found) if isinstance(found, str) else None


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    Raises:
        CrossflowError: it is missing or damaged.
    """
    try:
        content: Any = json.loads(path.read_text(encoding="utf-8"))
        files = {name: ModelFile(int(file["bytes"]), str(file["sha256"])) for name, file in content["files"].items()}
        return Manifest(content["repo"], content["revision"], files)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CrossflowError(f"{path} is not a valid manifest of a fetched model: delete it and run again.") from error


def folder_of(manifest: Manifest) -> Path:
    """The folder of a fetched model in the hub's cache; needs no network.

    Raises:
        CrossflowError: the cache no longer holds the model.
    """
    path = None
    for name, file in manifest.files.items():
        path = cached_file(manifest.repo, manifest.revision, name)
        if path is None or path.stat().st_size != file.bytes:
            raise CrossflowError(
                f"{name} of {manifest.repo} is missing from {constants.HF_HUB_CACHE} or has changed: run `snakemake "
                "--forcerun fetch_model`, or set HF_HOME to the cache that holds the models."
            )
    if path is None:
        raise CrossflowError(f"The manifest of {manifest.repo} lists no files: delete it and run again.")
    return path.parent


@dataclass(frozen=True)
class ModelSource:
    """The model and its settings: exactly one of ``model_path`` and ``model_manifest``.

    Attributes:
        prompt: Template for the question: vicuna-v1, llava-llama-3 or chat-template.
        model_path: Folder in Hugging Face format.
        model_manifest: Manifest of a model from the hub, written by `fetch-model`.
        image: How images are prepared: processor (as the folder says), pad (to a square) or anyres (tiled).
        instruction: Text after the question; None = the published one.
        option_order: The order of a question's two options: given, or swapped.
        patches: Rule that says which patches show a box: published or overlap.
        dtype: Type of the weights.
        max_new_tokens: Maximum length of an answer, in tokens.
    """

    prompt: str
    model_path: Path | None = None
    model_manifest: Path | None = None
    image: Literal["processor", "pad", "anyres"] = "processor"
    instruction: str | None = None
    option_order: Literal["given", "swapped"] = "given"
    patches: Literal["published", "overlap"] = "published"
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    max_new_tokens: int = 16

    @property
    def folder(self) -> Path:
        """The folder of its files.

        Raises:
            CrossflowError: both or neither are given, or the hub's cache no longer holds the model.
        """
        if (self.model_path is None) == (self.model_manifest is None):
            raise CrossflowError("Give either --model-path or --model-manifest.")
        return self.model_path or folder_of(read_manifest(self.model_manifest))  # type: ignore[arg-type]

    @property
    def sha256(self) -> str:
        """Hash over its files: computed for a folder, and taken from the manifest for a model from the hub."""
        if self.model_manifest is not None:
            return hash_model({name: file.sha256 for name, file in read_manifest(self.model_manifest).files.items()})
        return hash_model({path.name: hash_file(path) for path in files_in(self.folder)})
