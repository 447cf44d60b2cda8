"""params.yaml, checked and resolved: what a study consists of, before anything is computed.

The schema (``workflow/schemas/params.schema.yaml``) says what is allowed; this module turns its complaints into one
sentence and adds what a schema can not say. Nothing heavy is imported: the workflow asks at every start.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError

from crossflow.errors import CrossflowError
from crossflow.figure_kinds import LENS_KINDS, grids_of, kinds_of
from crossflow.flows import CONTROL_FLOWS, parse_flow, with_controls

# Made or fetched by rules of the workflow, so their files need not exist beforehand.
FETCHED_GQA = "data/gqa"
PUBLISHED = "data/published"
FETCHED_MODELS = "data/models"
RANDOM_LLAVA = "data/made/random-llava"
TRAINED_LLAVA = "data/mini-llava-trained"
CATEGORIES = ("ChooseAttr", "ChooseCat", "ChooseRel", "CompareAttr", "LogicalObj", "QueryAttr")
MODEL_FILES = (
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "processor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)


@dataclass(frozen=True)
class Study:
    """The study that params.yaml names.

    Attributes:
        windows: Model -> its windows: widths, ``bottom`` or ``top``.
        number: Questions per category, or ``all``.
        controls: Flows that are added to the study's own.
        stride: From one centre layer of the controls to the next.
        baselines: Further answers without the picture.
        whole_answer: Whether all tokens of an answer are scored.
    """

    name: str
    dataset: str
    models: list[str]
    categories: list[str]
    windows: dict[str, list[str]]
    flows: list[str]
    number: str
    answers: str
    engine: str
    lens: bool
    seed: int
    controls: list[str]
    stride: int
    baselines: list[str]
    whole_answer: bool


def _sentence(error: ValidationError) -> str:
    """What is wrong with a value, in words that need no knowledge of JSON schema."""
    schema: Any = error.schema
    match error.validator:
        case "additionalProperties":
            return f"{error.message}; known are {', '.join(schema['properties'])}"
        case "pattern":
            return f"{error.instance!r} does not have the form that is described: {schema['description']}"
        case "anyOf":
            return f"{error.instance!r} is not {schema['description']}"
        case "oneOf":
            return f"give {schema['oneOf'][0]['description']}"
        case _:
            return error.message


def check(config: Mapping[Any, Any], schema: Path) -> None:
    """Hold a configuration against the schema.

    Raises:
        CrossflowError: one sentence with the path of the offending key.
    """
    error = next(Draft202012Validator(yaml.safe_load(schema.read_text())).iter_errors(config), None)
    if error is not None:
        where = ".".join(map(str, error.absolute_path)) or "its top level"
        raise CrossflowError(f"params.yaml, {where}: {_sentence(error)}.")


def _entry(config: Mapping[str, Any], kind: str, slug: str, asked_by: str) -> Mapping[str, Any]:
    if slug not in config[kind]:
        known = ", ".join(config[kind])
        raise CrossflowError(f"params.yaml, {asked_by}: {kind} has no entry {slug!r}; known are {known}.")
    entry: Mapping[str, Any] = config[kind][slug]
    return entry


def _flow(name: str, asked_by: str) -> None:
    try:
        parse_flow(name)
    except CrossflowError as error:
        raise CrossflowError(f"params.yaml, {asked_by}: {error}") from None


def read_study(config: Mapping[str, Any]) -> Study:
    """The study that ``config`` names, with defaults filled in.

    Raises:
        CrossflowError: a slug that has no entry, or a flow that is none.
    """
    name = config["study"]
    study = _entry(config, "studies", name, "study")
    at = f"studies.{name}"
    dataset = _entry(config, "datasets", study["dataset"], f"{at}.dataset")
    if dataset["kind"] != "table" and (unknown := [name for name in study["categories"] if name not in CATEGORIES]):
        raise CrossflowError(
            f"params.yaml, {at}.categories: {unknown[0]!r} is none of {', '.join(CATEGORIES)}; only a data set of kind "
            "table has its own."
        )
    windows = {}
    for slug in study["models"]:
        model = _entry(config, "models", slug, f"{at}.models")
        own = study.get("windows") or ["own"]
        windows[slug] = list(dict.fromkeys(str(model["window"] if window == "own" else window) for window in own))
    for flow in study["flows"]:
        _flow(flow, f"{at}.flows")
    controls = study.get("controls")
    further = [] if controls is None else controls.get("flows", CONTROL_FLOWS)
    for flow in further:
        _flow(flow, f"{at}.controls.flows")
    draws = 0 if controls is None else controls.get("draws", 3)
    number = study.get("questions_per_category")
    return Study(
        name,
        study["dataset"],
        list(study["models"]),
        list(study["categories"]),
        windows,
        list(study["flows"]),
        "all" if number is None else str(number),
        study.get("answers", "correct"),
        study.get("engine", "knockout"),
        study.get("lens", True),
        study.get("seed", 0),
        [] if controls is None else with_controls(study["flows"], draws, further),
        1 if controls is None else controls.get("stride", 1),
        list(study.get("baselines", [])),
        study.get("whole_answer", False),
    )


def _is(kind: Callable[[Path], bool], path: str | Path) -> bool:
    """Whether there is a file or folder of that name; none has a name that the file system does not take."""
    try:
        return kind(Path(path))
    except OSError:
        return False


def dataset_root(config: Mapping[str, Any], name: str) -> str:
    """The folder of a data set in GQA's layout: the user's own, or the one that rules fill; a table's pictures.

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
    """Whether a data set's pictures, and its questions if they are GQA's own, come from GQA's site."""
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
    """Files of a data set that the choice of a category's questions reads: no picture is asked for.

    Raises:
        CrossflowError: a file of the user's own is not there.
    """
    if is_table(config, name):
        file = str(config["datasets"][name]["file"])
        if not _is(Path.is_file, file):
            raise CrossflowError(f"params.yaml, datasets.{name}.file: {file} does not exist.")
        return [file]
    return [published_file(category)] if is_published(config, name) else gqa_files(config, name)


