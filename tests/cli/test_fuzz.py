"""Bad input of every kind, drawn anew but always the same: refused by one sentence, or used rightly.

`benchmarks/fuzz.py` draws as many as one likes.
"""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz_kinds import ACCEPTED, KINDS, REFUSED, judge

OF_MODELS = ("images", "tokenizers", "model folders")
SHARES = sum(KINDS[kind].share for kind in OF_MODELS)


def _judge(kind: str, number: int) -> None:
    """Judge so many inputs of a kind; neither outcome is proven by inputs that all have the other one."""
    outcomes = set()

    @settings(
        max_examples=number,
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
    assert outcomes == {ACCEPTED, REFUSED}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", OF_MODELS)
def test_images_tokenizers_and_folders_are_refused_by_one_sentence_or_used_rightly(kind: str) -> None:
    _judge(kind, 300 * KINDS[kind].share // SHARES)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "number", [pytest.param(1_000, marks=pytest.mark.long), pytest.param(10_000, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("kind", KINDS)
def test_bad_input_is_refused_by_one_sentence_or_used_rightly(kind: str, number: int) -> None:
    _judge(kind, number * KINDS[kind].share // 100)
