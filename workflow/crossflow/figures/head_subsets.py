"""Figure of heads in random subsets: the coefficient by layer and head, a panel per category and flow."""

from matplotlib.figure import Figure

from crossflow.figures.heads import MARKED, draw_heads, rows_of_heads
from crossflow.figures.request import FigureRequest


def draw(figure: FigureRequest) -> Figure:
    """Draw the heads of one model; those that certainly fall by more than `MARKED` are marked.

    Raises:
        CrossflowError: the summary lacks the model.
    """
    rows = rows_of_heads(figure, "head_subsets")
    return draw_heads(
        figure,
        rows,
        [row for row in rows if row["high"] < -MARKED],
        heading="heads in random subsets",
        scale="change in answer probability (%) by one head more, on average over subsets of the others",
        mark=f"the whole interval lies below -{MARKED} %",
    )
