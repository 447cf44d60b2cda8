"""The house: rooms with one job each, arrows one way, one place per fact."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml

from crossflow import __version__
from crossflow.analysis import claims, pid_flow
from crossflow.analysis.claims_text import CLAIMS
from crossflow.analysis.expected import TABLES
from crossflow.analysis.tables import COLUMNS, EXPECTED, SUMMARIES
from crossflow.cli.main import summary_of
from crossflow.cli.verbs import VERBS
from crossflow.core.flows import SET_NAMES
from crossflow.core.measures import KNOCKOUT, MEASURES
from crossflow.core.tables import BASELINES
from crossflow.data import categories
from crossflow.engine.engines import ENGINES
from crossflow.experiments.knockouts import KnockoutSettings
from crossflow.experiments.selection import SELECTIONS
from crossflow.figures.kinds import FIGURES
from crossflow.mini import questions as mini_questions
from crossflow.models.folder import ModelSource
from crossflow.models.model import DTYPES
from crossflow.models.prompts import TEMPLATES
from crossflow.models.visual_tokens import RULES
from crossflow.study import inputs

PACKAGE = Path("workflow/crossflow")


def _rooms(repo: Path) -> list[str]:
    return sorted(folder.name for folder in (repo / PACKAGE).iterdir() if (folder / "__init__.py").is_file())


def test_there_are_at_most_twelve_rooms_and_nothing_lies_beside_them(repo: Path) -> None:
    assert len(_rooms(repo)) <= 12
    assert {path.name for path in (repo / PACKAGE).glob("*.py")} == {
        "__init__.py",
        "__main__.py",
        "api.py",
        "asking.py",
    }


def test_each_room_says_its_job_and_what_it_may_import_and_imports_nothing(repo: Path) -> None:
    for room in _rooms(repo):
        tree = ast.parse((repo / PACKAGE / room / "__init__.py").read_text())
        assert "May import" in (ast.get_docstring(tree) or ""), room
        assert len(tree.body) == 1, f"crossflow.{room} has more than a docstring in its __init__.py"


def test_the_tree_in_contributing_names_every_room_and_no_other(repo: Path) -> None:
    named = re.findall(rf"^{PACKAGE}/(\w+)/ ", (repo / "CONTRIBUTING.md").read_text(), re.MULTILINE)
    assert sorted(named) == _rooms(repo)


def test_an_import_from_a_lower_room_to_a_higher_one_is_named(repo: Path, tmp_path: Path) -> None:
    _copy_sources(repo, tmp_path)
    wrong = tmp_path / PACKAGE / "core" / "seeds.py"
    wrong.write_text(wrong.read_text() + "\nfrom crossflow.cli.verbs import VERBS\n")
    environment = {"PYTHONPATH": str(tmp_path / "workflow"), "PATH": ""}
    linter = Path(sys.executable).parent / "lint-imports"
    command = [str(linter), "--no-cache", "--config", str(repo / "pyproject.toml")]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert ran.returncode != 0
    assert "crossflow.core.seeds -> crossflow.cli.verbs" in ran.stdout


def _copy_sources(repo: Path, root: Path) -> None:
    for path in (repo / PACKAGE).rglob("*.py"):
        copy = root / path.relative_to(repo)
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes(path.read_bytes())


@pytest.fixture(scope="module")
def schema(repo: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((repo / "workflow/schemas/params.schema.yaml").read_text())
    return loaded["properties"]


def test_enumerations_of_the_schema_are_those_of_the_code(schema: dict[str, Any]) -> None:
    study = schema["studies"]["additionalProperties"]["properties"]
    model = schema["models"]["additionalProperties"]["properties"]
    source, settings = get_type_hints(ModelSource), get_type_hints(KnockoutSettings)
    assert set(model["prompt"]["enum"]) == TEMPLATES.keys()
    assert set(model["image"]["enum"]) == set(get_args(source["image"]))
    assert set(model["patches"]["enum"]) == set(get_args(source["patches"])) == set(RULES)
    assert set(model["dtype"]["enum"]) == set(get_args(source["dtype"])) == DTYPES.keys()
    assert set(study["engine"]["enum"]) == set(get_args(settings["engine"])) == ENGINES.keys()
    assert set(study["answers"]["enum"]) == set(get_args(settings["select"])) == SELECTIONS.keys()
    assert set(study["baselines"]["items"]["enum"]) == set(BASELINES)


def test_what_params_yaml_says_of_a_model_are_fields_of_its_settings(schema: dict[str, Any]) -> None:
    said = schema["models"]["additionalProperties"]["properties"].keys() - {"path", "repo", "revision", "window"}
    assert said == set(inputs.SETTINGS) == get_type_hints(ModelSource).keys() - {"model_path", "model_manifest"}


def test_every_measure_has_words_and_a_column_and_every_column_of_results_is_a_measure() -> None:
    keys = {"question_id", "image_id", "flow", "layer", "p_clean", "p_knockout"}
    columns = [column for measure in MEASURES for column in measure.columns]
    assert sorted(columns) == sorted(set(KNOCKOUT.names) - keys)
    for measure in MEASURES:
        assert measure.words.strip(), f"the measure {measure.name} has no words"
        assert len(measure.columns) in (1, 2), measure.name


def test_every_category_has_a_rule_and_is_asked_by_the_mini_world() -> None:
    assert mini_questions.CATEGORIES.keys() == categories.CATEGORIES.keys()
    for name, category in categories.CATEGORIES.items():
        assert category.detailed, f"the category {name} has no type"
        assert category.program.pattern, f"the category {name} has no rule for its program"
        assert name in mini_questions.WORDINGS, f"the category {name} has no wording"


def test_every_claim_has_words_and_a_judge() -> None:
    judged = {judge.__doc__.split()[1].rstrip(".;") for judge in (*claims.JUDGES, *pid_flow.JUDGES) if judge.__doc__}
    # Claim 6 follows from the others.
    assert {int(number) for number in judged} | {6, *pid_flow.UNTESTABLE} == CLAIMS.keys()
    assert all(claim.says and claim.criterion for claim in CLAIMS.values())


def test_every_summary_and_figure_is_made_by_a_module_of_its_room(repo: Path) -> None:
    for room, function, modules in (
        ("analysis", "tables", {summary.module for summary in SUMMARIES.values()}),
        ("figures", "draw", {figure.module for figure in FIGURES.values()}),
    ):
        for module in modules:
            assert module.startswith(f"crossflow.{room}.")
            tree = ast.parse((repo / "workflow" / f"{module.replace('.', '/')}.py").read_text())
            assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, module
    assert {table for figure in FIGURES.values() for table in figure.tables} <= COLUMNS.keys()
    assert set(EXPECTED) == TABLES.keys()


def test_every_figure_has_a_caption(repo: Path) -> None:
    for kind in FIGURES:
        assert (repo / "workflow/report" / f"{kind.removesuffix('-published')}.rst").is_file(), kind


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_in_one_sentence_what_it_does(verb: str) -> None:
    said = summary_of(verb)
    assert said.endswith(".")
    assert len(said) <= 130, said


def test_no_position_set_stands_twice() -> None:
    assert len(set(SET_NAMES)) == len(SET_NAMES)


def test_mypy_skips_no_part_of_a_library_that_the_package_imports(repo: Path) -> None:
    settings = tomllib.loads((repo / "pyproject.toml").read_text())["tool"]["mypy"]["overrides"]
    skipped, followed = (
        {
            name.removesuffix(".*")
            for override in settings
            if override.get("follow_imports") == how
            for name in override["module"]
        }
        for how in ("skip", "normal")
    )
    assert skipped
    assert followed

    def is_below(module: str, names: set[str]) -> bool:
        return any(f"{module}.".startswith(f"{name}.") for name in names)

    imported = {
        module
        for path in (repo / PACKAGE).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        for module in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert "torch.utils.data" in imported
    assert {name for name in imported if is_below(name, skipped) and not is_below(name, followed)} == set()


def test_the_version_is_the_same_in_everything_that_a_release_publishes(repo: Path) -> None:
    citation = yaml.safe_load((repo / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    # CITATION.cff is the source; `make metadata` writes the others.
    for name in (".zenodo.json", "codemeta.json"):
        written = json.loads((repo / name).read_text())
        assert (written["version"], written["keywords"]) == (__version__, citation["keywords"]), name
    first = re.search(r"^## (.*)$", (repo / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first and first[1] in (f"{__version__} ({citation['date-released']})", f"{__version__} (unreleased)")
    project = tomllib.loads((repo / "pyproject.toml").read_text())["project"]
    assert project["keywords"] == citation["keywords"]
