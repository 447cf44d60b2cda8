"""Bad input, drawn: documents, bytes, tables and zips that begin as good ones and are then damaged."""

import copy
import csv
import io
import json
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st
from PIL import Image

from crossflow.core.flows import SET_NAMES
from crossflow.data.categories import CATEGORIES, Classified, classify
from crossflow.data.gqa import read_questions
from crossflow.mini.world import write_world
from published_form import published_row

REPO = Path(__file__).resolve().parents[2]
SPLIT = "val_balanced"
LONG = 10_000  # characters of a long text
CELL = 140_000  # characters; Python's csv reads no cell of more than 131,072 unless told to
DEEP = 20_000  # brackets: more than Python's or a parser's stack takes
SPECIAL = ("<image>", "<s>", "</s>", "<unk>", "<|eot_id|>", "<|begin_of_text|>", "<|start_header_id|>", "\u2581")
ODD_TEXT = (
    *("", " ", "-", "\x00", "\x1b[2J", "a\rb", "a\nb", "a\r\nb", '"', "'", "a,b", "\ufeff", "\u202eabc", "e\u0301"),
    *("\ud800", "\udfff", "\U0001f4a9", "\u2028", "nan", "1e999", "../x", "/abs", "C:\\x", "$\\frac{", "{{ x }}"),
    *("</script><script>alert(1)</script>", "%s%n", "__proto__", "x" * 300, "é" * LONG, *SPECIAL),
)
odd_text = (
    st.sampled_from(ODD_TEXT) | st.text(max_size=12) | st.text(st.characters(categories=["Cs", "Cc", "Cf"]), max_size=4)
)
numbers = (
    st.integers(-3, 9)
    | st.sampled_from([0.5, 3.0, -0.0, 10**30, -(10**30), 2**31, 2**63, 1e308, float("nan"), float("inf")])
    | st.integers()
    | st.floats()
)
json_values = st.recursive(
    st.none() | st.booleans() | numbers | odd_text,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(odd_text, inner, max_size=3),
    max_leaves=4,
)
# What YAML gives besides.
yaml_values = (
    json_values | st.dates() | st.binary(max_size=3) | st.dictionaries(st.integers() | st.none(), numbers, max_size=2)
)


