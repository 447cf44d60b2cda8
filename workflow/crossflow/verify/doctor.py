"""Check what a study needs before it runs; each finding says what was found, and how to fix what is missing.

Nothing is downloaded, no weight is read and nothing is changed. Every check runs, whatever the others found.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from crossflow.core.errors import CrossflowError
from crossflow.study import parameters, results
from crossflow.study.parameters import Study
from crossflow.verify import machine, study_inputs
from crossflow.verify.finding import MISSING, OK, Finding


def examine(read: Callable[[], Mapping[str, Any]], offline: bool = False) -> Iterator[Finding]:
    """Run all checks of a study; a failing check, whatever its error, hides no other.

    Args:
        read: Reads params.yaml with its overlay and validates it.
        offline: Whether to contact no server.
    """

    def attempt(what: str, check: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
        try:
            yield from check()
        except CrossflowError as error:
            yield Finding(MISSING, what, str(error))
        except Exception as error:  # noqa: BLE001 (the other checks still run)
            said = str(error).partition("\n")[0]
            yield Finding(MISSING, what, f"could not be checked ({type(error).__name__}: {said})")

    known: list[tuple[Mapping[str, Any], Study]] = []

    def check_parameters() -> Iterator[Finding]:
        config = read()
        study = parameters.read_study(config)
        results.result_files(study)
        known.append((config, study))
        counts = f"{len(study.models)} models, {len(study.categories)} categories"
        yield Finding(OK, "params.yaml", f"study {study.name}: {counts}")

    yield from attempt("packages", machine.check_packages)
    yield from attempt("device", machine.check_device)
    yield from attempt("params.yaml", check_parameters)
    yield from attempt("folder", machine.check_folder)
    for config, study in known:
        yield from attempt("environment", partial(study_inputs.check_environment, config, study, offline))
        yield from attempt("data", partial(study_inputs.check_data, config, study, offline))
        yield from attempt("images", partial(study_inputs.check_images, config, study))
        for slug in study.models:
            yield from attempt(f"model {slug}", partial(study_inputs.check_model, config, study, slug, offline))
        yield from attempt("disk", lambda: machine.check_disk(study_inputs.bytes_needed(config, study)))  # noqa: B023 (called at once)
    if not known:
        yield from attempt("disk", lambda: machine.check_disk({Path(name): 0 for name in ("results", "data")}))
    yield from attempt("lock", machine.check_leftovers)
    yield from attempt("dvc", machine.check_dvc)
