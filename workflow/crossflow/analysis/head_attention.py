"""Attention beside effect, over single heads: head_attention.csv, as `crossflow.analysis.attention` over layers."""

from collections.abc import Iterable

from crossflow.analysis.attention import correlation_row
from crossflow.analysis.heads import HeadChanges
from crossflow.analysis.results import Results, Row
from crossflow.core.flows import substitute_of
from crossflow.core.seeds import derived_seed


def tables(results: Results) -> dict[str, Iterable[Row]]:
    """Rows of head_attention.csv: knockouts in each head alone, not substitutions.

    Raises:
        CrossflowError: a table is absent or damaged.
    """
    rows: list[Row] = []
    for model in results.windows:
        for category in results.categories:
            table, _, noise = results.heads(model, category)
            for flow, found in table[table["subset"].isna()].groupby("flow", sort=False):
                if substitute_of(str(flow)):
                    continue
                heads = HeadChanges.of(found, f"Heads of {model}, {category}, {flow}")
                seed = derived_seed(results.seed, model, category, str(flow), "head attention")
                named = {"model": model, "category": category, "flow": flow}
                rows.append(named | correlation_row(heads.attention, heads.change, heads.images, noise, seed))
    return {"head_attention": rows}
