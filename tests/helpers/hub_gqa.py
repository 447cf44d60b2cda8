"""Data sets in the layout in which lmms-lab/GQA has GQA on the Hugging Face hub."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

NAME = "somebody/GQA"
_STEP = pa.struct([("operation", pa.string()), ("argument", pa.string()), ("dependencies", pa.list_(pa.int32()))])
_TYPES = pa.struct([(key, pa.string()) for key in ("detailed", "semantic", "structural")])
_TEXTS = ("id", "imageId", "question", "answer", "fullAnswer", "entailed", "equivalent", "semanticStr")
_GROUPS = pa.struct([("global", pa.string()), ("local", pa.string())])
_ANNOTATIONS = pa.struct([(key, pa.list_(pa.string())) for key in ("question", "answer", "fullAnswer")])
QUESTIONS = pa.schema(
    [
        *((name, pa.string()) for name in _TEXTS),
        ("isBalanced", pa.bool_()),
        ("groups", _GROUPS),
        ("types", _TYPES),
        ("annotations", _ANNOTATIONS),
        ("semantic", pa.list_(_STEP)),
    ]
)
IMAGES = pa.schema([("id", pa.string()), ("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))])


def _row(question_id: str, record: Mapping[str, Any]) -> dict[str, Any]:
    """A row; `entailed` and `equivalent` are text that holds a list, as there."""
    return {
        "id": question_id,
        "isBalanced": True,
        "entailed": json.dumps([question_id]),
        "equivalent": json.dumps([question_id]),
        "annotations": {"question": [], "answer": [], "fullAnswer": []},
        "groups": {"global": None, "local": None},
        **{key: record.get(key) for key in ("imageId", "question", "answer", "fullAnswer", "semanticStr")},
        "types": dict.fromkeys(("semantic", "structural")) | record["types"],
        "semantic": record["semantic"],
    }


def write_questions(root: Path, records: Mapping[str, Mapping[str, Any]], split: str = "val_balanced") -> Path:
    """Write the questions of a split, in one file."""
    path = root / f"{split}_instructions" / f"{split.partition('_')[0]}-00000-of-00001.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [_row(question_id, record) for question_id, record in records.items()]
    pq.write_table(pa.Table.from_pylist(rows, QUESTIONS), path)
    return path


def write_images(
    root: Path, images: Sequence[tuple[str, bytes | None]], shards: int, rows: int, split: str = "val_balanced"
) -> list[Path]:
    """Write the images of a split, in ``shards`` files of row groups of ``rows`` images."""
    folder = root / f"{split}_images"
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for shard in range(shards):
        found = [
            {"id": image_id, "image": {"bytes": content, "path": f"{image_id}.jpg"}}
            for image_id, content in images[shard::shards]
        ]
        paths.append(folder / f"{split.partition('_')[0]}-{shard:05d}-of-{shards:05d}.parquet")
        pq.write_table(pa.Table.from_pylist(found, IMAGES), paths[-1], row_group_size=rows)
    return paths
