"""What all rules share: the checked study, wildcard constraints, and the sources of a verb.

A rule's command runs the sources of this tree (PYTHONPATH=workflow), never an installed copy of the package. What it
prints is shown and kept; the exit status is the verb's, because snakemake's shells set pipefail.
"""

import json
from pathlib import Path

from snakemake.exceptions import WorkflowError

from crossflow import config_files, parameters, remote
from crossflow.errors import CrossflowError
from crossflow.figure_kinds import GRIDS, LENS_KINDS, kinds_of
from crossflow.remote import read_sources
from crossflow.sources import sources_of

ROOT = Path(workflow.basedir)

try:
    for file in workflow.configfiles:
        config_files.read_config(Path(file))  # for what snakemake passes over: a key that stands there twice
    parameters.check(config, ROOT / "workflow/schemas/params.schema.yaml")
    STUDY = parameters.read_study(config)
    DATASET = parameters.dataset_root(config, STUDY.dataset)
    QUESTION_FILES = {name: parameters.question_files(config, STUDY.dataset, name) for name in STUDY.categories}
    PICTURE_FILES = {name: parameters.picture_files(config, STUDY, name) for name in STUDY.categories}
    PICTURES = ["--pictures" if parameters.is_table(config, STUDY.dataset) else "--root", DATASET]
    SOURCES = read_sources(ROOT / remote.TABLE)
    MODEL_FILES = {slug: parameters.model_files(config, slug) for slug in STUDY.models}
    FILES = parameters.stage_files(STUDY)
except CrossflowError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{STUDY.name}"
LOGS = f"logs/{STUDY.name}"
PUBLISHED_CATEGORIES = [name.removeprefix("published-") for name in SOURCES if name.startswith("published-")]
CPU_ENV = "../../envs/cpu.yaml"
GPU_ENV = "../../envs/gpu.yaml"


wildcard_constraints:
    model="|".join(STUDY.models),
    category="|".join(STUDY.categories),
    window=r"\d+|bottom|top",


def sources(verb: str) -> list[str]:
    """The source files that a verb runs, as inputs of its rule."""
    return sources_of(verb, ROOT)


def device_threads() -> int:
    """Threads of a job that holds a device: the cores, shared by as many jobs as there are devices.

    Not workflow.cores, which is an error where no cores are given, as in `snakemake --report`.
    """
    devices = workflow.global_resources.get("gpu")
    return max(1, (workflow.resource_settings.cores or 1) // (devices and devices.value or 1))


def source(name: str) -> str:
    """What the table of sources says of a file, so that another address or checksum fetches it again."""
    remote = SOURCES[name]
    return f"{remote.url} {remote.bytes} {remote.sha256}"


def curves_shown(wildcards) -> list[str]:
    """Models and windows of a figure of many panels, as options: those of its name, or else all that it compares."""
    models = [wildcards.model] if hasattr(wildcards, "model") else STUDY.models
    if hasattr(wildcards, "window"):
        windows = [wildcards.window]
    elif hasattr(wildcards, "model"):
        windows = STUDY.windows[wildcards.model]
    else:
        windows = [STUDY.windows[model][0] for model in STUDY.models]
    return ["--model", *models, "--window", *windows]


def first_knockouts(model: str) -> list[str]:
    """The knockouts of a model in its first window."""
    folder = f"{RESULTS}/knockout/{model}/w{STUDY.windows[model][0]}"
    return [f"{folder}/{category}.parquet" for category in STUDY.categories]


def chosen_from(category: str) -> list[str]:
    """Where the questions of a category come from, as options."""
    if parameters.is_table(config, STUDY.dataset):
        return ["--table", *QUESTION_FILES[category], "--pictures", DATASET]
    if parameters.is_published(config, STUDY.dataset):
        return ["--published", parameters.published_file(category)]
    return ["--root", DATASET, "--split", parameters.dataset_split(config, STUDY.dataset)]