def fetched_pictures(study: Study, category: str) -> str:
    """The list of the pictures that were fetched for a category."""
    return f"{FETCHED_GQA}/pictures/{study.name}/{category}.csv"


def picture_files(config: Mapping[str, Any], study: Study, category: str) -> list[str]:
    """The zip of pictures, if they lie in one, or the list of the pictures that were fetched.

    A folder of pictures is no input: only its files have content. The fetched zip is none either, because it grows
    with every study.
    """
    if is_table(config, study.dataset):
        return []
    if is_fetched(config, study.dataset):
        return [fetched_pictures(study, category)]
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


def curves(study: Study) -> list[str]:
    """Model and window of every curve, written ``model:window``."""
    return [f"{model}:{window}" for model in study.models for window in study.windows[model]]


def stage_files(study: Study) -> dict[str, list[str]]:
    """Every result of a study, by the stage that makes it: stage -> files, in the order of the stages."""
    results = f"results/{study.name}"
    windows = [(model, window) for model in study.models for window in study.windows[model]]
    lenses = study.models if study.lens else []
    return {
        "data": [f"{results}/hashes.json"],
        "questions": [
            f"{results}/questions/{category}{suffix}"
            for category in study.categories
            for suffix in (".csv", ".rejections.csv")
        ],
        "answers": [
            f"{results}/answers/{model}/{category}{suffix}"
            for model in study.models
            for category in study.categories
            for suffix in (".parquet", ".skipped.csv")
        ],
        "knockout": [
            f"{results}/knockout/{model}/w{window}/{category}.parquet"
            for model, window in windows
            for category in study.categories
        ],
        "lens": [f"{results}/lens/{model}/{category}.parquet" for model in lenses for category in study.categories],
        "summary": [f"{results}/summary/{table}.csv" for table in SUMMARY_TABLES]
        + [f"{results}/metrics.json"]
        + [f"{results}/summary/lens.csv" for _ in lenses[:1]],
        "claims": [f"{results}/claims.{suffix}" for suffix in ("json", "md")],
        "pages": [f"{results}/summary/{table}.html" for table in COMPARED_TABLES],
        "figures": [
            f"{results}/figures/{kind}-{model}-w{window}.{suffix}"
            for kind in kinds_of([*study.flows, *study.controls])
            for model, window in windows
            for suffix in ("pdf", "png")
        ]
        + [
            f"{results}/figures/{kind}-{model}.{suffix}"
            for kind in LENS_KINDS
            for model in lenses
            for suffix in ("pdf", "png")
        ]
        + [f"{results}/figures/{name}.{suffix}" for name in grids_of(study.windows) for suffix in ("pdf", "png")]
        + [
            f"{results}/figures/examples-{model}-{category}.{suffix}"
            for model in study.models
            for category in study.categories
            for suffix in ("pdf", "png")
        ],
        "explorer": [f"{results}/explorer.html"],
        "record": [f"{results}/provenance.json"]
        + [f"{results}/provenance/{table}.html" for table in ("facts", "times")],
    }


# Those that a fresh run is compared in come first.
COMPARED_TABLES = ("effects", "answers", "counts")
SUMMARY_TABLES = (*COMPARED_TABLES, "measures", "bands", "baselines", "noise", "comparisons")


def record_of(result: str) -> str:
    """Where the job that makes a result writes by what, when and where it ran."""
    parts = Path(result).parts
    return Path(*parts[:2], "provenance", *parts[2:-1], f"{parts[-1].partition('.')[0]}.json").as_posix()


def recorded(config: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """All that params.yaml says about a study."""
    return {
        "study": study.name,
        "studies": {study.name: config["studies"][study.name]},
        "datasets": {study.dataset: config["datasets"][study.dataset]},
        "models": {slug: config["models"][slug] for slug in study.models},
    }
