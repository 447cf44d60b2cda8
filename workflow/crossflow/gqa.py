"""GQA's official layout on disk, as typed records.

    <root>/questions/<split>_questions.json      or at the top of <root>
    <root>/sceneGraphs/<part>_sceneGraphs.json   or at the top of <root>; <part> is the split up to its first "_"
    <root>/images/<image_id>.jpg                 or <root>/images.zip

Both JSON files are streamed, one record at a time: choosing among the 132,062 questions of a file of val_balanced's
size (112 MB) took 5 to 10 s and 160 MB at the peak. Boxes are kept raw: in GQA they may leave their picture.
"""

import io
import json
import mmap
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import ijson
from PIL import Image
from tqdm import tqdm

from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.tables import QUESTIONS, read_csv, write_csv


class Box(NamedTuple):
    """A box in pixels of its picture: left, top, width and height."""

    x: int
    y: int
    w: int
    h: int


@dataclass(frozen=True)
class SceneObject:
    """An object of a scene graph."""

    id: str
    name: str
    box: Box


@dataclass(frozen=True)
class Scene:
    """The scene graph of one picture."""

    image_id: str
    objects: Mapping[str, SceneObject]


@dataclass(frozen=True)
class Step:
    """One step of a question's program."""

    operation: str
    dependencies: tuple[int, ...]
    argument: str


@dataclass(frozen=True)
class Question:
    """A question with its program; ``detailed`` is GQA's ``types.detailed``."""

    question_id: str
    image_id: str
    question: str
    answer: str
    detailed: str
    program: tuple[Step, ...]


@dataclass(frozen=True)
class ChosenObject:
    """An object that a question is about; ``role`` is ``object``, or ``object1`` and ``object2``."""

    role: str
    id: str
    name: str
    box: Box


@dataclass(frozen=True)
class ChosenQuestion:
    """A question of one of the six categories, with its objects; options are None where it offers none."""

    question_id: str
    image_id: str
    category: str
    detailed: str
    question: str
    answer: str
    true_option: str | None
    false_option: str | None
    objects: tuple[ChosenObject, ...]


def _find(root: Path, folder: str, name: str) -> Path:
    for path in (root / folder / name, root / name):
        if path.is_file():
            return path
    raise CrossflowError(f"{root} holds neither {folder}/{name} nor {name}: a data set in GQA's layout was expected.")


def questions_file(root: Path, split: str) -> Path:
    """The file of a split's questions. Raises CrossflowError if there is none."""
    return _find(root, "questions", f"{split}_questions.json")


def scenes_file(root: Path, split: str) -> Path:
    """The file of the scene graphs that belong to a split. Raises CrossflowError if there is none."""
    return _find(root, "sceneGraphs", f"{split.partition('_')[0]}_sceneGraphs.json")


# The parser would read it as a question mark.
_LONE_SURROGATE = re.compile(rb"\\u[dD][89abAB]..(?!\\u[dD][c-fC-F])|(?<!\\u[dD][89abAB]..)\\u[dD][c-fC-F]", re.DOTALL)


