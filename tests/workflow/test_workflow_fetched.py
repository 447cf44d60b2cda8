"""A study whose data and model are fetched: the whole workflow against stand-ins for GQA's site and the hub."""

import csv
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
import yaml

import hub_gqa
from copied import AFTER_ANSWERS, Copy
from crossflow.core.tables import read_csv
from crossflow.data.categories import CATEGORIES
from crossflow.data.chosen import read_chosen
from crossflow.data.filtering import find_questions
from crossflow.data.published_overlap import COUNTS
from crossflow.fetch.sources import COLUMNS, read_sources
from crossflow.mini import world
from hub_server import REPO, REVISION, hub_of
from published_form import published_row, write_published
from serving import serving

pytestmark = pytest.mark.workflow

# One more scene than any study asks about, and other members, as in GQA's own zips.
SCENES = 40


def write_site(world: Path, root: Path) -> None:
    """GQA's three zips, made of a data set in its layout."""
    root.mkdir()
    with zipfile.ZipFile(root / "questions1.2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.write(world / "questions" / "val_balanced_questions.json", "val_balanced_questions.json")
        archive.writestr("train_all_questions/train_all_questions_0.json", "{}")
    with zipfile.ZipFile(root / "sceneGraphs.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_sceneGraphs.json", "{}")
        archive.write(world / "sceneGraphs" / "val_sceneGraphs.json", "val_sceneGraphs.json")
    shutil.copy(world / "images.zip", root / "images.zip")


@pytest.fixture(scope="module")
def fetched(repo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimpleNamespace]:
    """A tree whose table of sources and hub are on this machine, with a study that fetches from both."""
    folder = tmp_path_factory.mktemp("fetched")
    world.write_world(folder / "world", SCENES, 0)
    write_site(folder / "world", folder / "site")
    copy = Copy(repo, folder / "tree")
    with (
        serving(folder / "site") as site,
        hub_of(repo / "resources" / "mini-llava") as hub,
        pytest.MonkeyPatch.context() as patch,
    ):
        table = copy.root / "resources" / "sources.csv"
        rows = list(csv.DictReader(table.open()))
        with table.open("w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows:
                name = row["url"].rpartition("/")[2]
                size = (site.root / name).stat().st_size if row["bytes"] else ""
                url = f"{site.url}/{name}"
                if row["name"] == "gqa-hub":
                    url = f"https://huggingface.co/datasets/{hub_gqa.NAME}/tree/{REVISION}"
                writer.writerow(row | {"url": url, "bytes": size, "sha256": ""})
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(folder / "hf"))
        patch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
        study = {
            "dataset": "gqa",
            "models": ["from-hub"],
            "categories": ["ChooseAttr", "QueryAttr"],
            "questions_per_category": 5,
            "answers": "all",
            "lens": False,
            "windows": [3],
            "flows": ["image->last", "related->question"],
            "seed": 0,
        }
        model = {"repo": REPO, "revision": REVISION, "prompt": "vicuna-v1", "window": 3}
        (copy.root / "my.yaml").write_text(
            yaml.safe_dump({"study": "mine", "studies": {"mine": study}, "models": {"from-hub": model}})
        )
        yield SimpleNamespace(copy=copy, site=site, hub=hub, folder=folder, study=study, model=model)


MINE = ("--configfile", "my.yaml")


def test_a_dry_run_lists_every_job_and_asks_nobody(fetched: SimpleNamespace) -> None:
    assert fetched.copy.planned(*MINE) == {
        "fetch_model": 1,
        "fetch_questions": 1,
        "fetch_scene_graphs": 1,
        "fetch_images": 2,
        "questions": 2,
        "answers": 1,
        "hashes": 1,
        **AFTER_ANSWERS,
    }
    assert not fetched.site.asked
    assert not fetched.hub.asked


def test_one_command_fetches_what_is_needed_and_runs_the_study(fetched: SimpleNamespace) -> None:
    root = fetched.copy.root
    fetched.copy.snakemake(*MINE)
    chosen = [read_chosen(root / f"results/mine/questions/{name}.csv") for name in fetched.study["categories"]]
    needed = {question.image_id for questions in chosen for question in questions}
    with zipfile.ZipFile(root / "data/gqa/images.zip") as archive:
        assert {Path(name).stem for name in archive.namelist()} == needed
    assert 0 < len(needed) < SCENES
    answers = pd.read_csv(root / "results/mine/summary/answers.csv")
    assert list(answers.n) == [5, 5]
    assert (answers.accuracy >= 0.8).all(), "the model that was fetched sees the images that were fetched"
    assert fetched.copy.planned(*MINE) == {}


def test_images_of_pairs_are_fetched_by_the_same_rule(fetched: SimpleNamespace) -> None:
    root = fetched.copy.root
    (root / "pairs.yaml").write_text(yaml.safe_dump({"studies": {"mine": {"patching": {}}}}))
    listed = "data/gqa/fetched/mine/pairs/QueryAttr.csv"
    fetched.copy.snakemake("--configfile", "my.yaml", "pairs.yaml", "--", listed)
    pairs = read_chosen(root / "results/mine/pairs/QueryAttr.csv")
    assert pairs
    with (root / listed).open() as file:
        assert {row["image_id"] for row in csv.DictReader(file)} == {pair.image_id for pair in pairs}
    with zipfile.ZipFile(root / "data/gqa/images.zip") as archive:
        assert {f"images/{pair.image_id}.jpg" for pair in pairs} <= set(archive.namelist())


def test_what_was_fetched_needs_no_network_any_more(fetched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    asked = len(fetched.site.asked)
    (fetched.copy.root / "wider.yaml").write_text(yaml.safe_dump({"studies": {"mine": {"windows": [3, 5]}}}))
    table = "results/mine/knockout/from-hub/w5/QueryAttr.parquet"
    fetched.copy.snakemake("--configfile", "my.yaml", "wider.yaml", "--", table)
    assert (fetched.copy.root / table).is_file()
    assert len(fetched.site.asked) == asked


def test_without_the_fetched_files_a_finished_study_is_still_finished(fetched: SimpleNamespace) -> None:
    root = fetched.copy.root
    for name in ("gqa", "models"):
        (root / "data" / name).rename(root / name)
    assert fetched.copy.planned(*MINE) == {}
    for name in ("gqa", "models"):
        (root / name).rename(root / "data" / name)


def test_another_study_fetches_only_the_images_that_are_new(fetched: SimpleNamespace) -> None:
    (fetched.copy.root / "more.yaml").write_text(
        yaml.safe_dump(
            {
                "study": "more",
                "studies": {"more": fetched.study | {"categories": ["ChooseAttr"], "questions_per_category": 12}},
            }
        )
    )
    planned = fetched.copy.planned("--configfile", "my.yaml", "more.yaml")
    assert "fetch_questions" not in planned
    assert "fetch_model" not in planned
    with zipfile.ZipFile(fetched.copy.root / "data/gqa/images.zip") as archive:
        before = set(archive.namelist())
    asked = len(fetched.site.asked)
    fetched.copy.snakemake(
        "--configfile", "my.yaml", "more.yaml", "--", "results/more/answers/from-hub/ChooseAttr.parquet"
    )
    with zipfile.ZipFile(fetched.copy.root / "data/gqa/images.zip") as archive:
        new = set(archive.namelist()) - before
    assert new
    assert len(fetched.site.asked) - asked == len(new)
    assert fetched.copy.planned(*MINE, "--", "results/mine/answers/from-hub/ChooseAttr.parquet") == {}, (
        "the first study stays up to date"
    )


@pytest.fixture(scope="module")
def published(fetched: SimpleNamespace) -> SimpleNamespace:
    """A study on published sets of questions, which the site has."""
    copy, world = fetched.copy, fetched.folder / "world"
    records = json.loads((world / "questions/val_balanced_questions.json").read_text())
    scenes = json.loads((world / "sceneGraphs/val_sceneGraphs.json").read_text())
    found = {category: find_questions(world, "val_balanced", category)[0] for category in CATEGORIES}
    for category, questions in found.items():
        # All but the first were published.
        rows = [
            published_row(
                category,
                question.question_id,
                records[question.question_id],
                scenes[question.image_id],
                (question.true_option or "", question.false_option or ""),
            )
            for question in questions[1:]
        ]
        name = read_sources(copy.root / "resources/sources.csv")[f"published-{category}"].url.rpartition("/")[2]
        write_published(fetched.site.root / name, category, rows)
    dataset = {"kind": "gqa", "questions": "published", "root": None}
    study = fetched.study | {"dataset": "as-published", "questions_per_category": 6}
    overlay = {"study": "published-here", "studies": {"published-here": study}, "datasets": {"as-published": dataset}}
    (copy.root / "published.yaml").write_text(yaml.safe_dump(overlay))
    return SimpleNamespace(options=("--configfile", "my.yaml", "published.yaml"), study=study, found=found)


def test_the_published_questions_are_fetched_used_and_compared(
    fetched: SimpleNamespace, published: SimpleNamespace
) -> None:
    copy, here, study, found = fetched.copy, published.options, published.study, published.found
    planned = copy.planned(*here)
    assert planned["fetch_published"] == 2
    assert "fetch_questions" not in planned
    tables = [f"results/published-here/questions/{category}.csv" for category in study["categories"]]
    copy.snakemake(*here, "--", *tables)
    for category in study["categories"]:
        chosen = read_chosen(copy.root / f"results/published-here/questions/{category}.csv")
        assert len(chosen) == 6
        assert {question.question_id for question in chosen} <= {
            question.question_id for question in found[category][1:]
        }
    assert copy.planned(*here, "--", *tables) == {}

    copy.snakemake(*here, "--", "published_overlap")
    for row in read_csv(copy.root / "results/published-here/published/overlap.csv", COUNTS):
        assert (row["missing"], row["extra"]) == (0, 1)
        assert row["filter"] == row["both"] + 1 == len(found[row["category"]])


@pytest.mark.slow
def test_a_study_on_the_published_questions_runs_whole_and_leaves_nothing_to_do(
    fetched: SimpleNamespace, published: SimpleNamespace
) -> None:
    fetched.copy.snakemake(*published.options)
    assert fetched.copy.planned(*published.options) == {}


def test_questions_and_images_from_the_hub_make_the_same_study(
    fetched: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy, made = fetched.copy, fetched.folder / "world"
    records = json.loads((made / "questions/val_balanced_questions.json").read_text())
    with zipfile.ZipFile(made / "images.zip") as archive:
        images = [(Path(name).stem, archive.read(name)) for name in archive.namelist()]
    folder = fetched.folder / "on-the-hub"
    hub_gqa.write_questions(folder, records)
    hub_gqa.write_images(folder, images, shards=3, rows=2)
    study = fetched.study | {"models": ["mini-llava"]}
    overlay = {"study": "of-hub", "studies": {"of-hub": study}, "datasets": {"gqa": {"source": "hub"}}}
    (copy.root / "hub.yaml").write_text(yaml.safe_dump(overlay))
    here = ("--configfile", "my.yaml", "hub.yaml")
    made_here = [f"results/of-hub/questions/{category}.csv" for category in study["categories"]]
    answers = "results/of-hub/answers/mini-llava/ChooseAttr.parquet"
    with hub_of(folder, hub_gqa.NAME) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        copy.snakemake(*here, "--", *made_here, answers)
        assert sum(hub.sent.values()) > 0
        assert copy.planned(*here, "--", *made_here, answers) == {}
    for path in made_here:
        assert (copy.root / path).read_bytes() == (copy.root / path.replace("of-hub", "mine")).read_bytes()
    needed = {row.image_id for path in made_here for row in read_chosen(copy.root / path)}
    with zipfile.ZipFile(copy.root / "data/gqa-hub/images.zip") as archive:
        assert {Path(name).stem for name in archive.namelist()} == needed
        assert all(archive.read(f"images/{image_id}.jpg") == dict(images)[image_id] for image_id in needed)


def test_a_truncated_zip_stops_the_run_with_one_sentence(fetched: SimpleNamespace, tmp_path: Path) -> None:
    zipped = fetched.site.root / "images.zip"
    content = zipped.read_bytes()
    (fetched.copy.root / "other.yaml").write_text(
        yaml.safe_dump({"study": "other", "studies": {"other": fetched.study | {"categories": ["ChooseRel"]}}})
    )
    zipped.write_bytes(content[:-3000])
    (fetched.copy.root / "data/gqa/images.directory.json").unlink()
    said = fetched.copy.snakemake(
        "--configfile", "my.yaml", "other.yaml", "--", "results/other/answers/from-hub/ChooseRel.parquet", status=1
    )
    assert "images.zip is not a readable zip, or is truncated" in said
    zipped.write_bytes(content)
    fetched.copy.snakemake(
        "--configfile", "my.yaml", "other.yaml", "--", "results/other/answers/from-hub/ChooseRel.parquet"
    )
