"""The documentation: every key, column, verb and option is described, listed, and reachable."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import generate
import pytest
import yaml
from offline import loaded_from_a_network, problems

from copied import Copy
from crossflow.cli.main import summary_of
from crossflow.cli.verbs import VERBS
from crossflow.core.columns import Column
from crossflow.core.flows import SET_NAMES
from crossflow.study import parameters
from crossflow.study.config_files import read_config

LARGEST_PICTURE = 200_000  # bytes
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


@pytest.fixture(scope="module")
def sections(repo: Path) -> dict[str, list[generate.Key]]:
    return generate.sections(yaml.safe_load(generate.SCHEMA.read_text()))


def _links(page: Path) -> list[str]:
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [link for link in _LINK.findall(text) if not link.startswith(("http:", "https:"))]


def _anchors(page: Path) -> set[str]:
    """Of headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_key_of_params_yaml_is_described_and_on_its_page(sections: dict[str, list[generate.Key]]) -> None:
    page = generate.parameters()
    for heading, keys in sections.items():
        part = page.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        for key in keys:
            assert len(key.schema.get("description", "").split()) >= 3, f"{heading}: {key.name} is not described"
            assert f"| `{key.name}` |" in part


def test_the_page_of_keys_knows_every_key_that_the_schema_has() -> None:
    """Counted in the text of the schema, in whatever part a key may stand."""
    schema = yaml.safe_load(generate.SCHEMA.read_text())
    named: set[str] = set()

    def walk(part: object) -> None:
        if isinstance(part, dict):
            properties = part.get("properties", {})
            if "if" not in part:
                named.update(properties)
            for name, inner in part.items():
                if name != "if":
                    walk(inner)
        elif isinstance(part, list):
            for inner in part:
                walk(inner)

    walk(schema)
    listed = {key.name.rpartition(".")[2] for keys in generate.sections(schema).values() for key in keys}
    assert listed == named


def test_every_column_of_every_table_is_described_and_on_its_page() -> None:
    page = generate.result_tables()
    for table in generate.RESULT_TABLES:
        part = page.partition(f"## `{table.file}`\n")[2].partition("\n## ")[0]
        for name, column in table.columns.items():
            assert len(column.words.split()) >= 2, f"{table.file}: {name} is not described"
            assert column.words.endswith("."), f"{table.file}: {name}"
            assert f"| `{name}` |" in part


def test_every_table_of_columns_in_the_package_is_on_the_page(repo: Path) -> None:
    listed = [table.columns for table in generate.RESULT_TABLES]
    found = 0
    for path in (repo / "workflow/crossflow").rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if not (isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "Columns"):
                continue
            module = ".".join(path.relative_to(repo / "workflow").with_suffix("").parts)
            name = ast.unparse(node.target)
            columns = getattr(importlib.import_module(module), name)
            assert all(isinstance(column, Column) for column in columns.values())
            if not name.startswith("_"):
                assert columns in listed, f"{module}.{name} is on no page"
                found += 1
    assert found == len(listed)


def test_every_verb_and_option_is_described_and_on_the_page() -> None:
    page = generate.commands()
    for verb in VERBS:
        part = page.partition(f"## {verb}\n")[2].partition("\n## ")[0]
        assert summary_of(verb).replace("``", "`") in part.replace("``", "`")
        options = generate.options_of(verb)
        assert options, verb
        for option in options:
            assert len(option.words.split()) >= 2, f"crossflow {verb} {option.name} is not described"
            assert f"| `{option.name}` |" in part


def test_every_position_set_is_explained(repo: Path) -> None:
    page = (repo / "docs/explanation/flows.md").read_text()
    table = page.partition("## Position sets")[2].partition("\n## ")[0]
    explained = [name for line in table.splitlines() for name in re.findall(r"`(\w+)`", line.split(" | ")[0])]
    assert sorted(explained) == sorted(SET_NAMES)


@pytest.mark.parametrize("page", ["README.md", "ARTIFACT.md", "CONTRIBUTING.md", "results/README.md"])
def test_links_of_pages_outside_the_site_lead_somewhere(repo: Path, page: str) -> None:
    for link in _links(repo / page):
        path, _, anchor = link.partition("#")
        target = (repo / page).parent / path if path else repo / page
        assert target.exists(), f"{page} links to {link}"
        assert not anchor or anchor in _anchors(target), f"{page} links to {link}"


def test_the_readme_is_one_page_with_small_pictures(repo: Path) -> None:
    assert len((repo / "README.md").read_text().splitlines()) <= 150
    pictures = list((repo / "docs/images").glob("*.png"))
    assert {"idea.png", "result.png"} <= {path.name for path in pictures}
    assert all(path.stat().st_size <= LARGEST_PICTURE for path in pictures)


@pytest.mark.parametrize("page", ["README.md", "docs/howto/questions.md"])
def test_the_overlay_of_a_page_is_a_study(repo: Path, page: str) -> None:
    config = read_config(repo / "params.yaml")
    overlay = yaml.safe_load(re.findall(r"^```yaml\n(.*?)^```$", (repo / page).read_text(), re.M | re.S)[0])
    for part in ("studies", "datasets", "models"):
        config[part] |= overlay.get(part, {})
    config["study"] = overlay["study"]
    parameters.validate(config, generate.SCHEMA)
    study = parameters.read_study(config)
    assert study.name == "mine"
    assert study.flows == overlay["studies"]["mine"]["flows"]


def test_what_a_page_loads_from_a_network_is_found(tmp_path: Path) -> None:
    assert loaded_from_a_network('<a href="https://arxiv.org">paper</a><img src="images/idea.png">') == []
    loads = ['<script src="https://unpkg.com/x"></script>', '<link rel="stylesheet" href="//fonts.example/a.css">']
    for page in loads:
        assert len(loaded_from_a_network(page)) == 1
    (tmp_path / "a.html").write_text(loads[0])
    (tmp_path / "a.css").write_text('@import "https://fonts.example/a.css";')
    assert len(list(problems(tmp_path))) == 2


@pytest.mark.workflow
@pytest.mark.long
def test_the_site_builds_strictly_and_needs_no_network(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path / "tree")
    mkdocs = Path(sys.executable).parent / "mkdocs"
    environment = os.environ | {"PYTHONPATH": "workflow", "NO_MKDOCS_2_WARNING": "1"}
    for command in (
        [sys.executable, "docs/generate.py"],
        [str(mkdocs), "build", "--quiet"],
        [sys.executable, "docs/offline.py", "site"],
    ):
        ran = subprocess.run(command, cwd=copy.root, capture_output=True, text=True, env=environment, check=False)
        assert ran.returncode == 0, f"{command}: {ran.stdout}{ran.stderr}"
    assert "knockout" in (copy.root / "site/reference/python.html").read_text()
    assert list((copy.root / "site/tutorial_files").glob("*.png"))