def _stream(path: Path, progress: bool) -> Iterator[tuple[str, Any]]:
    """The members of a JSON object, one at a time; ``progress`` shows a bar over the file's bytes.

    Raises:
        CrossflowError: the file is not one JSON object of text, is cut short, or can not be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(64).lstrip()[:1] != b"{":
                raise CrossflowError(f"{path} is not a JSON object as in GQA's layout.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                if _LONE_SURROGATE.search(content):
                    raise CrossflowError(f"{path} holds text that is none: one half of a pair of surrogates.")
            file.seek(0)
            size = path.stat().st_size
            with tqdm(desc=path.name, total=size, unit="B", unit_scale=True, disable=not progress) as bar:
                for member in ijson.kvitems(file, "", use_float=True):
                    bar.update(file.tell() - bar.n)
                    yield member
    except ijson.JSONError as error:
        reason = str(error).strip().splitlines()[0]
        raise CrossflowError(f"{path} is not valid JSON, or is cut short ({reason}).") from error
    except (OSError, UnicodeDecodeError) as error:
        raise CrossflowError(f"{path} can not be read ({error}).") from error


# What reading a record of another form raises; OverflowError: an infinite number is no integer.
NOT_AS_IN_GQA = (KeyError, TypeError, ValueError, AttributeError, OverflowError)
_FARTHEST = 1 << 20  # pixels; drawing and arrays take no number without an end


def read_text(record: Any, key: str) -> str:
    """A text of a record. Raises one of `NOT_AS_IN_GQA` if it is none, or can not be written as UTF-8."""
    value = record[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, expected text")
    value.encode("utf-8")
    return value


def _read_numbers(values: list[Any]) -> tuple[int, ...]:
    if not isinstance(values, list) or any(type(value) is not int for value in values):
        raise TypeError(f"{values!r} is no list of whole numbers")
    return tuple(values)


def read_box(record: Any) -> Box:
    """The box of a record. Raises one of `NOT_AS_IN_GQA` if it is none; the box may leave its picture."""
    box = Box(*_read_numbers([record[side] for side in Box._fields]))
    if min(box.w, box.h) < 0 or max(map(abs, box)) > _FARTHEST:
        raise ValueError(f"{box} lies in no picture")
    return box


def parse_question(question_id: str, record: Any) -> Question:
    """One question from its record in GQA's layout. Raises one of `NOT_AS_IN_GQA` if it has another form."""
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
        CrossflowError: the file is absent or no valid JSON, a question lacks a key, or an id comes twice.
    """
    path = questions_file(root, split)
    seen: set[str] = set()
    for question_id, record in _stream(path, progress):
        if question_id in seen:
            raise CrossflowError(f"{path} holds question {question_id} twice.")
        seen.add(question_id)
        try:
            yield parse_question(question_id, record)
        except NOT_AS_IN_GQA as error:
            raise CrossflowError(f"{path}: question {question_id} is not as in GQA's layout ({error!r}).") from error


def _scene(image_id: str, record: Any) -> Scene:
    return Scene(
        image_id,
        {
            object_id: SceneObject(object_id, read_text(entry, "name"), read_box(entry))
            for object_id, entry in record["objects"].items()
        },
    )


def read_scenes(root: Path, split: str, image_ids: Collection[str], *, progress: bool = False) -> dict[str, Scene]:
    """The scene graphs of some pictures; pictures without one are absent from the result.

    Raises:
        CrossflowError: the file is absent or no valid JSON, or a scene graph lacks a key.
    """
    path = scenes_file(root, split)
    scenes: dict[str, Scene] = {}
    for image_id, record in _stream(path, progress):
        if image_id in image_ids:
            try:
                scenes[image_id] = _scene(image_id, record)
            except NOT_AS_IN_GQA as error:
                raise CrossflowError(
                    f"{path}: the scene graph of {image_id} is not as in GQA's layout ({error!r})."
                ) from error
    return scenes


# Pillow tells a format by the content and runs Ghostscript on PostScript: a .jpg is never worth that.
_FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
# What damaged bytes raise, as found by damaging some.
UNREADABLE_ZIP = (zipfile.BadZipFile, zlib.error, struct.error, OSError, EOFError, RuntimeError, ValueError)
_UNDECODABLE = (OSError, ValueError, SyntaxError, EOFError, IndexError, struct.error, Image.DecompressionBombError)


# The encoded bytes of a picture; the decoded ones are bounded by Pillow.
LARGEST_PICTURE = 1 << 26


def _read_bounded(read: Callable[[int], bytes], where: str) -> bytes:
    """A file, or a member of a zip whose few bytes may unpack to gigabytes."""
    content = read(LARGEST_PICTURE + 1)
    if len(content) > LARGEST_PICTURE:
        raise BrokenQuestion(f"the picture {where} has more than {LARGEST_PICTURE >> 20} MiB")
    return content


class Pictures:
    """The pictures of a data set, from a folder (if there is one) or a zip. A context manager.

    Members of the zip are ``images/<image_id>.jpg`` or ``<image_id>.jpg``; they are only ever read into memory.

    Args:
        root: A data set in GQA's layout; or, with ``by_file``, a folder of pictures whose ids are their files' names.

    Raises:
        CrossflowError: there is neither, or the zip is broken.
    """

    def __init__(self, root: Path, *, by_file: bool = False) -> None:
        self._folder = root if by_file else root / "images"
        self._suffix = "" if by_file else ".jpg"
        self._zip: zipfile.ZipFile | None = None
        self._members: frozenset[str] = frozenset()
        if self._folder.is_dir():
            return
        if by_file:
            raise CrossflowError(f"The folder of pictures {root} does not exist.")
        path = root / "images.zip"
        if not path.is_file():
            raise CrossflowError(f"{root} holds neither images/ nor images.zip.")
        try:
            self._zip = zipfile.ZipFile(path)
        except UNREADABLE_ZIP as error:
            raise CrossflowError(f"{path} is not a readable zip, or is cut short ({error}).") from error
        self._members = frozenset(self._zip.namelist())

    def __enter__(self) -> "Pictures":
        return self

    def __exit__(self, *exception: object) -> None:
        if self._zip is not None:
            self._zip.close()

    def _bytes(self, image_id: str) -> tuple[str, bytes]:
        """Where a picture is, for a message, and its encoded bytes."""
        name = f"{image_id}{self._suffix}"
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or (self._suffix and len(path.parts) > 1):
            raise BrokenQuestion(f"the picture id {image_id!r} is not the name of a file")
        if self._zip is None:
            file = self._folder / path
            try:
                with file.open("rb") as opened:
                    return str(file), _read_bounded(opened.read, str(file))
            except FileNotFoundError as error:
                raise BrokenQuestion(f"the picture {file} is missing") from error
            except (OSError, ValueError) as error:
                raise BrokenQuestion(f"the picture {file} can not be read ({error})") from error
        member = next((member for member in (f"images/{name}", name) if member in self._members), None)
        if member is None:
            raise BrokenQuestion(f"the picture {name} is missing from {self._zip.filename}")
        where = f"{self._zip.filename}/{member}"
        try:
            with self._zip.open(member) as opened:
                return where, _read_bounded(opened.read, where)
        except UNREADABLE_ZIP as error:
            raise BrokenQuestion(f"the picture {where} can not be read ({error})") from error

    def open(self, image_id: str) -> Image.Image:
        """The decoded picture, in RGB.

        Raises:
            BrokenQuestion: the picture is missing, does not decode, or is far too large.
        """
        where, encoded = self._bytes(image_id)
        try:
            with Image.open(io.BytesIO(encoded), formats=_FORMATS) as picture:
                return picture.convert("RGB")
        except _UNDECODABLE as error:
            raise BrokenQuestion(f"the picture {where} does not decode ({error})") from error


def chosen_row(question: ChosenQuestion) -> dict[str, Any]:
    """The row of ``questions/{category}.csv``."""
    objects = [
        {"role": chosen.role, "id": chosen.id, "name": chosen.name} | chosen.box._asdict()
        for chosen in question.objects
    ]
    return asdict(question) | {"objects": json.dumps(objects, ensure_ascii=False)}


def write_chosen(path: Path, questions: Sequence[ChosenQuestion]) -> None:
    """Write ``questions/{category}.csv``."""
    write_csv(path, QUESTIONS, map(chosen_row, questions))


def read_chosen(path: Path) -> list[ChosenQuestion]:
    """Read ``questions/{category}.csv``.

    Raises:
        CrossflowError: the file is absent, has other columns, holds an id twice, or a row is not as written.
    """
    chosen: dict[str, ChosenQuestion] = {}
    for row in read_csv(path, QUESTIONS):
        question_id = row["question_id"]
        if question_id in chosen:
            raise CrossflowError(f"{path} holds question {question_id} twice.")
        if not question_id.strip() or bool(row["true_option"]) != bool(row["false_option"]):
            raise CrossflowError(f"{path}: question {question_id!r} lacks its id or one of its two options.")
        try:
            objects = tuple(
                ChosenObject(
                    read_text(entry, "role"), read_text(entry, "id"), read_text(entry, "name"), read_box(entry)
                )
                for entry in json.loads(row["objects"])
            )
        except (*NOT_AS_IN_GQA, RecursionError) as error:
            raise CrossflowError(
                f"{path}: the objects of question {question_id} are not a JSON list of role, id, name, x, y, w, h."
            ) from error
        chosen[question_id] = ChosenQuestion(
            question_id,
            row["image_id"],
            row["category"],
            row["detailed"],
            row["question"],
            row["answer"],
            row["true_option"] or None,
            row["false_option"] or None,
            objects,
        )
    return list(chosen.values())
