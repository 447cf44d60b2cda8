"""Thousands of hostile inputs of every kind: settings, questions, scene graphs, pictures, prompts, models, journals.

    PYTHONPATH=workflow .venv/bin/python benchmarks/fuzz.py --inputs 10000 --seed 0

Each is accepted, and then what was made of it holds together, or refused by one sentence; the first that is neither
ends the run with the input, made as small as it gets. What is asked of each kind is in `tests/fuzzing.py`. The same
seed tries the same inputs.
"""

import argparse
import contextlib
import io
import logging
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from fuzzing import ACCEPTED, REFUSED, Kinds

# Inputs of a kind, as shares of all: loading a model's processor takes a second.
SHARES = {"model": 0.02, "prompts": 0.12, "flows": 0.16}


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    logging.disable()
    total = 0
    print(f"seed {arguments.seed}\n{'kind':<14}{'inputs':>8}{'accepted':>10}{'refused':>9}{'seconds':>9}")
    with tempfile.TemporaryDirectory() as folder:
        kinds = Kinds(Path(folder))
        rest = (1 - sum(SHARES.values())) / (len(kinds.kinds) - len(SHARES))
        for kind in kinds.kinds:
            start = time.monotonic()
            with contextlib.redirect_stderr(io.StringIO()):
                found = kinds.run(kind, round(arguments.inputs * SHARES.get(kind, rest)), arguments.seed)
            total += found.total()
            print(
                f"{kind:<14}{found.total():>8}{found[ACCEPTED]:>10}{found[REFUSED]:>9}{time.monotonic() - start:>9.0f}",
                flush=True,
            )
    print(f"{total} inputs, each accepted or refused")


if __name__ == "__main__":
    main()
