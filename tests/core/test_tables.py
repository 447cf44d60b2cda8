"""Result files are written whole or not at all, and say what they are."""

from pathlib import Path

import pytest

from crossflow.core.columns import SKIPPED
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import ANSWERS, read_csv, read_parquet, write_csv, write_parquet

ANSWER = {
    "question_id": "007",
    "image_id": "0001",
    "generated": "Left",
    "correct": True,
    "first_token": 5,
    "p_clean": 1 / 3,
    "generated_blind": "Right",
    "correct_blind": False,
    "p_blind": 0.25,
    "tokens": 40,
}


def test_ids_keep_their_leading_zeros(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ANSWERS, [ANSWER], {})
    table, _ = read_parquet(tmp_path / "a.parquet", ANSWERS)
    assert table.question_id.tolist() == ["007"]
    write_csv(tmp_path / "a.csv", SKIPPED, [{"question_id": "007", "image_id": "01", "reason": 'a "b", c'}])
    assert read_csv(tmp_path / "a.csv", SKIPPED) == [{"question_id": "007", "image_id": "01", "reason": 'a "b", c'}]


def test_an_empty_table_keeps_its_schema_and_metadata(tmp_path: Path) -> None:
    write_parquet(tmp_path / "k.parquet", KNOCKOUT, [], {"layers": 8})
    table, metadata = read_parquet(tmp_path / "k.parquet", KNOCKOUT)
    assert list(table.columns) == KNOCKOUT.names
    assert len(table) == 0
    assert metadata == {"layers": 8}


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_parquet(tmp_path / name, ANSWERS, [ANSWER], {"window": "3"})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_table_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(ValueError), replacing(path) as temporary:
        temporary.write_text("new")
        raise ValueError
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_two_runs_do_not_write_one_file(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with replacing(path) as temporary:
        temporary.write_text("first")
        with pytest.raises(CrossflowError, match=r"a\.csv is being written by another run"), replacing(path):
            pass
        assert temporary.read_text() == "first"
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_with_other_columns_is_refused_by_name(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", ANSWERS, [ANSWER], {})
    with pytest.raises(CrossflowError, match="a.parquet has the columns"):
        read_parquet(tmp_path / "a.parquet", KNOCKOUT)


def test_a_file_that_is_no_table_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(CrossflowError, match="a.parquet is not a readable parquet file"):
        read_parquet(tmp_path / "a.parquet", ANSWERS)
    with pytest.raises(CrossflowError, match="b.parquet does not exist"):
        read_parquet(tmp_path / "b.parquet", ANSWERS)
