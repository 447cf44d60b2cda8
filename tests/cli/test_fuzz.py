"""Bad input of every kind, drawn anew but always the same: refused by one sentence, or used rightly.

`benchmarks/fuzz.py` draws as many as one likes.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz_kinds import ACCEPTED, KINDS, REFUSED, judge

INPUTS = 1_000  # of all kinds, besides one of each that is good


@pytest.mark.filterwarnings("ignore")
@pytest.mark.long
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_by_one_sentence_or_used_rightly(kind: str) -> None:
    outcomes = set()

    @settings(
        max_examples=INPUTS * KINDS[kind].share // 100,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(KINDS[kind].inputs)
    def judged(drawn: Any) -> None:
        with tempfile.TemporaryDirectory() as folder:
            outcomes.add(judge(kind, drawn, Path(folder)))

    judged()
    # Neither outcome is proven by inputs that all have the other one.
    assert outcomes == {ACCEPTED, REFUSED}
