"""Tables as pages."""

from pathlib import Path

import pytest

from crossflow.cli.main import main


def _page(tmp_path: Path, table: str) -> str:
    (tmp_path / "table.csv").write_text(table)
    options = [
        "--table",
        str(tmp_path / "table.csv"),
        "--title",
        "Facts & <b>",
        "--output",
        str(tmp_path / "page.html"),
    ]
    assert main(["page", *options]) == 0
    return (tmp_path / "page.html").read_text()


def test_numbers_are_aligned_and_short_and_an_empty_cell_stays_empty(tmp_path: Path) -> None:
    page = _page(tmp_path, "name,n,mean\na,1,0.123456\nb,20,\n")
    bare = "".join(line.strip() for line in page.splitlines())
    assert "<tr><td>a</td><td>1</td><td>0.1235</td></tr>" in bare
    assert "<tr><td>b</td><td>20</td><td></td></tr>" in bare
    aligned = [
        place for place in (1, 2, 3) if f"td:nth-child({place}), th:nth-child({place}) {{ text-align: right" in page
    ]
    assert aligned == [2, 3]


def test_text_is_escaped_and_kept_as_it_is(tmp_path: Path) -> None:
    page = _page(tmp_path, "what,value\n<script>alert(1)</script>,NA\nids,007a\n")
    assert "<script>" not in page
    assert "Facts &amp; &lt;b&gt;" in page
    assert "<td>NA</td>" in page
    assert "<td>007a</td>" in page


def test_a_table_that_is_not_there_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--table", str(tmp_path / "none.csv"), "--title", "x", "--output", str(tmp_path / "page.html")]
    assert main(["page", *options]) == 1
    assert "none.csv is not a readable table" in capsys.readouterr().err
