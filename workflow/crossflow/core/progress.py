"""Progress of long work: a bar with the rate and the time left."""

import os
from typing import Any, NoReturn

from tqdm import tqdm

TERMINAL = "CROSSFLOW_TERMINAL"
"""Environment variable with the number of an open file: the console of the workflow that runs this job.

A rule sends what its job prints to the job's log, and leaves the console open under this number.
"""


def progress_of(
    name: str, total: int | None, finished: int = 0, unit: str = "question", shown: bool = True, delay: int = 0
) -> "tqdm[NoReturn]":
    """A progress bar; call its ``update`` with the number of finished units.

    It is drawn on the terminal of the workflow and vanishes when the work is done; without one, on standard error.

    Args:
        name: Name of the work.
        total: Number of units, if it is known.
        finished: Units that an earlier run finished; they do not count for the rate.
        unit: Name of a unit; thousands and millions of bytes (B) are written as k and M.
        shown: Whether to draw the bar.
        delay: Seconds before it is drawn: work that ends sooner shows none.
    """
    return tqdm(
        desc=name,
        total=total,
        initial=finished,
        unit=unit,
        unit_scale=unit == "B",
        disable=not shown,
        delay=delay,
        **_on_terminal(),
    )


def _on_terminal() -> dict[str, Any]:
    number = os.environ.get(TERMINAL, "")
    if not number.isdecimal() or not os.isatty(int(number)):
        return {}
    terminal = os.fdopen(int(number), "w", closefd=False)
    return {"file": terminal, "leave": False, "dynamic_ncols": True, "mininterval": 0.5}
