"""Write the generated pages of the documentation: `make docs` runs this before MkDocs.

The reference follows from the program alone: keys from the schema of params.yaml, columns from the tables of columns,
commands from the parsers of the verbs, criteria from the table of claims. The tutorial is its notebook, executed here.
Nothing that this module writes is kept in the repository.
"""

import argparse
import importlib
import re
import shutil
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import tyro
import yaml

from crossflow.analysis import expected, provenance, tables
from crossflow.analysis.claims_text import CLAIMS
from crossflow.cli.main import OPTION_STYLE, summary_of
from crossflow.cli.verbs import VERBS
from crossflow.core import columns
from crossflow.core.columns import Columns
from crossflow.core.image_lens import MAP_COLUMNS, MAPS_COLUMNS, PLACE_COLUMNS, WORD_COLUMNS
from crossflow.core.measures import HEADS_COLUMNS, KNOCKOUT_COLUMNS
from crossflow.core.patching import PAIR_OUTCOMES, PATCHING_COLUMNS
from crossflow.core.tables import ANSWER_COLUMNS
from crossflow.data import published_overlap
from crossflow.fetch import image_archive

REPO = Path(__file__).resolve().parent.parent
DOCS = REPO / "docs"
SCHEMA = REPO / "workflow/schemas/params.schema.yaml"
NOTEBOOK = DOCS / "tutorial.ipynb"


class ResultTable(NamedTuple):
    """A table of a study's results.

    Attributes:
        file: Where it lies; for a study's own tables under ``results/{study}/``.
        row: What a row is.
        columns: Its columns.
    """

    file: str
    row: str
    columns: Columns


