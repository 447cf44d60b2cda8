"""The input files of a study: questions and images of its data set, and files of its models, the user's or made by
rules.

Imports nothing heavy: the workflow reads it at every start.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.data.splits import has_scene_graphs, part_of
from crossflow.study.parameters import Study

# Made or downloaded by rules of the workflow, so these files need not exist yet.
FETCHED_GQA = "data/gqa"
HUB_GQA = "data/gqa-hub"
TABLES = "data/tables"
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
    """Whether a file or folder exists; False for a name that the file system does not accept."""
    try:
        return kind(Path(path))
    except OSError:
        return False


def dataset_root(config: Mapping[str, Any], name: str) -> str:
    """The folder of a data set: in GQA's layout, the user's or one that rules fill; of a table, its images.

    Raises:
        CrossflowError: the user's folder does not exist.
    """
    dataset = config["datasets"][name]
    if dataset["kind"] == "shapes":
        return f"data/made/{name}"
    if is_fetched(config, name):
        return fetched_root(config, name)
    if is_from_hub(config, name):
        raise CrossflowError(f"params.yaml, datasets.{name}: give either root or source: hub, not both.")
    key = "pictures" if dataset["kind"] == "table" else "root"
    if is_unpacked(config, name):
        if key not in dataset:
            return f"{TABLES}/{name}/images"
    elif unfit := [key for key in ("repo", "columns") if key in dataset]:
        raise CrossflowError(
            f"params.yaml, datasets.{name}.{unfit[0]}: only a parquet file has it, not {dataset['file']}."
        )
    elif key not in dataset:
        raise CrossflowError(f"params.yaml, datasets.{name}: give the folder of its images as {key}.")
    if not _is(Path.is_dir, dataset[key]):
        raise CrossflowError(f"params.yaml, datasets.{name}.{key}: the folder {dataset[key]} does not exist.")
    return str(dataset[key]).rstrip("/")


def is_fetched(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set's images, and its questions unless they are published ones, are downloaded."""
    dataset = config["datasets"][name]
    return bool(dataset["kind"] == "gqa" and dataset.get("root") is None)


def is_from_hub(config: Mapping[str, Any], name: str) -> bool:
    """Whether they are downloaded from the Hugging Face hub instead of GQA's site; scene graphs never are."""
    return bool(config["datasets"][name].get("source") == "hub")


def fetched_root(config: Mapping[str, Any], name: str) -> str:
    """The folder of a downloaded data set."""
    return HUB_GQA if is_from_hub(config, name) else FETCHED_GQA


