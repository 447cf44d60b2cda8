"""What all rules share: the validated study, wildcard constraints, and the form of a command.

A rule's command runs the sources of this tree (PYTHONPATH=workflow), never an installed copy of the package. Its output
goes to the rule's log. A rule's message names the job on the console (`crossflow.study.console`); a rule without a message
is counted there, but has no line. The rule's parameter ``code`` holds the version of the code that shapes its result: see
`crossflow.core.code_version`.
"""

import json
import logging
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake_interface_executor_plugins.settings import ExecMode

from crossflow.analysis.tables import EXPECTED, HEAD_TABLES, summaries_of
from crossflow.core.code_version import code_version
from crossflow.core.errors import CrossflowError
from crossflow.core.progress import TERMINAL
from crossflow.fetch.sources import TABLE, read_sources
from crossflow.figures.kinds import FIGURES, figures_of, flows_by_kind
from crossflow.study import config_files, console, inputs, parameters, results

ROOT = Path(workflow.basedir)

try:
    for file in workflow.configfiles:
        config_files.read_config(Path(file))  # snakemake itself ignores a duplicate key
    parameters.validate(config, ROOT / "workflow/schemas/params.schema.yaml")
    STUDY = parameters.read_study(config)
    DATASET = inputs.dataset_root(config, STUDY.dataset)
    QUESTION_FILES = {name: inputs.question_files(config, STUDY.dataset, name) for name in STUDY.categories}
    IMAGE_FILES = {name: inputs.image_files(config, STUDY, name) for name in STUDY.categories}
    IMAGES = ["--images" if inputs.is_table(config, STUDY.dataset) else "--root", DATASET]
    SOURCES = read_sources(ROOT / TABLE)
    MODEL_FILES = {slug: inputs.model_files(config, slug) for slug in STUDY.models}
    FILES = results.result_files(STUDY)
except CrossflowError as error:
    raise WorkflowError(str(error)) from None

RESULTS = f"results/{STUDY.name}"
LOGS = f"logs/{STUDY.name}"
FLOWS = [*STUDY.flows, *STUDY.controls]
FIGURES_OF_STUDY = figures_of(STUDY)
FLOWS_SHOWN = flows_by_kind(FLOWS)
PUBLISHED_CATEGORIES = [name.removeprefix("published-") for name in SOURCES if name.startswith("published-")]
# What a job with a model requests of a cluster. Half-precision weights of a 13 B model may pass through the node's memory
# on their way to the GPU.
GPU_JOB = {"mem_mb": 48000, "runtime": 1440}
GPU_JOB_THREADS = 4

# Dry runs, and jobs that snakemake starts in other processes, keep snakemake's own output.
if workflow.exec_mode == ExecMode.DEFAULT and not workflow.output_settings.dryrun:
    console.tidy(logging.getLogger("snakemake.logging"), STUDY.name, LOGS, workflow.output_settings.verbose)


wildcard_constraints:
    model="|".join(STUDY.models),
    category="|".join(STUDY.categories),
    window=r"\d+|bottom|top",


def crossflow(command: str, record: bool = True) -> str:
    """The shell command of a verb, for a rule with a log; with ``record``, it records versions, machine and time."""
    kept = " --provenance {params.record:q}" if record else ""
    settings = f"PYTHONPATH=workflow OMP_NUM_THREADS={{threads}} {TERMINAL}=3"
    return f"{settings} python -m crossflow {command}{kept} 3>&2 > {{log:q}} 2>&1"


def record(wildcards, output) -> str:
    """Where a job records versions, machine and time."""
    return results.record_of(output[0])


def code(*modules: str) -> str:
    """The code version of some modules of the package."""
    return code_version(*(f"crossflow.{module}" for module in modules))


def results_options(curves: list[str] | None = None) -> list[str]:
    """Options that name the study's results."""
    named = ["--curves", *(curves or results.curves(STUDY)), "--categories", *STUDY.categories]
    return ["--results", RESULTS, *named, "--seed", str(STUDY.seed)]


def model_options(settings) -> list[str]:
    """A parameter: the options of the wildcard's model, with those of ``settings`` that params.yaml gives."""
    return lambda wildcards: inputs.model_options(config, wildcards.model, settings)


def device_threads() -> int:
    """Threads of a job that holds a device: the cores, shared by as many jobs as there are devices.

    Not workflow.cores, which is an error where no cores are given, as on a cluster or in `snakemake --report`.
    """
    cores, devices = workflow.resource_settings.cores, workflow.global_resources.get("gpu")
    if cores is None:
        return GPU_JOB_THREADS
    return max(1, cores // (devices and devices.value or 1))


def source(name: str) -> str:
    """The entry of a file in the table of sources, so that another address or checksum fetches it again."""
    remote = SOURCES[name]
    return f"{remote.url} {remote.bytes} {remote.sha256}"


def first_knockouts(model: str) -> list[str]:
    """The knockouts of a model in its first window."""
    folder = f"{RESULTS}/knockout/{model}/w{STUDY.windows[model][0]}"
    return [f"{folder}/{category}.parquet" for category in STUDY.categories]


def chosen_from(category: str) -> list[str]:
    """Where the questions of a category come from, as options."""
    if inputs.is_table(config, STUDY.dataset):
        return ["--table", *QUESTION_FILES[category], "--images", DATASET]
    if inputs.is_published(config, STUDY.dataset):
        return ["--published", inputs.published_file(category)]
    return ["--root", DATASET, "--split", inputs.dataset_split(config, STUDY.dataset)]


def curves_shown(wildcards) -> list[str]:
    """Models and windows of a figure, as options: those in its name, otherwise all that it compares."""
    models = [wildcards.model] if hasattr(wildcards, "model") else STUDY.models
    if hasattr(wildcards, "window"):
        windows = [wildcards.window]
    elif hasattr(wildcards, "model"):
        windows = STUDY.windows[wildcards.model]
    else:
        windows = [STUDY.windows[model][0] for model in STUDY.models]
    return ["--models", *models, "--windows", *windows]


def flows_shown(kind: str) -> list[str]:
    """The flows of a figure of curves, as options."""
    return ["--flows", *FLOWS_SHOWN[kind]] if kind in FLOWS_SHOWN else []
