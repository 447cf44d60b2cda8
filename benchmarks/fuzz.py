"""A campaign of bad input: every input is refused by one sentence, or what comes of it is right.

    PYTHONPATH=workflow:tests/helpers .venv/bin/python benchmarks/fuzz.py --inputs 10000 --seed 0

Draws from the strategies of `tests/helpers/fuzz_inputs.py` and judges by `tests/helpers/fuzz_kinds.py`, as
`tests/cli/test_fuzz.py` does with fewer. Writes kind x inputs x outcome, the seed of each kind and every fault with its
smallest input found.
"""

import argparse
import hashlib
import logging
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import hypothesis
import torch
from hypothesis import HealthCheck, Phase, given, settings

import crossflow
import fuzz_kinds

FAULT = "unhandled"
_OURS = (Path(crossflow.__file__).parent, Path(fuzz_kinds.__file__).parent)
_SHOWN = 400  # characters of an input that is shown


def where(error: BaseException) -> str:
    """The type of an exception and the line that raised it, the deepest of this project."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if any(Path(frame.filename).is_relative_to(folder) for folder in _OURS)
    ]
    return f"{type(error).__name__} at {Path(frames[-1].filename).name}:{frames[-1].lineno}"


def campaign(kind: str, number: int, seed: int) -> tuple[Counter[str], dict[str, tuple[str, str]]]:
    """Draw so many inputs of a kind. Returns the outcomes, and the smallest input of every fault, after its message."""
    outcomes: Counter[str] = Counter()
    faults: dict[str, tuple[str, str]] = {}

    def judged(drawn: Any) -> None:
        if outcomes.total() == number:
            return
        with tempfile.TemporaryDirectory() as folder:
            try:
                outcomes[fuzz_kinds.judge(kind, drawn, Path(folder))] += 1
            except Exception as error:  # noqa: BLE001 - whatever comes is counted
                outcomes[FAULT] += 1
                fault = where(error)
                shown = str(error), repr(drawn)
                faults[fault] = min(shown, faults.get(fault, shown), key=lambda one: len(one[1]))

    # One run ends early where hypothesis repeats itself: further ones go on with the next seeds.
    while outcomes.total() < number:
        drawing = given(fuzz_kinds.KINDS[kind].inputs)(judged)
        drawing = settings(
            max_examples=number, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(drawing)  # fmt: skip
        hypothesis.seed(seed)(drawing)()
        seed += 1
    return outcomes, faults


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", choices=fuzz_kinds.KINDS, nargs="+", default=list(fuzz_kinds.KINDS))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    logging.disable()
    warnings.simplefilter("ignore")
    columns = ("inputs", fuzz_kinds.ACCEPTED, fuzz_kinds.REFUSED, FAULT)
    total: Counter[str] = Counter()
    found: dict[str, dict[str, tuple[str, str]]] = {}
    print(f"{'kind':<18}{'seed':>12}" + "".join(f"{name:>11}" for name in columns) + f"{'seconds':>9}")
    for kind in arguments.kind:
        began = time.perf_counter()
        # A seed of its own, so that a kind draws the same alone.
        seed = int.from_bytes(hashlib.sha256(f"{arguments.seed} {kind}".encode()).digest()[:4], "big")
        outcomes, faults = campaign(kind, arguments.inputs * fuzz_kinds.KINDS[kind].share // 100, seed)
        found[kind] = faults
        outcomes["inputs"] = outcomes.total()
        total += outcomes
        numbers = "".join(f"{outcomes[name]:>11}" for name in columns)
        print(f"{kind:<18}{seed:>12}{numbers}{time.perf_counter() - began:>9.0f}", flush=True)
    print(f"{'all':<18}{arguments.seed:>12}" + "".join(f"{total[name]:>11}" for name in columns))
    for kind, faults in found.items():
        for fault, shown in faults.items():
            print(f"\n{kind}: {fault}", *(f"    {text[:_SHOWN]}" for text in shown), sep="\n")
    raise SystemExit(total[FAULT] != 0)


if __name__ == "__main__":
    main()
