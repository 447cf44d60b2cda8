"""Question sets in the form in which the published ones are: columns, their order, quoting and absent objects."""

import csv
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_ASKED = "question_id,img_id,question,answer"
_TYPES = "type_detailed,type_semantic,type_structural,operations"
_ONE = "central object name,central object id"
_ONE_BOX = "captions,image_w,image_h,central object w,central object h,central object x,central object y"
_TWO = "object1 name,object1 id,object2 name,object2 id"
_TWO_BOXES = "captions,image_w,image_h,object1 w,object1 h,object1 x,object1 y,object2 w,object2 h,object2 x,object2 y"
_OPTIONS = "true option,false option"
HEADERS = {
    "ChooseAttr": f"{_ASKED},{_OPTIONS},{_ONE},central object attributes,central object question attribute,all objects,"
    f"all objects attributes,{_TYPES},operation_1,operation_2,{_ONE_BOX},full answer",
    "ChooseCat": f"{_ASKED},{_OPTIONS},{_ONE},{_TYPES},{_ONE_BOX}",
    "ChooseRel": f"{_ASKED},{_OPTIONS},{_TWO},{_TYPES},{_TWO_BOXES}",
    "CompareAttr": f"{_ASKED},{_TWO},question word,{_TYPES},{_TWO_BOXES}",
    "LogicalObj": f"{_ASKED},{_TWO},question word,{_TYPES},{_TWO_BOXES}",
    "QueryAttr": f"{_ASKED},{_ONE},question word,{_TYPES},{_ONE_BOX}",
}
# Captions are long, with commas and quotes, and a few hold a line end.
CAPTIONS = 'a sign says "no, thanks". feline \nsitting on sheet. a café.'
Row = dict[str, str]


def _named(program: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Name and id (``-`` if absent) of the objects of a program, absent ones last, as in the published LogicalObj."""
    named = []
    for step in program:
        relation = re.fullmatch(r"(.*),.*\|.*,s \((.*)\)", step["argument"])
        select = re.fullmatch(r"(.*) \((.*)\) ?", step["argument"]) if step["operation"] == "select" else None
        match = relation or select
        if match:
            named.append((match[1], match[2]))
    return sorted(named, key=lambda pair: pair[1] == "-")


def published_row(
    category: str, question_id: str, record: Mapping[str, Any], scene: Mapping[str, Any], options: tuple[str, str]
) -> Row:
    """A row of a published set, from a question and a scene graph as in GQA's files."""
    columns = HEADERS[category].split(",")
    row = dict.fromkeys(columns, "common") | {
        "question_id": question_id,
        "img_id": record["imageId"],
        "question": record["question"],
        "answer": record["answer"],
        "type_detailed": record["types"]["detailed"],
        "operations": repr(
            [{key: step[key] for key in ("operation", "dependencies", "argument")} for step in record["semantic"]]
        ),
        "captions": CAPTIONS,
        "image_w": scene["width"],
        "image_h": scene["height"],
    }
    if "true option" in columns:
        row |= {"true option": options[0], "false option": options[1]}
    prefixes = ["central object"] if "central object id" in columns else ["object1", "object2"]
    for prefix, (name, object_id) in zip(prefixes, _named(record["semantic"]), strict=True):
        box = dict.fromkeys("whxy", "-") if object_id == "-" else scene["objects"][object_id]
        row |= {f"{prefix} name": name, f"{prefix} id": object_id}
        row |= {f"{prefix} {side}": str(box[side]) for side in "whxy"}
    return row


def write_published(path: Path, category: str, rows: Iterable[Row]) -> None:
    """Write a set, with the header of its category."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, HEADERS[category].split(","), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
