"""Result files are written whole or not at all, and say what they are."""

import math
from pathlib import Path

import pytest

from crossflow.core.columns import FLAG, MAGNITUDE, NUMBER, SKIPPED, TEXT, WHOLE, Column
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


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("nan"), ""),
        (-0.0, "0"),
        (0.1 + 0.2, "0.3"),
        (-97.123456789012, "-97.12345679"),
        (1e-12, "1e-12"),
    ],
)
def test_numbers_are_written_with_ten_digits(tmp_path: Path, value: float, text: str) -> None:
    write_csv(
        tmp_path / "a.csv",
        {"number": Column(NUMBER, words=""), "last": Column(TEXT, words="")},
        [{"number": value, "last": "x"}],
    )
    assert (tmp_path / "a.csv").read_text() == f"number,last\n{text},x\n"


ROW_COLUMNS = {
    name: Column(kind, words="")
    for name, kind in {"text": TEXT, "whole": WHOLE, "number": NUMBER, "size": MAGNITUDE, "flag": FLAG}.items()
}


def test_what_a_cell_holds_is_what_it_was_and_an_empty_one_is_of_its_kind(tmp_path: Path) -> None:
    rows = [
        {"text": "007", "whole": 12, "number": -0.25, "size": 1.6e-7, "flag": True},
        {"text": "", "whole": None, "number": None, "size": float("nan"), "flag": False},
    ]
    write_csv(tmp_path / "a.csv", ROW_COLUMNS, [row | {"further": "left out"} for row in rows])
    assert (tmp_path / "a.csv").read_text() == "text,whole,number,size,flag\n007,12,-0.25,2e-07,true\n,,,,false\n"
    full, empty = read_csv(tmp_path / "a.csv", ROW_COLUMNS)
    assert full == rows[0] | {"size": 2e-7}
    assert [type(full[name]) for name in ROW_COLUMNS] == [str, int, float, float, bool]
    assert (empty["text"], empty["whole"], empty["flag"]) == ("", None, False)
    assert math.isnan(empty["number"]) and math.isnan(empty["size"])


@pytest.mark.parametrize("line", ["a,1.5,1,1,true", "a,1,x,1,true", "a,1,1,1,True", "a,1,1,1,"])
def test_a_cell_that_is_not_as_its_column_says_is_refused(tmp_path: Path, line: str) -> None:
    (tmp_path / "a.csv").write_text(f"text,whole,number,size,flag\n{line}\n")
    with pytest.raises(CrossflowError, match=r"a\.csv has a cell of the wrong type"):
        read_csv(tmp_path / "a.csv", ROW_COLUMNS)
