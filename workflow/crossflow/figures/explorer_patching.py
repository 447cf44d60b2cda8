"""What the explorer shows of activation patching: the share of each position set by layer, and what follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from crossflow.figures.style import short

_DIRECTIONS = ("both", "noising", "denoising")


def patching_curves(rows: Sequence[Mapping[str, Any]], depths: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Curves in percent, and sentences, of the position sets that some pair has; None without any.

    Args:
        rows: Rows of patching.csv.
        depths: Rows of patching_depth.csv.
    """
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in rows:
        if not row["n"]:
            continue
        named = {name: row[name] for name in ("model", "category", "direction", "set")}
        curve = found.setdefault(
            tuple(named.values()), named | {"n": row["n"], "layers": [], "share": [], "low": [], "high": []}
        )
        curve["layers"].append(row["layer"])
        for name in ("share", "low", "high"):
            curve[name].append(short(100 * row[name]))
    if not found:
        return None
    sentences = [{name: row[name] for name in ("model", "category", "sentence")} for row in depths if row["n"]]
    return {"directions": list(_DIRECTIONS), "curves": list(found.values()), "sentences": sentences}
