"""One stage of dvc.yaml: ask snakemake for the stage's files, and keep only those of the study.

    python workflow/scripts/stage.py data|questions|pairs|answers|knockout|lens|EXPERIMENT|figures|record

dvc.yaml starts it by beside_dvc.py. snakemake decides what has to run; DVC keeps what comes out. Options for snakemake
can be given in the variable CROSSFLOW_SNAKEMAKE, for example `CROSSFLOW_SNAKEMAKE="--resources gpu=4" dvc repro`.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from crossflow.core.errors import CrossflowError
from crossflow.study import parameters, results
from crossflow.study.config_files import read_config

LOCKS = Path(".snakemake/locks")
MADE = Path("data/made")


def stages(study: parameters.Study) -> dict[str, list[str]]:
    """Stage -> the files that snakemake is asked for."""
    files = results.result_files(study)
    return {
        "data": files["data"],
        "questions": files["questions"],
        "pairs": files["pairs"],
        "answers": files["answers"],
        "knockout": files["knockout"],
        "lens": files["lens"],
        **{name: files[name] for name in parameters.EXPERIMENTS},
        "figures": [*files["summary"], *files["claims"], *files["pages"], *files["figures"], *files["explorer"]],
        "record": files["record"],
    }


def snakemake_is_running() -> bool:
    """Whether a living snakemake works in this folder; one that was killed leaves its lock behind."""
    here = Path.cwd()
    for process in psutil.process_iter(["cmdline", "cwd", "status"]):
        command, folder = process.info["cmdline"] or [], process.info["cwd"]
        named = any(Path(word).name == "snakemake" for word in command[:3])
        if named and folder == str(here) and process.info["status"] != psutil.STATUS_ZOMBIE:
            return True
    return False


def remove_others(folder: Path, wanted: Iterable[str]) -> None:
    """Remove what older parameters left in a folder: DVC keeps folders as a whole.

    The resume files of unfinished jobs stay.
    """
    keep = {Path(file) for file in wanted}
    for path in folder.rglob("*"):
        if path.is_file() and path not in keep and ".journal." not in path.name:
            print(f"{path} does not belong to the study any more and is removed.")  # noqa: T201
            path.unlink()


def main(stage: str) -> int:
    """Run a stage. Returns snakemake's exit status."""
    try:
        config = read_config(Path("params.yaml"))
        parameters.validate(config, Path("workflow/schemas/params.schema.yaml"))
        study = parameters.read_study(config)
        wanted = stages(study)
    except CrossflowError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    if LOCKS.is_dir() and not snakemake_is_running():
        for lock in LOCKS.iterdir():
            lock.unlink()
    # Folders that DVC keeps must be there, even where a study needs nothing in them.
    folder_of_study = Path("results", str(config["study"]))
    for folder in (MADE, *(folder_of_study / name for name in ("pairs", "lens", *parameters.EXPERIMENTS))):
        folder.mkdir(parents=True, exist_ok=True)
    if wanted[stage]:
        options = shlex.split(os.environ.get("CROSSFLOW_SNAKEMAKE", ""))
        command = [str(Path(sys.executable).with_name("snakemake")), "--cores", "all", *options, "--", *wanted[stage]]
        status = subprocess.run(command, check=False).returncode
        if status:
            return status
    if stage == "figures":
        for name in ("summary", "figures"):
            remove_others(folder_of_study / name, wanted[stage])
    elif stage == "record":
        tables = [
            str(folder_of_study / "provenance" / name)
            for name in ("facts.csv", "times.csv", "facts.html", "times.html")
        ]
        remove_others(folder_of_study / "provenance", [*results.records(study), *tables])
    elif stage != "data":
        remove_others(folder_of_study / stage, wanted[stage])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
