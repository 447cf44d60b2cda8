"""GQA's questions in parquet files, as lmms-lab/GQA on the Hugging Face hub has them, written in the official layout.

A row is a question: ``id``, and the keys of GQA's own record. Only what `crossflow.data.gqa` reads is written.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing
from crossflow.core.progress import progress_of
from crossflow.data.gqa import NOT_AS_IN_GQA, parse_question
from crossflow.data.parquet import TEXT, Kind, opened, require_columns

_KINDS = {
    **dict.fromkeys(("id", "imageId", "question", "answer"), TEXT),
    "types": Kind("a struct", pa.types.is_struct),
    "semantic": Kind("a list", lambda found: pa.types.is_list(found) or pa.types.is_large_list(found)),
}
_ROWS = 4096  # at a time


def _record(row: Mapping[str, Any]) -> dict[str, Any]:
    """The record of GQA's layout."""
    record = {key: row[key] for key in ("imageId", "question", "answer", "types", "semantic")}
    return record | {"types": {"detailed": record["types"]["detailed"]}}


def _rows(file: pq.ParquetFile) -> Iterator[Mapping[str, Any]]:
    for batch in file.iter_batches(_ROWS, columns=list(_KINDS)):
        yield from batch.to_pylist()


def write_gqa_questions(files: Sequence[Path], output: Path) -> None:
    """Write the questions of parquet files, in their order, as one file of GQA's layout.

    Raises:
        CrossflowError: a file is no parquet file or damaged, lacks a column or has it in another type, or a question
            has another form or is there twice.
    """
    seen: set[str] = set()
    with replacing(output) as temporary, temporary.open("w", encoding="utf-8") as written:
        written.write("{")
        for path in files:
            with opened(path, str(path)) as file:
                require_columns(file, str(path), _KINDS)
                with progress_of(path.name, file.metadata.num_rows) as bar:
                    for row in _rows(file):
                        question_id = str(row["id"] or "")
                        if question_id in seen:
                            raise CrossflowError(f"{path} contains question {question_id} twice.")
                        try:
                            record = _record(row)
                            parse_question(question_id, record)
                        except NOT_AS_IN_GQA as error:
                            raise CrossflowError(
                                f"{path}: question {question_id} does not have GQA's form ({error!r})."
                            ) from error
                        written.write(f"{',' if seen else ''}\n{json.dumps(question_id)}: {json.dumps(record)}")
                        seen.add(question_id)
                        bar.update()
        written.write("\n}\n")
