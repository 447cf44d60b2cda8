"""One's own questions in a parquet file, from the file to the answers, through Snakemake."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from copied import Copy
from crossflow.core.tables import ANSWERS, read_parquet
from crossflow.data.chosen import read_chosen

pytestmark = pytest.mark.workflow


def _images(repo: Path, number: int) -> list[bytes]:
    paths = sorted((repo / "resources/example/pictures").iterdir())[:number]
    return [path.read_bytes() for path in paths]


def test_a_parquet_file_with_counterfactual_images_is_a_study(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path / "tree")
    one, two, three = ({"bytes": content, "path": None} for content in _images(repo, 3))
    table = pa.table(
        {
            "object": ["box", "ball"], "correct_answer": ["left", "['left', 'west']"], "incorrect_answer": ["right", "right"],
            "original_image": [one, two], "counterfact_image": [three, one],
        }
    )  # fmt: skip
    pq.write_table(table, copy.root / "color.parquet")
    columns = {
        "question": "Is the {object} to the left or to the right of the star?", "answer": "correct_answer", "image": "original_image",
        "pair_image": "counterfact_image", "pair_answer": "incorrect_answer",
    }  # fmt: skip
    study = {
        "dataset": "counterfact", "models": ["mini-llava"], "categories": ["questions"], "answers": "all",
        "flows": ["image->last"], "lens": False, "patching": {"stride": 9}, "seed": 0,
    }  # fmt: skip
    dataset = {"kind": "table", "file": "color.parquet", "columns": columns}
    overlay = {"study": "mine", "studies": {"mine": study}, "datasets": {"counterfact": dataset}}
    (copy.root / "mine.yaml").write_text(yaml.safe_dump(overlay))
    made = ["results/mine/answers/mini-llava/questions.parquet", "results/mine/pairs/questions.csv"]
    made += ["results/mine/patching/mini-llava/questions.parquet"]
    options = ("--configfile", "mine.yaml", "--", *made)
    copy.snakemake(*options)
    answers, _ = read_parquet(copy.root / made[0], ANSWERS)
    assert len(answers) == 2
    chosen = {row.question_id: row for row in read_chosen(copy.root / "results/mine/questions/questions.csv")}
    pairs = {row.question_id: row for row in read_chosen(copy.root / made[1])}
    assert {row.question for row in chosen.values()} == {
        f"Is the {name} to the left or to the right of the star?" for name in ("box", "ball")
    }
    assert pairs["2"].image_id == chosen["1"].image_id
    assert copy.planned(*options) == {}
    pq.write_table(table.slice(0, 1), copy.root / "color.parquet")
    assert copy.planned(*options)["unpack_table"] == 1
