"""crossflow: how information flows from image to question to answer inside a multimodal LLM.

    snakemake --cores 2                       the study that params.yaml names
    snakemake --cores 2 --config study=ci     another study of params.yaml
    snakemake --cores 2 --configfile my.yaml  your own overlay of params.yaml

Phases, one file of rules each: data -> models -> experiments -> analysis -> figures -> provenance.
"""

import os
import sys
from pathlib import Path

from snakemake.exceptions import WorkflowError
from snakemake.utils import min_version

min_version("9.0")

# All paths, in params.yaml and in commands, are relative to this folder.
HERE = Path(workflow.current_basedir.get_path_or_uri(secret_free=True))
if HERE.resolve() != Path(workflow.basedir).resolve():
    raise WorkflowError(f"crossflow cannot be a module of another workflow: start snakemake in its folder, {HERE}.")
if HERE.resolve() != Path.cwd().resolve():
    raise WorkflowError(f"crossflow runs in its own folder: start snakemake there, or with `--directory {HERE}`.")
if set(str(HERE)) & set("{}"):
    raise WorkflowError(f"Snakemake reads braces in a folder's name as wildcards: rename {HERE}.")

# Jobs use snakemake's own python.
os.environ.update(PATH=f"{Path(sys.executable).parent}{os.pathsep}{os.getenv('PATH')}")
# Progress bars also go to the logs, where one line every few seconds is enough.
os.environ.setdefault("TQDM_MININTERVAL", "2")
# Threads that wait for one another must not keep a core busy: on a shared machine that costs a job most of its time.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# Send no telemetry to the hub when fetching a model.
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
sys.path.insert(0, str(Path(workflow.basedir) / "workflow"))


configfile: "params.yaml"


# Jobs run in this image only with `--sdm apptainer`: docs/howto/container.md.
container: "dist/crossflow.sif"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/models.smk"
include: "workflow/rules/experiments.smk"
include: "workflow/rules/analysis.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/provenance.smk"


rule all:
    default_target: True
    input:
        FILES["summary"],
        FILES["claims"],
        FILES["pages"],
        FILES["figures"],
        FILES["explorer"],
        FILES["record"],
    message:
        f"study {STUDY.name}"
