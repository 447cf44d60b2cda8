"""GQA's questions and scene graphs on disk, in the official layout, as typed records.

    <root>/questions/<split>_questions.json      or at the top of <root>
    <root>/sceneGraphs/<part>_sceneGraphs.json   or at the top of <root>; <part> is the split up to its first "_"

Both files are streamed, one record at a time: choosing among the 132,062 questions of val_balanced (112 MB) took 5 to
10 s and a peak of 160 MB. Boxes are not clipped: in GQA they may extend beyond their image.
"""

import mmap
import re
from collections.abc import Collection, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import ijson

from crossflow.core.errors import CrossflowError
from crossflow.core.progress import progress_of
from crossflow.core.records import Box, Question, SceneGraph, SceneObject, Step
from crossflow.data.text import composed, composed_json


def _find(root: Path, folder: str, name: str) -> Path:
    for path in (root / folder / name, root / name):
        if path.is_file():
            return path
    raise CrossflowError(
        f"{root} contains neither {folder}/{name} nor {name}; a data set in GQA's layout was expected."
    )


def questions_file(root: Path, split: str) -> Path:
    """The question file of a split. Raises CrossflowError if it is missing."""
    return _find(root, "questions", f"{split}_questions.json")


def scenes_file(root: Path, split: str) -> Path:
    """The scene graph file of a split. Raises CrossflowError if it is missing."""
    return _find(root, "sceneGraphs", f"{split.partition('_')[0]}_sceneGraphs.json")


# The parser would silently replace it by a question mark.
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL)

_BEYOND_ASCII = re.compile(rb"[\x80-\xff]|\\u")


def _stream(path: Path, progress: bool) -> Iterator[tuple[str, Any]]:
    """Stream the members of a JSON object; ``progress`` shows a bar over the file's bytes.

    Raises:
        CrossflowError: the file is not one JSON object of text, is cut short, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(64).lstrip()[:1] != b"{":
                raise CrossflowError(f"{path} is not a JSON object, as GQA's layout requires.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if _LONE_SURROGATE.search(content):
                    raise CrossflowError(f"{path} contains invalid text: an unpaired surrogate.")
                ascii_only = _BEYOND_ASCII.search(content) is None
            file.seek(0)
            size = path.stat().st_size
            with progress_of(path.name, size, unit="B", shown=progress) as bar:
                for key, value in ijson.kvitems(file, "", use_float=True):
                    bar.update(file.tell() - bar.n)
                    yield (key, value) if ascii_only else (composed(key), composed_json(value))
    except ijson.JSONError as error:
        reason = str(error).strip().splitlines()[0]
        raise CrossflowError(f"{path} is invalid or truncated JSON ({reason}).") from error
    except RecursionError as error:
        raise CrossflowError(f"{path} does not follow GQA's layout: it is nested too deeply.") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CrossflowError(f"{path} cannot be read ({error}).") from error


# Raised by a record of another form; OverflowError, by an infinite number where an integer is expected.
NOT_AS_IN_GQA = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_FARTHEST = 1 << 20  # pixels; bounds memory for drawing and arrays


def read_text(record: Any, key: str) -> str:
    """A text of a record. Raises one of `NOT_AS_IN_GQA` if it is not text, or not valid UTF-8."""
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, expected text")
    value.encode("utf-8")
    return value


def _read_numbers(values: list[Any]) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise TypeError(f"{values!r} is not a list of whole numbers")
    return tuple(values)


def read_box(record: Any) -> Box:
    """The box of a record, which may leave its image. Raises one of `NOT_AS_IN_GQA` if it has another form."""
    box = Box(*_read_numbers([record[side] for side in Box._fields]))
    if min(box.w, box.h) < 0 or max(map(abs, box)) > _FARTHEST:
        raise ValueError(f"{box} lies in no image")
    return box


def parse_question(question_id: str, record: Any) -> Question:
    """Read a question from its record. Raises one of `NOT_AS_IN_GQA` if it has another form."""
    if not question_id.strip():
        raise ValueError("its id is empty")
    for key in ("imageId", "question", "answer"):
        if not read_text(record, key).strip():
            raise ValueError(f"its {key} is empty")
    return Question(
        question_id,
        read_text(record, "imageId"),
        read_text(record, "question"),
        read_text(record, "answer"),
        read_text(record["types"], "detailed"),
        tuple(
            Step(read_text(step, "operation"), _read_numbers(step["dependencies"]), read_text(step, "argument"))
            for step in record["semantic"]
        ),
    )


def read_questions(root: Path, split: str, *, progress: bool = False) -> Iterator[Question]:
    """Stream the questions of a split, in the order of the file.

    Only the ids stay in memory: 14 MB and 3 s for 132,062 questions in 110 MB, measured on a file of repeated real
    questions with ijson's yajl2_c backend (one json.load of such a file: about 600 MB).

    Raises:
        CrossflowError: the file is missing or invalid JSON, a question lacks a key, or an id is repeated.
    """
    path = questions_file(root, split)
    seen: set[str] = set()
    for question_id, record in _stream(path, progress):
        if question_id in seen:
            raise CrossflowError(f"{path} contains question {question_id} twice.")
        seen.add(question_id)
        try:
            yield parse_question(question_id, record)
        except NOT_AS_IN_GQA as error:
            raise CrossflowError(f"{path}: question {question_id} does not have GQA's form ({error!r}).") from error


def _size(record: Any) -> tuple[int, int] | None:
    """Width and height that a scene graph gives for its image; None if it gives none."""
    if "width" not in record and "height" not in record:
        return None
    width, height = _read_numbers([record["width"], record["height"]])
    if min(width, height) < 1:
        raise ValueError(f"its image has the size {width} x {height}")
    return width, height


def _scene(image_id: str, record: Any) -> SceneGraph:
    return SceneGraph(
        image_id,
        {
            object_id: SceneObject(object_id, read_text(entry, "name"), read_box(entry))
            for object_id, entry in record["objects"].items()
        },
        _size(record),
    )


def first_scenes(path: Path, number: int) -> Iterator[SceneGraph]:
    """The first scene graphs of a file; what follows them is not read.

    Raises:
        CrossflowError: as `read_scenes`.
    """
    for image_id, record in islice(_stream(path, progress=False), number):
        yield _parse_scene(path, image_id, record)


def _parse_scene(path: Path, image_id: str, record: Any) -> SceneGraph:
    try:
        return _scene(image_id, record)
    except NOT_AS_IN_GQA as error:
        raise CrossflowError(f"{path}: the scene graph of {image_id} does not have GQA's form ({error!r}).") from error


def read_scenes(root: Path, split: str, image_ids: Collection[str], *, progress: bool = False) -> dict[str, SceneGraph]:
    """Read the scene graphs of some images; images without one are left out.

    Raises:
        CrossflowError: the file is missing or invalid JSON, or a scene graph lacks a key.
    """
    path = scenes_file(root, split)
    scenes: dict[str, SceneGraph] = {}
    for image_id, record in _stream(path, progress):
        if image_id in image_ids:
            scenes[image_id] = _parse_scene(path, image_id, record)
    return scenes
