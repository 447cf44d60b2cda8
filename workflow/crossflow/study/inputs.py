"""params.yaml, checked and resolved: what a study consists of, before anything is computed.

The schema (``workflow/schemas/params.schema.yaml``) says what is allowed; this module turns its complaints into one
sentence and adds what a schema can not say. Nothing heavy is imported: the workflow asks at every start.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.study.parameters import Study

# Made or fetched by rules of the workflow, so their files need not exist beforehand.
FETCHED_GQA = "data/gqa"
PUBLISHED = "data/published"
FETCHED_MODELS = "data/models"
RANDOM_LLAVA = "data/made/random-llava"
TRAINED_LLAVA = "data/mini-llava-trained"
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


def _is(kind: Callable[[Path], bool], path: str | Path) -> bool:
    """Whether there is a file or folder of that name; none has a name that the file system does not take."""
    try:
        return kind(Path(path))
    except OSError:
        return False


def dataset_root(config: Mapping[str, Any], name: str) -> str:
    """The folder of a data set in GQA's layout: the user's own, or the one that rules fill; a table's images.

    Raises:
        CrossflowError: the user's folder does not exist.
    """
    dataset = config["datasets"][name]
    if dataset["kind"] == "shapes":
        return f"data/made/{name}"
    if dataset["kind"] == "table":
        if not _is(Path.is_dir, dataset["pictures"]):
            raise CrossflowError(
                f"params.yaml, datasets.{name}.pictures: the folder {dataset['pictures']} does not exist."
            )
        return str(dataset["pictures"]).rstrip("/")
    root = dataset.get("root")
    if root is None:
        return FETCHED_GQA
    if not _is(Path.is_dir, root):
        raise CrossflowError(f"params.yaml, datasets.{name}.root: the folder {root} does not exist.")
    return str(root).rstrip("/")


def is_fetched(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set's images, and its questions if they are GQA's own, come from GQA's site."""
    dataset = config["datasets"][name]
    return bool(dataset["kind"] == "gqa" and dataset.get("root") is None)


def is_published(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set's questions are the published sets, and not chosen among GQA's."""
    return bool(config["datasets"][name].get("questions") == "published")


def is_table(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set is a table of the user's own."""
    return bool(config["datasets"][name]["kind"] == "table")


def _existing(root: str, *choices: str) -> str:
    for choice in choices:
        if _is(Path.is_file, Path(root) / choice):
            return f"{root}/{choice}"
    raise CrossflowError(f"{root} holds neither {' nor '.join(choices)}: a data set in GQA's layout was expected.")


def dataset_split(config: Mapping[str, Any], name: str) -> str:
    """The split whose questions are read."""
    return str(config["datasets"][name].get("split", "val_balanced"))


def gqa_files(config: Mapping[str, Any], name: str) -> list[str]:
    """The question file and the scene graph file of a data set in GQA's layout."""
    root, split = dataset_root(config, name), dataset_split(config, name)
    files = (f"{split}_questions.json", f"{split.partition('_')[0]}_sceneGraphs.json")
    official = [f"{folder}/{file}" for folder, file in zip(("questions", "sceneGraphs"), files, strict=True)]
    if config["datasets"][name]["kind"] == "shapes" or is_fetched(config, name):
        return [f"{root}/{file}" for file in official]
    return [_existing(root, there, file) for there, file in zip(official, files, strict=True)]


def published_file(category: str) -> str:
    """The published questions of a category, as fetched."""
    return f"{PUBLISHED}/{category}.csv"


def question_files(config: Mapping[str, Any], name: str, category: str) -> list[str]:
    """Files of a data set that the choice of a category's questions reads: no image is asked for.

    Raises:
        CrossflowError: a file of the user's own is not there.
    """
    if is_table(config, name):
        file = str(config["datasets"][name]["file"])
        if not _is(Path.is_file, file):
            raise CrossflowError(f"params.yaml, datasets.{name}.file: {file} does not exist.")
        return [file]
    return [published_file(category)] if is_published(config, name) else gqa_files(config, name)


def fetched_images(study: Study, category: str) -> str:
    """The list of the images that were fetched for a category."""
    return f"{FETCHED_GQA}/fetched/{study.name}/{category}.csv"


def image_files(config: Mapping[str, Any], study: Study, category: str) -> list[str]:
    """The zip of images, if they lie in one, or the list of the images that were fetched.

    A folder of images is no input: only its files have content. The fetched zip is none either, because it grows
    with every study.
    """
    if is_table(config, study.dataset):
        return []
    if is_fetched(config, study.dataset):
        return [fetched_images(study, category)]
    path = f"{dataset_root(config, study.dataset)}/images.zip"
    return [path] if config["datasets"][study.dataset]["kind"] == "shapes" or _is(Path.is_file, path) else []


def manifest_of(repo: str, revision: str) -> str:
    """Where the rule that fetches a model from the hub lists its files."""
    return f"{FETCHED_MODELS}/{repo.replace('/', '--')}/{revision}.json"


def model_files(config: Mapping[str, Any], slug: str) -> list[str]:
    """The files of a model's folder; the manifest of a model from the hub.

    Raises:
        CrossflowError: the folder holds no model.
    """
    model = config["models"][slug]
    if "repo" in model:
        return [manifest_of(model["repo"], model["revision"])]
    path = model["path"]
    if Path(path) == Path(RANDOM_LLAVA):
        return [f"{RANDOM_LLAVA}/{name}" for name in MODEL_FILES]
    if not _is(Path.is_file, Path(path) / "config.json"):
        raise CrossflowError(f"params.yaml, models.{slug}.path: {path} holds no config.json of a model.")
    found = sorted(
        file for file in Path(path).glob("*") if file.suffix in {".json", ".jinja", ".model", ".safetensors"}
    )
    return [str(file) for file in found]


# What params.yaml may say of a model besides where it is and its window.
SETTINGS = ("prompt", "image", "patches", "dtype", "max_new_tokens")
# What each job asks of a model, so that a changed setting reruns only the jobs that it shapes.
ANSWER_SETTINGS = ("prompt", "image", "dtype", "max_new_tokens")
KNOCKOUT_SETTINGS = ("prompt", "image", "patches", "dtype")
LENS_SETTINGS = ("prompt", "image", "dtype")


def model_options(config: Mapping[str, Any], slug: str, settings: Sequence[str]) -> list[str]:
    """The command line's options for a model, with those of ``settings`` that params.yaml gives."""
    model = config["models"][slug]
    if "path" in model:
        options = ["--model-path", model["path"]]
    else:
        options = ["--model-manifest", manifest_of(model["repo"], model["revision"])]
    for key in settings:
        if key in model:
            options += [f"--{key.replace('_', '-')}", str(model[key])]
    return options