def _places(document: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a document, with each of its keys."""
    if isinstance(document, dict | list):
        for key in list(document) if isinstance(document, dict) else range(len(document)):
            yield document, key
            yield from _places(document[key])


def _mutate(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any]) -> Any:
    places = list(_places(document))
    if not places or draw(st.integers(0, 60)) == 0:
        return draw(values)
    container, key = places[draw(st.integers(0, len(places) - 1))]
    match draw(st.sampled_from(["delete", "replace", "rename", "wrap", "text", "copy"])):
        case "delete":
            del container[key]
        case "rename" if isinstance(container, dict):
            container[draw(odd_text | st.integers(0, 3) if values is yaml_values else odd_text)] = container.pop(key)
        case "wrap":
            container[key] = [container[key]]
        case "text":
            container[key] = str(container[key])
        case "copy":
            other, there = places[draw(st.integers(0, len(places) - 1))]
            container[key] = copy.deepcopy(other[there])
        case _:
            container[key] = draw(values)
    return document


@st.composite
def mutated(draw: st.DrawFn, document: Any, values: st.SearchStrategy[Any] = json_values, most: int = 3) -> Any:
    """A document with keys and values deleted, replaced, renamed, moved or of another type."""
    document = copy.deepcopy(document)
    for _ in range(draw(st.integers(0, most))):
        document = _mutate(draw, document, values)
    return document


_INSERTED = (
    b"\xef\xbb\xbf",
    b"\xff",
    b"\x00",
    b"[" * DEEP,
    b'{"a":' * DEEP,
    b"9" * 5_000,
    b"NaN",
    b"1e999",
    b"{}",
    b'"',
    b",",
    b"\n",
    b"\r",
)


@st.composite
def damaged(draw: st.DrawFn, contents: st.SearchStrategy[bytes], most: int = 2) -> bytes:
    """Bytes of which some are cut off, changed or inserted."""
    content = draw(contents)
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, len(content)))
        match draw(st.sampled_from(["cut", "flip", "insert"])):
            case "cut":
                content = content[:at]
            case "flip":
                content = content[:at] + bytes([draw(st.integers(0, 255))]) + content[at + 1 :]
            case _:
                content = content[:at] + draw(st.sampled_from(_INSERTED)) + content[at:]
    return content


@st.composite
def _json_bytes(draw: st.DrawFn, document: Any) -> bytes:
    text = json.dumps(draw(mutated(document)), ensure_ascii=draw(st.booleans()))
    return text.encode("utf-8", "surrogatepass")


def json_files(document: Any) -> st.SearchStrategy[bytes]:
    """Files of JSON that begin as a good document; about half of them are still JSON."""
    return _json_bytes(document) | damaged(_json_bytes(document))


@lru_cache
def params(study: str | None = None) -> dict[str, Any]:
    """params.yaml as shipped, or as much of it as one study needs."""
    loaded: dict[str, Any] = yaml.safe_load((REPO / "params.yaml").read_text(encoding="utf-8"))
    if study is None:
        return loaded
    own = loaded["studies"][study]
    needed = {"studies": [study], "datasets": [own["dataset"]], "models": own["models"]}
    return {"study": study} | {kind: {slug: loaded[kind][slug] for slug in slugs} for kind, slugs in needed.items()}


@lru_cache
def drawn_world() -> tuple[dict[str, Any], dict[str, Any]]:
    """Two questions of each category out of the drawn world, as in GQA's files, and the scene graphs."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_world(root, 4, 0)
        records = json.loads((root / "questions" / f"{SPLIT}_questions.json").read_text())
        kept: dict[str, list[str]] = {}
        for question in read_questions(root, SPLIT):
            found = classify(question)
            if isinstance(found, Classified):
                kept.setdefault(found.category, []).append(question.question_id)
        questions = {name: records[name] for names in kept.values() for name in names[:2]}
        scenes = json.loads((root / "sceneGraphs" / "val_sceneGraphs.json").read_text())
    assert len(questions) == 12
    return questions, scenes


def _csv_bytes(rows: list[list[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", "surrogatepass")


@st.composite
def csv_files(draw: st.DrawFn, rows: list[list[str]]) -> bytes:
    """A table with cells, rows and columns lacking, twice or replaced."""
    table = copy.deepcopy(rows)
    cells = odd_text | json_values.map(lambda value: json.dumps(value)) | st.just("x" * CELL)
    for _ in range(draw(st.integers(0, 3))):
        row = table[draw(st.integers(0, len(table) - 1))]
        at = draw(st.integers(0, max(0, len(row) - 1)))
        match draw(st.sampled_from(["cell", "cell", "object", "lack", "more", "twice", "header"])):
            case "lack":
                del row[at : at + 1]
            case "more":
                row.insert(at, draw(cells))
            case "twice":
                table.append(list(row))
            case "header":
                table[0][at : at + 1] = [draw(cells)]
            case "object":
                found = [place for place, cell in enumerate(row) if cell.startswith("[")]
                for place in found:
                    row[place] = json.dumps(draw(mutated(_read(row[place]))))
            case _:
                row[at : at + 1] = [draw(cells)]
    content = _csv_bytes(table)
    return draw(damaged(st.just(content))) if draw(st.booleans()) else content


def _read(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return []


def table_rows() -> list[list[str]]:
    """A good table of one's own questions; its images are cat.jpg and more/dog.jpg."""
    cat = json.dumps([{"name": "cat", "x": 1, "y": 2, "w": 3, "h": 4}])
    return [
        ["question_id", "image", "question", "answer", "category", "true_option", "false_option", "objects"],
        ["1", "cat.jpg", "Is the cat red or blue?", "red", "colour", "red", "blue", cat],
        ["2", "more/dog.jpg", "Where is the dog?", "left", "", "", "", ""],
    ]


def published_rows() -> list[list[str]]:
    """A good published set of ChooseAttr."""
    questions, scenes = drawn_world()
    record = next(
        record for record in questions.values() if record["types"]["detailed"] in CATEGORIES["ChooseAttr"].detailed
    )
    scene = {"width": 300, "height": 300} | scenes[record["imageId"]]
    options = [option.strip() for option in record["semantic"][-1]["argument"].split("|")]
    (wrong,) = set(options) - {record["answer"]}
    rows = [published_row("ChooseAttr", name, record, scene, (record["answer"], wrong)) for name in ("0012", "13")]
    return [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def giant_png(side: int) -> bytes:
    """A small file that claims to be an image of ``side`` x ``side`` pixels."""
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", zlib.compress(b"")) + _chunk(b"IEND", b"")


@lru_cache
def image_files() -> tuple[bytes, ...]:
    """Encoded images, and what only looks like one."""
    files = []
    for kind in ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF"):
        encoded = io.BytesIO()
        Image.new("RGB", (6, 4), "teal").save(encoded, kind)
        files.append(encoded.getvalue())
    return (*files, giant_png(60_000), b"", b"not an image", b"%!PS-Adobe-3.0 EPSF-3.0\n", bytes(4_000_000))


MEMBERS = (
    "images/1.jpg",
    "images/2.jpg",
    "1.jpg",
    "../x.jpg",
    "/abs.jpg",
    "C:\\x.jpg",
    "images/../../x.jpg",
    "images/",
    "images/é.jpg",
)


@st.composite
def _zip_bytes(draw: st.DrawFn) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for _ in range(draw(st.integers(0, 4))):
            name = draw(st.sampled_from(MEMBERS[:3]) | st.sampled_from(MEMBERS))
            entry = zipfile.ZipInfo(name)
            entry.compress_type = draw(st.sampled_from([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2]))
            entry.external_attr = draw(st.sampled_from([0, 0o120777 << 16, 0o40777 << 16]))  # a link, a folder
            encoded = draw(st.sampled_from(image_files()[:1]) | damaged(st.sampled_from(image_files()), most=1))
            archive.writestr(entry, encoded)
    return content.getvalue()


@st.composite
def zips(draw: st.DrawFn) -> bytes:
    """Zips with members of any name, twice, as links, of any content, with fields of their headers changed."""
    content = draw(_zip_bytes())
    if draw(st.integers(0, 2)) == 0:
        return content
    # Sizes, offsets, checksums, names and flags lie behind the headers' marks.
    marks = [at for mark in (b"PK\x01\x02", b"PK\x03\x04", b"PK\x05\x06") for at in _finds(content, mark)]
    if marks and draw(st.booleans()):
        at = marks[draw(st.integers(0, len(marks) - 1))] + draw(st.integers(0, 45))
        value = draw(st.sampled_from([b"\xff\xff\xff\xff", b"\x00\x00\x00\x00", b"\x01", b"\x10\x00\x00\x00"]))
        return content[:at] + value + content[at + len(value) :]
    return draw(damaged(st.just(content)))


def _finds(content: bytes, mark: bytes) -> Iterator[int]:
    at = content.find(mark)
    while at >= 0:
        yield at
        at = content.find(mark, at + 1)


questions_asked = st.one_of(
    st.lists(odd_text | st.sampled_from(["Is", "it", "red", "or", "blue", "?", "\nAnswer"]), max_size=6).map(" ".join),
    st.lists(
        st.sampled_from(["Is the ball red", *SPECIAL, "?", "\u202e", "\u0000", "狗", "\U0001f468\u200d\U0001f469"])
    ).map("".join),
    st.sampled_from(["", " ", "\n", "x" * LONG, "Answer the question using a single word or phrase. " * 3]),
)
flow_names = st.one_of(
    st.lists(
        st.sampled_from([*SET_NAMES, "->", "->", "+", "~", "only:", "~moved", "~random1", "~random0", "picture", " ", "\n", ">", "9" * 5_000]),
        max_size=8,
    ).map("".join),
    st.builds(lambda source, control, target: f"{source}{control}->{target}", st.sampled_from(SET_NAMES), st.sampled_from(["", "", "~moved", "~random7"]), st.sampled_from(SET_NAMES)),
    st.lists(st.sampled_from(SET_NAMES), min_size=1, max_size=4).map(lambda names: "only:" + "->".join(names)),
    odd_text,
)  # fmt: skip
