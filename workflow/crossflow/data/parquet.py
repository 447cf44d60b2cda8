"""Parquet files that others wrote: opened, and their columns checked, before a row is read."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from crossflow.core.errors import CrossflowError


@contextmanager
def opened(source: Any, name: str) -> Iterator[pq.ParquetFile]:
    """Open a parquet file; errors of the file inside the block are one sentence.

    Args:
        source: Path, or a binary file.
        name: Its name in messages.

    Raises:
        CrossflowError: it is missing, no parquet file, truncated or damaged.
    """
    given = str(source) if isinstance(source, Path) else pa.PythonFile(source, mode="r")
    try:
        with pq.ParquetFile(given, page_checksum_verification=True) as file:
            yield file
    except FileNotFoundError as error:
        raise CrossflowError(f"{name} does not exist.") from error
    except (pa.ArrowException, OSError, UnicodeDecodeError, OverflowError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise CrossflowError(f"{name} is not a parquet file, or is truncated or damaged ({reason}).") from error


class Kind(NamedTuple):
    """What a column must hold: in words, and whether a type is it."""

    words: str
    fits: Callable[[pa.DataType], bool]


def is_text(found: pa.DataType) -> bool:
    return bool(pa.types.is_string(found) or pa.types.is_large_string(found) or pa.types.is_string_view(found))


def is_bytes(found: pa.DataType) -> bool:
    return bool(pa.types.is_binary(found) or pa.types.is_large_binary(found) or pa.types.is_binary_view(found))


def _is_image(found: pa.DataType) -> bool:
    """Whether it is as the library `datasets` stores images: bytes, and a path."""
    return pa.types.is_struct(found) and found.get_field_index("bytes") >= 0 and is_bytes(found.field("bytes").type)


TEXT = Kind("text", is_text)
IMAGE = Kind("images (bytes and path)", _is_image)


def require_columns(file: pq.ParquetFile, name: str, kinds: Mapping[str, Kind]) -> None:
    """Refuse a file that lacks a column, or has it in another type.

    Raises:
        CrossflowError: it does.
    """
    schema = file.schema_arrow
    for column, kind in kinds.items():
        if column not in schema.names:
            raise CrossflowError(
                f"{name} has no column {column!r}; its columns are {', '.join(schema.names) or 'none'}."
            )
        if not kind.fits(found := schema.field(column).type):
            raise CrossflowError(f"{name}: the column {column!r} has the type {found}; expected {kind.words}.")
