"""The truth of a question about the mini world: its program, carried out on a scene graph."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from crossflow.mini.scenes import ATTRIBUTES, IMAGE_SIZE


def _ids(argument: str) -> list[str]:
    found = re.search(r"\(([^)]*)\)", argument)
    assert found is not None
    return [] if found[1] == "-" else [found[1]]


def run_program(program: Sequence[Mapping[str, Any]], objects: Mapping[str, Any]) -> Any:
    """Carry out a GQA program on a scene graph, by the meaning of its operations."""

    def side(object_id: str) -> str:
        thing = objects[object_id]
        return "left" if thing["x"] + thing["w"] / 2 < IMAGE_SIZE / 2 else "right"

    def has(object_id: str, value: str) -> bool:
        unless = re.fullmatch(r"not\((.*)\)", value)
        return (
            unless[1] not in objects[object_id]["attributes"] if unless else value in objects[object_id]["attributes"]
        )

    results: list[Any] = []
    for step in program:
        operation, argument = step["operation"], step["argument"].strip()
        given = [results[place] for place in step["dependencies"]]
        match operation.split():
            case ["select"]:
                found = _ids(argument)
                name = argument.partition(" (")[0]
                named = [key for key, thing in objects.items() if thing["name"] == name]
                assert name == "toy" or named == found
                results.append(found)
            case ["filter", _]:
                results.append([key for key in given[0] if has(key, argument)])
            case ["exist"]:
                results.append("yes" if given[0] else "no")
            case ["or"]:
                results.append("yes" if "yes" in given else "no")
            case ["and"]:
                results.append("no" if "no" in given else "yes")
            case ["verify", "hposition"]:
                results.append("yes" if side(given[0][0]) == argument else "no")
            case ["verify", _]:
                results.append("yes" if has(given[0][0], argument) else "no")
            case ["query", "hposition"] | ["query"] if argument == "hposition":
                results.append(side(given[0][0]))
            case ["query"] if argument == "name":
                results.append(objects[given[0][0]]["name"])
            case ["query"]:
                results.append(next(v for v in objects[given[0][0]]["attributes"] if v in ATTRIBUTES["color"]))
            case ["choose", "name"]:
                true, *more = [o for o in argument.split("|") if o == objects[given[0][0]]["name"]]
                assert not more
                results.append(true)
            case ["choose", "rel"]:
                (subject,) = _ids(argument)
                names = {r["name"] for r in objects[subject]["relations"] if r["object"] == given[0][0]}
                (true,) = names & set(argument.split(",")[1].split("|"))
                results.append(true.removeprefix("to the ").removesuffix(" of"))
            case ["choose", _]:
                (true,) = [option for option in argument.split("|") if has(given[0][0], option)]
                results.append(true)
            case ["common"] | ["same", _]:
                (first,), (second,) = given
                common = set(objects[first]["attributes"]) & set(objects[second]["attributes"])
                kinds = [kind for kind, values in ATTRIBUTES.items() if common & set(values)]
                results.append("".join(kinds) if operation == "common" else "yes" if "color" in kinds else "no")
            case _:
                raise AssertionError(step)
    return results[-1]
