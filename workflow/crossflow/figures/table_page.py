"""A table as an HTML page, for the report."""

from html import escape
from pathlib import Path

import pandas as pd

from crossflow.core.errors import CrossflowError
from crossflow.core.files import replacing

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
td {{ font-variant-numeric: tabular-nums; }}
{numbers}</style>
</head>
<body>
<h1>{title}</h1>
{table}
</body>
</html>
"""


def write_page(table: Path, title: str, output: Path) -> None:
    """Write a table as an HTML page for the report: numbers with four digits, text escaped.

    Args:
        table: The table (CSV).
        title: Title of the page.
        output: The page (HTML).

    Raises:
        CrossflowError: the table cannot be read.
    """
    try:
        content = pd.read_csv(table, keep_default_na=False, na_values=[""])
    except (OSError, ValueError) as error:
        raise CrossflowError(f"{table} is not a readable table ({error}).") from error
    numbers = "".join(
        f"td:nth-child({place}), th:nth-child({place}) {{ text-align: right; white-space: nowrap; }}\n"
        for place, name in enumerate(content, 1)
        if pd.api.types.is_numeric_dtype(content[name])
    )
    with pd.option_context("display.max_colwidth", None):
        shown = content.to_html(index=False, na_rep="", float_format="{:.4g}".format, border=0)
    with replacing(output) as temporary:
        temporary.write_text(_PAGE.format(title=escape(title), numbers=numbers, table=shown), encoding="utf-8")
