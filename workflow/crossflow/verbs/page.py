"""``crossflow page``: a table as a page that a browser shows, for the report."""

import argparse
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd

from crossflow.errors import CrossflowError
from crossflow.tables import replacing

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 14px/1.4 system-ui, sans-serif; margin: 1.5rem; color: #222; background: #fff; }}
h1 {{ font-size: 1.1rem; font-weight: 600; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: 0.25rem 0.7rem; text-align: left; border-bottom: 1px solid #e3e3e3; overflow-wrap: anywhere; }}
th {{ position: sticky; top: 0; background: #f3f4f6; overflow-wrap: normal; }}
tr:nth-child(even) td {{ background: #fafafa; }}
.number {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
</style>
</head>
<body>
<h1>{title}</h1>
<table>
<thead><tr>{head}</tr></thead>
<tbody>
{body}
</tbody>
</table>
</body>
</html>
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--table", type=Path, required=True, help="a table (CSV)")
    parser.add_argument("--title", required=True)
    parser.add_argument("--output", type=Path, required=True, help="the page (HTML)")


def _cell(value: Any, tag: str = "td", number: bool = False) -> str:
    text = "" if pd.isna(value) else f"{value:.4g}" if isinstance(value, float) else str(value)
    return f'<{tag} class="number">{text}</{tag}>' if number else f"<{tag}>{escape(text)}</{tag}>"


def run(arguments: argparse.Namespace) -> None:
    """Write the page: numbers with four digits, text as it is, escaped.

    Raises:
        CrossflowError: the table can not be read.
    """
    try:
        table = pd.read_csv(arguments.table, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise CrossflowError(f"{arguments.table} is not a readable table ({error}).") from error
    numbers = [pd.api.types.is_numeric_dtype(table[name]) for name in table]
    rows = (
        "<tr>" + "".join(map(_cell, row, ["td"] * len(row), numbers)) + "</tr>"
        for row in table.itertuples(index=False, name=None)
    )
    head = "".join(map(_cell, table.columns, ["th"] * len(numbers), numbers))
    page = _PAGE.format(title=escape(arguments.title), head=head, body="\n".join(rows))
    with replacing(arguments.output) as temporary:
        temporary.write_text(page, encoding="utf-8")
