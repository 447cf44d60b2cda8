"""Finished work survives a killed job, and only the job's own."""

import json
from pathlib import Path

import pytest

from crossflow.core.errors import CrossflowError
from crossflow.core.journal import journal_beside

SETTINGS = {"model": "a", "window": 3}


def _journal(table: Path) -> Path:
    return table.with_name(f"{table.stem}.journal.jsonl")


def _killed_after(table: Path, keys: list[str]) -> None:
    """A job that finishes some entries and is then interrupted."""
    with pytest.raises(KeyboardInterrupt), journal_beside(table, SETTINGS) as journal:
        for key in keys:
            journal.add(key, {"key": key})
        raise KeyboardInterrupt


def test_a_job_takes_up_what_a_killed_one_finished(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    _killed_after(table, ["1", "2"])
    with journal_beside(table, SETTINGS) as journal:
        assert list(journal.finished) == ["1", "2"]
        journal.add("3", {"key": "3"})
        assert list(journal.finished) == ["1", "2", "3"]
    assert not _journal(table).exists()


def test_half_a_line_is_dropped_and_overwritten(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    _killed_after(table, ["1", "2"])
    whole = _journal(table).read_bytes()
    _journal(table).write_bytes(whole[:-5])
    with pytest.raises(KeyboardInterrupt), journal_beside(table, SETTINGS) as journal:
        assert list(journal.finished) == ["1"]
        journal.add("2", {"key": "2"})
        raise KeyboardInterrupt
    assert _journal(table).read_bytes() == whole


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_journal_cut_within_its_first_line_counts_for_nothing(tmp_path: Path, keep: int) -> None:
    table = tmp_path / "table.parquet"
    _killed_after(table, ["1"])
    _journal(table).write_bytes(_journal(table).read_bytes()[:keep])
    with journal_beside(table, SETTINGS) as journal:
        assert journal.finished == {}


def test_a_journal_of_other_settings_is_set_aside_and_kept(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    _killed_after(table, ["1"])
    before = _journal(table).read_bytes()
    with journal_beside(table, SETTINGS | {"window": 5}) as journal:
        assert journal.finished == {}
    (aside,) = tmp_path.glob("*.set-aside")
    assert aside.read_bytes() == before


def test_the_first_line_says_what_the_entries_belong_to(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    _killed_after(table, ["1"])
    first = json.loads(_journal(table).read_text().splitlines()[0])
    assert first["settings"] == SETTINGS
    assert len(first["fingerprint"]) == 64


def test_probabilities_come_back_bit_for_bit(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    numbers = [0.1, 1 / 3, 5e-324, 0.9999999999999999]
    with pytest.raises(KeyboardInterrupt), journal_beside(table, SETTINGS) as journal:
        journal.add("1", numbers)
        raise KeyboardInterrupt
    with journal_beside(table, SETTINGS) as journal:
        assert journal.finished["1"] == numbers


def test_a_damaged_entry_and_what_follows_it_are_computed_again(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    _killed_after(table, ["1", "2", "3"])
    whole = _journal(table).read_bytes()
    # Such as a block that never reached the disk, or a number altered by hand.
    for damage in (whole.replace(b'{"key": "2"}', b'{"key": "8"}'), whole.replace(b'{"key": "2"}', b"\0" * 12)):
        assert damage != whole
        _journal(table).write_bytes(damage)
        with pytest.raises(KeyboardInterrupt), journal_beside(table, SETTINGS) as journal:
            assert list(journal.finished) == ["1"]
            journal.add("2", {"key": "2"})
            journal.add("3", {"key": "3"})
            raise KeyboardInterrupt
        assert _journal(table).read_bytes() == whole


def test_two_jobs_do_not_write_to_one_journal(tmp_path: Path) -> None:
    table = tmp_path / "table.parquet"
    with journal_beside(table, SETTINGS) as first:
        first.add("1", {"key": "1"})
        before = _journal(table).read_bytes()
        for settings in (SETTINGS, SETTINGS | {"window": 5}):
            with (
                pytest.raises(CrossflowError, match=r"table\.journal\.jsonl is being written by another run"),
                journal_beside(table, settings),
            ):
                pass
        first.add("2", {"key": "2"})
        assert _journal(table).read_bytes().startswith(before)
        assert list(first.finished) == ["1", "2"]
    assert list(tmp_path.iterdir()) == []