def gqa_sources(config: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    """The lines of the table of sources of a downloaded data set's questions, scene graphs and images."""
    if is_from_hub(config, name):
        return "gqa-hub", "gqa-scene-graphs", "gqa-hub"
    return "gqa-questions", "gqa-scene-graphs", "gqa-images"


def is_published(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set's questions are the published sets, instead of chosen from GQA."""
    return bool(config["datasets"][name].get("questions") == "published")


def is_table(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set is a table of the user's own."""
    return bool(config["datasets"][name]["kind"] == "table")


def is_unpacked(config: Mapping[str, Any], name: str) -> bool:
    """Whether a data set is in parquet files, which are written as a table first."""
    return is_table(config, name) and str(config["datasets"][name]["file"]).endswith(".parquet")


def unpacked_table(name: str) -> str:
    """The table that is written of a data set in parquet files."""
    return f"{TABLES}/{name}/questions.csv"


def parquet_files(config: Mapping[str, Any], name: str) -> list[str]:
    """The user's parquet files of a data set; none if they are on the hub.

    Raises:
        CrossflowError: there are none.
    """
    dataset = config["datasets"][name]
    if not is_unpacked(config, name) or "repo" in dataset:
        return []
    pattern = Path(dataset["file"])
    if not (found := sorted(str(path) for path in pattern.parent.glob(pattern.name))):
        raise CrossflowError(f"params.yaml, datasets.{name}.file: {dataset['file']} does not exist.")
    return found


def unpack_options(config: Mapping[str, Any], name: str) -> list[str]:
    """The options of the verb that writes a data set in parquet files as a table."""
    dataset = config["datasets"][name]
    if "repo" in dataset:
        options = ["--repo", dataset["repo"], "--revision", dataset["revision"], "--pattern", dataset["file"]]
    else:
        options = ["--files", *parquet_files(config, name)]
    if columns := dataset.get("columns"):
        options += ["--columns", *(f"{column}={source}" for column, source in columns.items())]
    return options if "pictures" in dataset else [*options, "--images", dataset_root(config, name)]


def _existing(root: str, *choices: str) -> str:
    for choice in choices:
        if _is(Path.is_file, Path(root) / choice):
            return f"{root}/{choice}"
    raise CrossflowError(f"{root} contains neither {' nor '.join(choices)}; a data set in GQA's layout was expected.")


def dataset_split(config: Mapping[str, Any], name: str) -> str:
    """The split whose questions are read."""
    return str(config["datasets"][name].get("split", "val_balanced"))


def gqa_files(config: Mapping[str, Any], name: str) -> list[str]:
    """The question file and, if the split has one, the scene graph file of a data set in GQA's layout."""
    root, split = dataset_root(config, name), dataset_split(config, name)
    files = [f"{split}_questions.json"]
    files += [f"{part_of(split)}_sceneGraphs.json"] if has_scene_graphs(split) else []
    official = [f"{folder}/{file}" for folder, file in zip(("questions", "sceneGraphs"), files, strict=False)]
    if config["datasets"][name]["kind"] == "shapes" or is_fetched(config, name):
        return [f"{root}/{file}" for file in official]
    return [_existing(root, there, file) for there, file in zip(official, files, strict=True)]


def published_file(category: str) -> str:
    """The downloaded published questions of a category."""
    return f"{PUBLISHED}/{category}.csv"


def question_files(config: Mapping[str, Any], name: str, category: str) -> list[str]:
    """The files from which a category's questions are chosen; images are not among them.

    Raises:
        CrossflowError: a file of the user's data does not exist.
    """
    if is_table(config, name):
        file = str(config["datasets"][name]["file"])
        if is_unpacked(config, name):
            parquet_files(config, name)
            return [unpacked_table(name)]
        if not _is(Path.is_file, file):
            raise CrossflowError(f"params.yaml, datasets.{name}.file: {file} does not exist.")
        return [file]
    return [published_file(category)] if is_published(config, name) else gqa_files(config, name)


def fetched_images(config: Mapping[str, Any], study: Study, category: str, folder: str = "") -> str:
    """The list of the images that were downloaded for a category's questions, or, in the folder ``pairs/``, pairs."""
    return f"{fetched_root(config, study.dataset)}/fetched/{study.name}/{folder}{category}.csv"


def drawn_pairs(study: Study, category: str) -> list[str]:
    """The zip of the images that were drawn for the pairs of a category, if the data set is drawn."""
    return [f"results/{study.name}/pairs/{category}.zip"] if study.drawn else []


def pair_image_files(config: Mapping[str, Any], study: Study, category: str) -> list[str]:
    """The files of the images of pairs, beside those of the questions' images; see `image_files`."""
    if is_fetched(config, study.dataset):
        return [fetched_images(config, study, category, "pairs/")]
    return drawn_pairs(study, category)


def image_files(config: Mapping[str, Any], study: Study, category: str) -> list[str]:
    """The zip of images, if there is one, or the list of downloaded images.

    A folder of images is not an input, since snakemake tracks files only. Nor is the downloaded zip, which grows with
    every study.
    """
    if is_table(config, study.dataset):
        return []
    if is_fetched(config, study.dataset):
        return [fetched_images(config, study, category)]
    path = f"{dataset_root(config, study.dataset)}/images.zip"
    return [path] if config["datasets"][study.dataset]["kind"] == "shapes" or _is(Path.is_file, path) else []


def manifest_of(repo: str, revision: str) -> str:
    """The manifest of a model from the hub."""
    return f"{FETCHED_MODELS}/{repo.replace('/', '--')}/{revision}.json"


def model_files(config: Mapping[str, Any], slug: str) -> list[str]:
    """The files of a model's folder, or the manifest of a model from the hub.

    Raises:
        CrossflowError: the folder contains no model.
    """
    model = config["models"][slug]
    if "repo" in model:
        return [manifest_of(model["repo"], model["revision"])]
    path = model["path"]
    if Path(path) == Path(RANDOM_LLAVA):
        return [f"{RANDOM_LLAVA}/{name}" for name in MODEL_FILES]
    if not _is(Path.is_file, Path(path) / "config.json"):
        raise CrossflowError(
            f"params.yaml, models.{slug}.path: {path} has no config.json: give a model's folder in Hugging Face format."
        )
    found = sorted(
        file for file in Path(path).glob("*") if file.suffix in {".json", ".jinja", ".model", ".safetensors"}
    )
    return [str(file) for file in found]


# Settings of a model in params.yaml, besides its location and window.
SETTINGS = ("prompt", "instruction", "option_order", "image", "patches", "dtype", "max_new_tokens")
# The settings that each job passes on: a changed setting reruns only the jobs that use it.
ANSWER_SETTINGS = ("prompt", "instruction", "option_order", "image", "dtype", "max_new_tokens")
KNOCKOUT_SETTINGS = ("prompt", "instruction", "option_order", "image", "patches", "dtype")


def model_options(config: Mapping[str, Any], slug: str, settings: Sequence[str]) -> list[str]:
    """The command-line options for a model, with those of ``settings`` that params.yaml gives."""
    model = config["models"][slug]
    if "path" in model:
        options = ["--model-path", model["path"]]
    else:
        options = ["--model-manifest", manifest_of(model["repo"], model["revision"])]
    for key in settings:
        if key in model:
            options += [f"--{key.replace('_', '-')}", str(model[key])]
    return options
