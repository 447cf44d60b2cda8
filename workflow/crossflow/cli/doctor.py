"""``crossflow doctor``: check what a study needs before it runs."""

from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.study import parameters
from crossflow.study.config_files import read_config
from crossflow.verify.doctor import examine
from crossflow.verify.finding import MISSING

SCHEMA = Path("workflow/schemas/params.schema.yaml")


def run(
    params: Path = Path("params.yaml"), configfile: Path | None = None, study: str | None = None, offline: bool = False
) -> None:
    """Check what a study needs before it runs: one line per finding.

    Args:
        params: File of parameters.
        configfile: An overlay, as for snakemake.
        study: The study; by default the one that params.yaml names.
        offline: Contact no server.

    Raises:
        CrossflowError: something that the study needs is missing.
    """

    def settings() -> dict[str, Any]:
        config = read_config(params, configfile)
        if study:
            config["study"] = study
        parameters.validate(config, SCHEMA)
        return config

    missing = 0
    for finding in examine(settings, offline):
        print(f"{finding.level:<9}{finding.what:<28}{finding.found}", flush=True)
        missing += finding.level == MISSING
    if missing:
        raise CrossflowError(f"{missing} things that the study needs are missing; see the lines above.")
