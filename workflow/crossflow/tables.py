"""The schema of every result file, and their reading and writing.

Tables hold only what determines the numbers: no time stamp, host or commit, so that the same study writes the
same bytes.
"""

import csv
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crossflow.errors import CrossflowError
from crossflow.locks import take

QUESTIONS = (
    "question_id",
    "image_id",
    "category",
    "detailed",
    "question",
    "answer",
    "true_option",
    "false_option",
    "objects",
)
SKIPPED = ("question_id", "image_id", "reason")
REJECTIONS = ("category", "reason", "n")

BASELINES = ("zeroed", "swapped")
_BASELINE = (("generated", pa.string()), ("correct", pa.bool_()), ("p", pa.float64()))
ANSWERS = pa.schema(
    [
        ("question_id", pa.string()),
        ("image_id", pa.string()),
        ("generated", pa.string()),
        ("correct", pa.bool_()),
        ("first_token", pa.int64()),
        ("p_clean", pa.float64()),
        ("generated_blind", pa.string()),
        ("correct_blind", pa.bool_()),
        ("p_blind", pa.float64()),
        ("tokens", pa.int64()),
        ("options_coincide", pa.bool_()),
        *((f"{name}_{baseline}", kind) for baseline in BASELINES for name, kind in _BASELINE),
        ("answer_tokens", pa.list_(pa.int64())),
    ]
)
KNOCKOUT = pa.schema(
    [
        ("question_id", pa.string()),
        ("image_id", pa.string()),
        ("flow", pa.string()),
        ("layer", pa.int64()),
        ("p_clean", pa.float64()),
        ("p_knockout", pa.float64()),
        ("change_percent", pa.float64()),
        ("logprob_change", pa.float64()),
        ("margin_clean", pa.float64()),
        ("margin_knockout", pa.float64()),
        ("flipped", pa.bool_()),
        ("edges", pa.int64()),
        ("correct", pa.bool_()),
        ("answer_logprob_change", pa.float64()),
        ("attention", pa.float64()),
    ]
)
LENS = pa.schema(
    [
        ("question_id", pa.string()),
        ("image_id", pa.string()),
        ("layer", pa.int64()),
        ("normed", pa.bool_()),
        ("token", pa.string()),
        ("probability", pa.float64()),
    ]
)
LENS_SUMMARY = ("model", "category", "layer", "normed", "token", "n", "mean", "low", "high")
EFFECTS = ("model", "category", "flow", "window", "layer", "n", "mean", "low", "high", "median")
MEASURES = (*EFFECTS, "measure", "stratum")
BANDS = ("model", "category", "flow", "window", "layer", "low", "high")
NOISE = ("model", "category", "window", "probability", "change_percent")
BASELINE_ANSWERS = (
    "model",
    "category",
    "baseline",
    "n",
    "accuracy",
    "low",
    "high",
    "drop",
    "drop_low",
    "drop_high",
)
PAIRED = (
    "model",
    "other_model",
    "category",
    "window",
    "layer",
    "flow",
    "other_flow",
    "n",
    "mean",
    "low",
    "high",
)
ACCURACY = ("model", "category", "n", "accuracy", "low", "high", "accuracy_blind", "low_blind", "high_blind")
COUNTS = ("model", "category", "window", "flow", "questions", "skipped", "excluded", "missing", "n")
OVERLAP = ("category", "filter", "published", "both", "missing", "extra", "differing")
DIFFERENCES = ("category", "question_id", "difference", "published", "filter")
COMPARISON = ("table", "column", "numbers", "largest_difference")

_METADATA = b"crossflow"


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary neighbour of ``path`` that takes its place only if the block succeeds.

    Raises:
        CrossflowError: it can not be written, or another process is writing it.
    """
    temporary = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("ab") as lock:
            if not take(lock):
                raise CrossflowError(f"{path} is being written by another run: wait for it, or stop it, and run again.")
            try:
                yield temporary
                with temporary.open("rb+") as file:
                    os.fsync(file.fileno())
                temporary.replace(path)
            except BaseException:
                with suppress(OSError):
                    temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CrossflowError(f"{path} could not be written ({error.strerror or error}).") from error


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, whole or not at all. ``None`` becomes an empty cell; text is quoted where it must be."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def read_csv(path: Path, columns: Sequence[str]) -> list[dict[str, str]]:
    """Read a table of text cells (empty cell: ``""``); ids keep their leading zeros.

    Raises:
        CrossflowError: the file is absent, is no CSV in UTF-8, or its columns are not ``columns``.
    """
    if not path.is_file():
        raise CrossflowError(f"{path} does not exist.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            if tuple(reader.fieldnames or ()) != tuple(columns):
                raise CrossflowError(f"{path} has the columns {reader.fieldnames}, expected {list(columns)}.")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CrossflowError(f"{path} can not be read as a CSV file in UTF-8 ({error}).") from error
    # A cell too many has no column, and a column without a cell is None.
    if any(None in row or None in row.values() for row in rows):
        raise CrossflowError(f"{path} has a row that has not {len(columns)} cells; is it cut short?")
    return rows


def write_json(path: Path, content: Any) -> None:
    """Write indented JSON, whole or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def write_parquet(
    path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]], metadata: Mapping[str, Any]
) -> None:
    """Write rows under ``schema``, whole or not at all, with ``metadata`` as JSON under the key ``crossflow``."""
    encoded = json.dumps(metadata, sort_keys=True).encode()
    table = pa.Table.from_pylist(list(rows), schema=schema.with_metadata({_METADATA: encoded}))
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path, schema: pa.Schema) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table and its metadata.

    Raises:
        CrossflowError: the file is absent, is no parquet file, or has other columns.
    """
    if not path.is_file():
        raise CrossflowError(f"{path} does not exist.")
    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise CrossflowError(f"{path} is not a readable parquet file ({reason}).") from error
    if table.schema.names != schema.names:
        raise CrossflowError(f"{path} has the columns {table.schema.names}, expected {schema.names}.")
    return table.to_pandas(), json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
