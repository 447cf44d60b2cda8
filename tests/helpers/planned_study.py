"""Studies as their summaries and figures see them."""

from types import SimpleNamespace
from typing import Any

from crossflow.study.parameters import EXPERIMENTS


def planned(**given: Any) -> SimpleNamespace:
    """A study in one window of one model that knocks out one flow, and asks for nothing else but what is given."""
    fields: dict[str, Any] = {
        "windows": {"mini": ["3"]}, "flows": ["image->last"], "controls": (), "baselines": (), "variants": {},
    }  # fmt: skip
    return SimpleNamespace(**fields | {"lens": False} | dict.fromkeys(EXPERIMENTS) | given)
