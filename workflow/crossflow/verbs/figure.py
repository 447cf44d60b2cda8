"""``crossflow figure``: draw one figure from the summary."""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

from crossflow import figure_grids, figure_style, figures, tables
from crossflow.figure_kinds import COMPARISON, HEAT_MAP, KINDS, OVERVIEW, SWEEP


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    kinds = (*KINDS, OVERVIEW, HEAT_MAP, SWEEP, COMPARISON)
    parser.add_argument("--summary", type=Path, required=True, help="folder of the summary tables")
    parser.add_argument("--kind", choices=kinds, required=True)
    parser.add_argument("--model", nargs="+", required=True, help="one; several for a comparison of models")
    parser.add_argument("--window", nargs="+", required=True, help="one per model; several for a sweep")
    parser.add_argument("--categories", nargs="+", required=True, help="one panel each, in this order")
    parser.add_argument("--output", type=Path, nargs="+", required=True, help="files, .pdf or .png")


def _optional(path: Path, columns: tuple[str, ...]) -> list[dict[str, str]]:
    """A table that expected results do without."""
    return tables.read_csv(path, columns) if path.is_file() else []


def _draw(arguments: argparse.Namespace) -> Figure:
    folder: Path = arguments.summary
    effects = tables.read_csv(folder / "effects.csv", tables.EFFECTS)
    bands = _optional(folder / "bands.csv", tables.BANDS)
    (model, *_), (window, *_) = arguments.model, arguments.window
    match arguments.kind:
        case "overview":
            return figure_grids.overview(effects, bands, model, window, arguments.categories)
        case "heat-map":
            return figure_grids.heat_map(effects, model, window, arguments.categories)
        case "window-sweep":
            return figure_grids.window_sweep(effects, model, arguments.window, arguments.categories)
        case "model-comparison":
            return figure_grids.model_comparison(effects, arguments.model, arguments.window, arguments.categories)
    panels = figures.panels_of(
        effects,
        tables.read_csv(folder / "counts.csv", tables.COUNTS),
        kind=arguments.kind,
        model=model,
        window=window,
        categories=arguments.categories,
        bands=bands,
        noise=_optional(folder / "noise.csv", tables.NOISE),
    )
    return figures.draw(panels, f"{model}, {figure_style.window_in_words(window)}")


def run(arguments: argparse.Namespace) -> None:
    """Draw the figure into every file of ``--output``.

    Raises:
        CrossflowError: the summary lacks what the figure shows, or a file can not be written.
    """
    with figure_style.own_settings():
        figure_style.save(_draw(arguments), arguments.output)
