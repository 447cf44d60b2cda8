"""Reading and writing of result tables, and the columns of the parquet tables that models' answers lie in.

Tables hold only what determines the numbers: no time stamp, host or commit, so that the same study writes the
same bytes.
"""

import csv
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from crossflow.core.columns import (
    FLAG,
    IMAGE_ID,
    LENS_COLUMNS,
    LIST,
    MAGNITUDE,
    NUMBER,
    NUMBERS,
    QUESTION_ID,
    TEXT,
    TEXTS,
    WHOLE,
    Column,
    Columns,
)
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.records import ChosenQuestion

BASELINES = ("zeroed", "swapped")
_TYPES = {TEXT: pa.string(), WHOLE: pa.int64(), NUMBER: pa.float64(), FLAG: pa.bool_()}
_TYPES |= {LIST: pa.list_(pa.int64()), TEXTS: pa.list_(pa.string()), NUMBERS: pa.list_(pa.float64())}


def schema_of(columns: Columns) -> pa.Schema:
    """The schema of a parquet table with these columns."""
    return pa.schema([(name, _TYPES[column.kind]) for name, column in columns.items()])


ANSWER_COLUMNS: Columns = {
    "question_id": QUESTION_ID,
    "image_id": IMAGE_ID,
    "generated": Column(TEXT, words="The model's own answer to the question with its image, decoded greedily."),
    "correct": Column(FLAG, words="Whether this answer equals the gold answer, ignoring case and surrounding spaces."),
    "first_token": Column(WHOLE, words="Token id of the answer's first token, which all probabilities are about."),
    "p_clean": Column(NUMBER, words="Probability of the first token, 0 to 1."),
    "generated_blind": Column(
        TEXT, words="The answer with the image removed: no other position attends to its tokens."
    ),
    "correct_blind": Column(FLAG, words="Whether the answer with the image removed is correct."),
    "p_blind": Column(NUMBER, words="Probability of `first_token` with the image removed, 0 to 1."),
    "tokens": Column(WHOLE, words="Length of the prompt in positions, visual tokens included."),
    "options_coincide": Column(
        FLAG, words="Whether both options begin with the same token, so that there is no margin; empty without options."
    ),
    "generated_zeroed": Column(TEXT, words="The answer to zeroed pixels; empty unless the study asks for it."),
    "correct_zeroed": Column(FLAG, words="Whether the answer to zeroed pixels is correct."),
    "p_zeroed": Column(NUMBER, words="Probability of `first_token` with zeroed pixels, 0 to 1."),
    "generated_swapped": Column(
        TEXT, words="The answer to the image of another question; empty unless the study asks for it."
    ),
    "correct_swapped": Column(FLAG, words="Whether the answer to another question's image is correct."),
    "p_swapped": Column(NUMBER, words="Probability of `first_token` with another question's image, 0 to 1."),
    "answer_tokens": Column(LIST, words="Token ids of the whole answer, the end token included."),
}
ANSWERS, LENS = schema_of(ANSWER_COLUMNS), schema_of(LENS_COLUMNS)
_METADATA = b"crossflow"


def _written(value: float, digits: str) -> str:
    return "" if math.isnan(value) else f"{value + 0.0:{digits}}"  # no negative zero


_WRITE: dict[str, Callable[[Any], str]] = {
    TEXT: str,
    WHOLE: lambda value: str(int(value)),
    NUMBER: lambda value: _written(value, ".10g"),
    MAGNITUDE: lambda value: _written(value, ".0e"),
    FLAG: lambda value: str(bool(value)).lower(),
}
_READ: dict[str, Callable[[str], Any]] = {
    TEXT: str,
    WHOLE: lambda text: int(text) if text else None,
    NUMBER: lambda text: float(text) if text else math.nan,
    MAGNITUDE: lambda text: float(text) if text else math.nan,
    FLAG: {"true": True, "false": False}.__getitem__,
}


def write_csv(path: Path, columns: Columns, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write rows, whole or not at all; text is quoted if necessary.

    Args:
        path: The file.
        columns: See `crossflow.core.columns`.
        rows: Column -> value; ``None`` becomes an empty cell, and keys that ``columns`` lacks are left out.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        for row in rows:
            cells = ((row[name], column.kind) for name, column in columns.items())
            writer.writerow("" if value is None else _WRITE[kind](value) for value, kind in cells)


def read_csv(path: Path, columns: Columns, later: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Read a table; ids keep their leading zeros.

    Args:
        path: The file.
        columns: See `crossflow.core.columns`.
        later: The last columns, if the table may be of an older version without them; their cells are then empty.

    Returns:
        Rows of text, numbers and flags as ``columns`` says; an empty cell is ``""``, None (whole) or NaN (number).

    Raises:
        CrossflowError: the file is absent or not CSV in UTF-8, its columns are not ``columns``, or a cell has the wrong
            type.
    """
    if not path.is_file():
        raise CrossflowError(f"{path} does not exist.")
    try:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            found, older = list(reader.fieldnames or ()), [name for name in columns if name not in later]
            if found not in (list(columns), older):
                raise CrossflowError(f"{path} has the columns {found}; expected {list(columns)}.")
            rows = list(reader)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CrossflowError(f"{path} cannot be read as a CSV file in UTF-8 ({error}).") from error
    # A cell too many has no column, and a column without a cell is None.
    if any(None in row or None in row.values() for row in rows):
        raise CrossflowError(f"{path} has a row without {len(found)} cells; is the file truncated?")
    try:
        return [{name: _READ[column.kind](row.get(name, "")) for name, column in columns.items()} for row in rows]
    except (ValueError, KeyError) as error:
        raise CrossflowError(f"{path} has a cell of the wrong type ({error}).") from error


def question_rows(
    schema: pa.Schema, entries: Iterable[tuple[ChosenQuestion, Mapping[str, Sequence[Any]]]]
) -> list[dict[str, Any]]:
    """The rows of a table, from each question's entry.

    Args:
        schema: The table's; its first two columns are the ids of the question and of its image.
        entries: Questions, each with the other columns of its rows.
    """
    names = schema.names[2:]
    return [
        {"question_id": question.question_id, "image_id": question.image_id}
        | {name: columns[name][index] for name in names}
        for question, columns in entries
        for index in range(len(columns[names[0]]))
    ]


def data_frame(schema: pa.Schema, rows: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Rows under ``schema``, as `read_parquet` returns them once they are written."""
    frame: pd.DataFrame = pa.Table.from_pylist(list(rows), schema=schema).to_pandas()
    return frame


def write_parquet(
    path: Path, schema: pa.Schema, rows: Sequence[Mapping[str, Any]] | pd.DataFrame, metadata: Mapping[str, Any]
) -> None:
    """Write rows under ``schema``, whole or not at all, with ``metadata`` as JSON under the key ``crossflow``."""
    stated = schema.with_metadata({_METADATA: json.dumps(metadata, sort_keys=True).encode()})
    if isinstance(rows, pd.DataFrame):
        # Only the stated metadata: pandas' own name its version.
        table = pa.Table.from_pandas(rows, stated, preserve_index=False).replace_schema_metadata(stated.metadata)
    else:
        table = pa.Table.from_pylist(list(rows), schema=stated)
    with replacing(path) as temporary:
        pq.write_table(table, temporary)


def read_parquet(path: Path, schema: pa.Schema) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Read a table and its metadata.

    Raises:
        CrossflowError: the file is absent, is not a parquet file, or has other columns.
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
