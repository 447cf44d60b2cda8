"""Every chosen question is in one place."""

import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from crossflow.analysis.counts import counts, noise
from crossflow.analysis.tables import COUNTS, NOISE
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv
from small_study import ids_of, knockout_rows, small_knockouts


def test_the_noise_floor_is_told_by_its_size(tmp_path: Path) -> None:
    row = noise(small_knockouts(knockout_rows(ids_of(2))))
    assert list(row) == list(NOISE)
    assert row["probability"] == 1.6e-7
    assert math.isnan(row["change_percent"])
    write_csv(tmp_path / "noise.csv", NOISE, [row])
    assert (tmp_path / "noise.csv").read_text().splitlines()[1] == "mini,ChooseAttr,3,2e-07,"


def test_counts_put_every_chosen_question_in_one_place() -> None:
    ids = ids_of(10)
    table = small_knockouts(knockout_rows(ids[:6]))
    rows = list(counts(table, chosen=ids, skipped=ids[9:], answered=ids[:9]))
    assert [list(row) for row in rows] == [list(COUNTS)] * 2
    first, related = ({name: row[name] for name in list(COUNTS)[4:]} for row in rows)
    assert first == {"questions": 10, "skipped": 1, "excluded": 3, "missing": 0, "n": 6}
    assert related == {"questions": 10, "skipped": 1, "excluded": 3, "missing": 1, "n": 5}


@pytest.mark.parametrize(
    ("chosen", "skipped", "answered", "message"),
    [
        (10, [9], range(8), "answered \\(see 00000008\\)"),
        (10, [8, 9], range(9), "answered \\(see 00000008\\)"),
        (9, [9], range(9), "answered \\(see 00000009\\)"),
        (10, [5, 6, 7, 8, 9], range(5), "00000005 was knocked out but has no answer"),
    ],
)
def test_a_question_that_is_nowhere_twice_or_strange_is_an_error(
    chosen: int, skipped: Sequence[int], answered: Sequence[int], message: str
) -> None:
    ids = ids_of(10)
    with pytest.raises(CrossflowError, match=message):
        list(
            counts(
                small_knockouts(knockout_rows(ids[:6])),
                chosen=ids[:chosen],
                skipped=[ids[number] for number in skipped],
                answered=[ids[number] for number in answered],
            )
        )