KINDS = {
    columns.TEXT: "text",
    columns.WHOLE: "whole number",
    columns.NUMBER: "number",
    columns.MAGNITUDE: "number of one digit",
    columns.FLAG: "true or false",
    columns.LIST: "list of whole numbers",
    columns.TEXTS: "list of texts",
    columns.NUMBERS: "list of numbers",
}
"""What a cell holds, in words."""
SUMMARY_ROWS = {
    "effects": "One row per model, category, flow, window and centre layer: the change of the answer's probability.",
    "measures": "The same for every other measure, and for changes in strata of questions.",
    "bands": "One row per model, category, flow, window and centre layer: the band of the whole curve.",
    "answers": "One row per model and category: accuracy with the image and with it removed.",
    "baselines": "One row per model, category and baseline: accuracy without the image.",
    "counts": "One row per model, category, window and flow: what became of the chosen questions.",
    "noise": "One row per model, category and window: the noise floor.",
    "comparisons": "One row per pair of flows or of models and centre layer: paired differences.",
    "lens": "One row per model, category, layer and token: the logit lens.",
    "fusion": "One row per model, category, window, flow, measure and cut: what is left of the image.",
    "heads": "One row per model, category, flow, layer and head: the change by this head alone.",
    "head_subsets": "One row per model, category, flow, layer and head: what it adds to random subsets of others.",
    "attention": "One row per model, category, flow and window: rank correlation of attention and fall over layers.",
    "head_attention": "One row per model, category and flow: the same correlation over all heads.",
    "patching": "One row per model, category, direction, position set and layer: its share of the difference.",
    "patching_depth": "One row per model, category and position set: where it holds half of the difference.",
    "pairs": "One row per model and category: what became of the pairs.",
    "robustness": "One row per variant of a model, category, window and quantity: what asking in another way changes.",
    "image_lens": "One row per model, category, place, token and layer: the lens over image and question.",
    "top_words": "One row per model, category, layer and rank: the most likely words at the last position.",
    "top_heads": "One row per model, category, flow and rank: the ten heads that matter most.",
    "fusion_depth": "One row per model, category, window, flow, measure and point: the depth at which it is reached.",
}
"""Summary table -> what a row is."""
RESULT_TABLES = (
    ResultTable(
        "questions/{category}.csv",
        "One row per chosen question. `pairs/{category}.csv` has one per question with a pair: the pair.",
        columns.QUESTIONS,
    ),
    ResultTable(
        "questions/{category}.rejections.csv",
        "One row per reason for rejection. In `pairs/{category}.rejections.csv`, one per reason for no pair.",
        columns.REJECTIONS,
    ),
    ResultTable("answers/{model}/{category}.parquet", "One row per question: the model's answers.", ANSWER_COLUMNS),
    ResultTable("answers/{model}/{category}.skipped.csv", "One row per question that cannot be used.", columns.SKIPPED),
    ResultTable(
        "knockout/{model}/w{window}/{category}.parquet",
        "One row per question, flow and centre layer.",
        KNOCKOUT_COLUMNS,
    ),
    ResultTable(
        "lens/{model}/{category}.parquet",
        "One row per question, layer and token, with the final norm and without.",
        columns.LENS_COLUMNS,
    ),
    ResultTable(
        "heads/{model}/{category}.parquet", "One row per question, flow and head, or subset of heads.", HEADS_COLUMNS
    ),
    ResultTable(
        "patching/{model}/{category}.parquet",
        "One row per question, direction, position set and layer.",
        PATCHING_COLUMNS,
    ),
    ResultTable(
        "patching/{model}/{category}.pairs.csv",
        "One row per answered question: what became of its pair.",
        PAIR_OUTCOMES,
    ),
    ResultTable(
        "image_lens/{model}/{category}.parquet", "One row per question, place, token and layer.", PLACE_COLUMNS
    ),
    ResultTable(
        "image_lens/{model}/{category}.words.parquet",
        "One row per question, layer and rank: the most likely words at the last position.",
        WORD_COLUMNS,
    ),
    ResultTable(
        "image_lens/{model}/{category}.maps.parquet",
        "One row per question, layer and position of the image, for the first questions.",
        MAPS_COLUMNS,
    ),
    *(ResultTable(f"summary/{name}.csv", SUMMARY_ROWS[name], found) for name, found in tables.COLUMNS.items()),
    ResultTable(
        "trace/attention.parquet",
        "One row per layer, head and position of the image; `crossflow trace` writes it into its own folder.",
        columns.ATTENTION_MAP,
    ),
    ResultTable(
        "trace/image_lens.parquet",
        "One row per layer and position of the image; `crossflow trace` writes it into its own folder.",
        MAP_COLUMNS,
    ),
    ResultTable("comparison.csv", "One row per column that `snakemake compare` compared.", expected.COMPARISON),
    ResultTable("provenance/facts.csv", "One row per parameter, version and hash.", provenance.FACTS),
    ResultTable("provenance/times.csv", "One row per job.", provenance.JOBS),
    ResultTable(
        "published/overlap.csv", "One row per category (`snakemake published_overlap`).", published_overlap.COUNTS
    ),
    ResultTable("published/differences.csv", "One row per question that differs.", published_overlap.DIFFERENCES),
    ResultTable(
        "data/gqa/fetched/{study}/{category}.csv",
        "One row per downloaded image, from the root. `data/gqa/fetched/{study}/pairs/{category}.csv` lists those of "
        "pairs.",
        image_archive.COLUMNS,
    ),
)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", r"\|").replace("<", "&lt;").replace("``", "`")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _sentence(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


# Parameters


class Key(NamedTuple):
    """A key of params.yaml, within another as ``controls.draws``; its schema; and whether it must be given."""

    name: str
    schema: Mapping[str, Any]
    required: bool


def keys_of(schema: Mapping[str, Any]) -> list[Key]:
    """The keys of an object of the schema, those within others included."""
    required = set(schema.get("required", ()))
    found = []
    for name, inner in schema.get("properties", {}).items():
        found.append(Key(name, inner, name in required))
        found += [key._replace(name=f"{name}.{key.name}") for key in keys_of(inner)]
    return found


def sections(schema: Mapping[str, Any]) -> dict[str, list[Key]]:
    """Heading -> keys of a part of params.yaml."""
    parts = schema["properties"]
    entry = {name: parts[name]["additionalProperties"] for name in ("studies", "datasets", "models")}
    found = {
        "The file": [Key(name, parts[name], name in schema["required"]) for name in parts],
        "A study": keys_of(entry["studies"]),
    }
    kind = entry["datasets"]["properties"]["kind"]
    for case in entry["datasets"]["allOf"]:
        name = case["if"]["properties"]["kind"]["const"]
        keys = keys_of(case["then"])
        # `kind` is described once, for all kinds.
        found[f"A data set of kind `{name}`"] = [
            key._replace(schema=kind | key.schema, required=True) if key.name == "kind" else key for key in keys
        ]
    found["A model"] = keys_of(entry["models"])
    return found


def allowed(schema: Mapping[str, Any]) -> str:
    """What a key may hold, in words."""
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if "anyOf" in schema:
        return " or ".join(allowed(case) for case in schema["anyOf"])
    if "$ref" in schema:
        return "a name"
    names = {
        "integer": "a whole number",
        "string": "text",
        "boolean": "true or false",
        "object": "keys",
        "null": "null",
    }
    kinds = schema["type"] if isinstance(schema["type"], list) else [schema["type"]]
    words = []
    for kind in kinds:
        if kind == "array":
            words.append(f"a list: {allowed(schema['items'])}")
        elif kind == "integer" and "minimum" in schema:
            words.append(f"a whole number from {schema['minimum']}")
        elif kind == "number":
            words.append(f"a number between {schema['exclusiveMinimum']} and {schema['exclusiveMaximum']}")
        else:
            words.append(names[kind])
    return " or ".join(words)


def parameters() -> str:
    """The page of every key of params.yaml."""
    schema = yaml.safe_load(SCHEMA.read_text(encoding="utf-8"))
    page = [
        "# Keys of params.yaml\n",
        f"{_sentence(schema['description'])} A key that is not listed here is refused by name before anything runs; "
        "so is a value of another form. An overlay (`--configfile mine.yaml`) holds only the keys that it adds or "
        "changes.\n",
        "Names of studies, data sets and models consist of lower-case letters, digits and hyphens.\n",
    ]
    for heading, keys in sections(schema).items():
        rows = (
            (
                f"`{key.name}`",
                _cell(allowed(key.schema)),
                ("Required. " if key.required else "") + _cell(_sentence(key.schema["description"])),
            )
            for key in keys
        )
        page += [f"## {heading}\n", _table(("key", "holds", "meaning"), rows)]
    page.append("A model needs either `path`, or both `repo` and `revision`.\n")
    return "\n".join(page)


# Tables


def result_tables() -> str:
    """The page of every column of every result table."""
    page = [
        "# Columns of result tables\n",
        "All files lie in `results/{study}/` unless stated otherwise. CSV files are in UTF-8 with one header line; ids "
        "keep their leading zeros (`pandas.read_csv(..., dtype={'question_id': str, 'image_id': str})`). An empty cell "
        "is a number that does not exist. Parquet files also hold what determined their numbers, as JSON under the key "
        "`crossflow` of their metadata.\n",
    ]
    for table in RESULT_TABLES:
        rows = ((f"`{name}`", KINDS[column.kind], _cell(column.words)) for name, column in table.columns.items())
        page += [f"## `{table.file}`\n", f"{table.row}\n", _table(("column", "holds", "meaning"), rows)]
    return "\n".join(page)


# Commands


class Option(NamedTuple):
    """An option of a verb, in words."""

    name: str
    holds: str
    default: str
    words: str


_DEFAULT = re.compile(r"\s*\((required|repeatable|default: (.*))\)$")


def options_of(verb: str) -> list[Option]:
    """The options of a verb, from its parser."""
    module, _, function = VERBS[verb].partition(":")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        parser: argparse.ArgumentParser = tyro.extras.get_parser(
            getattr(importlib.import_module(module), function), prog=f"crossflow {verb}", config=OPTION_STYLE
        )
    found = []
    for action in parser._actions:
        if "--help" in action.option_strings:
            continue
        words = " ".join((action.help or "").split())
        match = _DEFAULT.search(words)
        default = {None: "", "required": "required", "repeatable": ""}.get(
            match and match[1], (match and match[2]) or ""
        )
        holds = "" if action.nargs == 0 else str(action.metavar).replace("{None}|", "")
        default = "" if default == "None" or action.nargs == 0 else default
        found.append(Option(action.option_strings[0], holds, default, _DEFAULT.sub("", words)))
    return found


def commands() -> str:
    """The page of every verb and its options."""
    page = [
        "# Commands\n",
        "`crossflow VERB --option ...`; `crossflow --help` lists the verbs, `crossflow VERB --help` a verb's options. "
        "Snakemake runs most of them: a rule's command is one verb. `trace`, `check`, `doctor` and `bench` are for "
        "interactive use.  "
        "Every verb also takes `--provenance FILE`, which records versions, machine and time.\n",
        _table(("verb", "what it does"), ((f"[`{verb}`](#{verb})", _cell(summary_of(verb))) for verb in VERBS)),
    ]
    for verb in VERBS:
        rows = (
            (
                f"`{option.name}`",
                _cell(option.holds and f"`{option.holds}`"),
                _cell(option.default),
                _cell(option.words),
            )
            for option in options_of(verb)
        )
        page += [f"## {verb}\n", f"{summary_of(verb)}\n", _table(("option", "holds", "default", "meaning"), rows)]
    return "\n".join(page)


# Claims, Python, tutorial


def claims() -> str:
    """The page of claims and their criteria."""
    rows = ((str(number), _cell(claim.says), _cell(claim.criterion)) for number, claim in CLAIMS.items())
    return "\n".join(
        (
            "# Claims and criteria\n",
            "What `claims.md` of a study judges. [The explanation](../explanation/claims.md) says how a criterion is "
            "judged, and what loss and depth are.\n",
            _table(("", "claim", "criterion"), rows),
        )
    )


def results() -> str:
    """The page of result files: the page that lies among the results."""
    return (REPO / "results/README.md").read_text(encoding="utf-8")


def python() -> str:
    """The page of the Python API, which mkdocstrings fills from docstrings."""
    return """# Python

`import crossflow as cf` offers the functions below, the ones that the jobs of a study use. The
[tutorial](../tutorial.md) shows them at work.

::: crossflow.asking
    options:
      show_root_heading: false
      show_root_toc_entry: false

::: crossflow.api
    options:
      show_root_heading: false
      show_root_toc_entry: false

::: crossflow.core.errors.CrossflowError
"""


def tutorial(target: Path) -> None:
    """Execute the notebook, and write it with its output as a page with images."""
    import nbformat
    from nbclient import NotebookClient
    from nbconvert import MarkdownExporter

    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(REPO)}}).execute()
    for cell in notebook.cells:
        # Progress bars and warnings of libraries are no part of the text.
        cell["outputs"] = [each for each in cell.get("outputs", ()) if each.get("name") != "stderr"]
    body, resources = MarkdownExporter().from_notebook_node(
        notebook, {"output_files_dir": "tutorial_files", "unique_key": "tutorial"}
    )
    # Tables look like those of the other pages.
    body = re.sub(r"<style scoped>.*?</style>", "", body, flags=re.DOTALL)
    target.write_text(body.replace('<table border="1" class="dataframe">', "<table>"), encoding="utf-8")
    folder = target.parent / "tutorial_files"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name, content in resources["outputs"].items():
        (target.parent / name).write_bytes(content)


PAGES = {
    "parameters.md": parameters,
    "results.md": results,
    "python.md": python,
    "tables.md": result_tables,
    "commands.md": commands,
    "claims.md": claims,
}
"""Generated page of the reference -> what writes it."""


def main() -> None:
    """Write all generated pages below ``docs/``."""
    folder = DOCS / "reference"
    folder.mkdir(exist_ok=True)
    for name, page in PAGES.items():
        (folder / name).write_text(page(), encoding="utf-8")
    tutorial(DOCS / "tutorial.md")


if __name__ == "__main__":
    main()
