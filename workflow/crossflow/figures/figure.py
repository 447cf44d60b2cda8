"""One figure of a study, drawn by the module that `crossflow.figures.kinds` names."""

import importlib
from dataclasses import replace
from pathlib import Path

from crossflow.core.errors import CrossflowError
from crossflow.figures.kinds import FIGURES, flows_by_kind
from crossflow.figures.request import FigureRequest
from crossflow.figures.style import own_settings, save


def write_figure(figure: FigureRequest, output: tuple[Path, ...]) -> None:
    """Draw one figure from the summary.

    Args:
        figure: The figure.
        output: Files to write, .pdf or .png.

    Raises:
        CrossflowError: the kind is unknown, the summary lacks what it shows, or a file cannot be written.
    """
    if figure.kind not in FIGURES:
        raise CrossflowError(f"Unknown figure {figure.kind!r}; choose from {', '.join(FIGURES)}.")
    kind = FIGURES[figure.kind]
    if "effects" in kind.tables and not figure.flows:
        named = dict.fromkeys(row["flow"] for row in figure.rows("effects"))
        figure = replace(figure, flows=tuple(flows_by_kind(list(named)).get(figure.kind, ())))
    with own_settings():
        save(importlib.import_module(kind.module).draw(figure), output)
