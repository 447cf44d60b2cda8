"""Your own questions in parquet files, written as a table of `crossflow.data.question_table` and a folder of images.

A column of the table is taken from the parquet column of the same name, from the one that a mapping names, or from a
text with names of columns in braces, such as ``What colour is this {object}?``. Images are bytes, alone or beside a
path as the library `datasets` stores them; each is written once, under its SHA-256. Without ids, rows are numbered.

A list of texts, or a text that writes one, is its first entry where the table needs one text.
"""

import ast
import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossflow.core.columns import TEXT as TEXT_COLUMN
from crossflow.core.columns import Column
from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.progress import progress_of
from crossflow.core.tables import write_csv
from crossflow.data.images import LARGEST_IMAGE
from crossflow.data.parquet import IMAGE, TEXT, Kind, is_bytes, opened, require_columns
from crossflow.data.question_table import NEEDED, OPTIONAL

IMAGES = ("image", "pair_image")
_LISTS = ("objects", "pair_objects")
_ROWS = 32  # at a time: they hold images
_SUFFIX = re.compile(r"\.[A-Za-z0-9]{1,5}")
_FIELD = re.compile(r"\{([^{}]+)\}")
_PIXELS = Kind(
    "images, as bytes or as bytes and path (of images in files, name the folder as pictures)",
    lambda found: is_bytes(found) or IMAGE.fits(found),
)
_ANY = Kind("text, numbers or lists", lambda found: not is_bytes(found) and not pa.types.is_struct(found))


def _names(source: str) -> list[str]:
    """The parquet columns that a mapped column needs."""
    return _FIELD.findall(source) or [source]


def _mapping(file: pq.ParquetFile, columns: Mapping[str, str]) -> dict[str, str]:
    """Column of the table -> its source, for those that the file has."""
    own = {name: name for name in (*NEEDED, *OPTIONAL) if name in file.schema_arrow.names}
    needed = {name: name for name in NEEDED if name != "question_id"}
    return {**needed, **own, **columns}


def _image(value: Any, folder: Path, where: str) -> str:
    """Store an image; returns its file's name."""
    content, path = (value.get("bytes"), value.get("path")) if isinstance(value, dict) else (value, None)
    if not content:
        raise CrossflowError(f"{where} holds no image.")
    if len(content) > LARGEST_IMAGE:
        raise CrossflowError(f"{where} holds an image of more than {LARGEST_IMAGE >> 20} MiB.")
    suffix = PurePosixPath(path or "").suffix
    name = hashlib.sha256(content).hexdigest() + (suffix if _SUFFIX.fullmatch(suffix) else "")
    if not (folder / name).exists():
        with replacing(folder / name) as temporary:
            temporary.write_bytes(content)
    return name


def _text(value: Any) -> str:
    """A cell as text; of a list, its first entry."""
    if isinstance(value, str) and value.startswith("["):
        try:
            value = ast.literal_eval(value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return str(value)
    if isinstance(value, list):
        return str(value[0]) if value else ""
    return "" if value is None else str(value)


def _cell(column: str, source: str, row: Mapping[str, Any]) -> str:
    if _FIELD.search(source):
        return _FIELD.sub(lambda field: _text(row[field[1]]), source)
    value = row[source]
    if column in _LISTS and not isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if value else ""
    return _text(value)


def _rows(path: Path, columns: Mapping[str, str], folder: Path | None, first: int) -> Iterator[dict[str, str]]:
    """The rows of a file, as those of the table; images are stored on the way."""
    with opened(path, str(path)) as file:
        mapping = _mapping(file, columns)
        pixels = IMAGES if folder is not None else ()
        if composed := [column for column in pixels if _FIELD.search(mapping.get(column, ""))]:
            raise CrossflowError(f"{path}: {composed[0]} is {mapping[composed[0]]!r}; expected the name of one column.")
        kinds = {
            name: _PIXELS if column in pixels else TEXT if source == name and column in IMAGES else _ANY
            for column, source in mapping.items()
            for name in _names(source)
        }
        require_columns(file, str(path), kinds)
        number = first
        with progress_of(path.name, file.metadata.num_rows) as bar:
            for batch in file.iter_batches(_ROWS, columns=list(kinds)):
                for row in batch.to_pylist():
                    number += 1
                    cells = {"question_id": str(number)}
                    for column, source in mapping.items():
                        if column in pixels and folder is not None:
                            where = f"{path}, row {number - first}: the column {source!r}"
                            cells[column] = _image(row[source], folder, where)
                        else:
                            cells[column] = _cell(column, source, row)
                    yield cells
                    bar.update()


def write_parquet_table(files: Sequence[Path], columns: Mapping[str, str], output: Path, images: Path | None) -> None:
    """Write the questions of parquet files as one table, in their order.

    Args:
        files: The parquet files.
        columns: Column of the table -> its source, where it is not the column of the same name.
        output: The table (CSV).
        images: Folder for the images; None if the files name images of a folder by path.

    Raises:
        CrossflowError: a file is no parquet file or damaged, lacks a column or has it in another type, or holds an id
            twice or no image.
    """
    rows: dict[str, dict[str, str]] = {}
    for path in files:
        for row in _rows(path, columns, images, len(rows)):
            if row["question_id"] in rows:
                raise CrossflowError(f"{path} contains question {row['question_id']} twice.")
            rows[row["question_id"]] = row
    found = {column for row in rows.values() for column in row}
    order = [column for column in (*NEEDED, *OPTIONAL) if column in found or column in NEEDED]
    filled = ({column: row.get(column, "") for column in order} for row in rows.values())
    write_csv(output, {column: Column(TEXT_COLUMN, words="") for column in order}, filled)
