"""What the doctor finds, good and bad, one fault at a time."""

import os
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from huggingface_hub import constants
from PIL import ExifTags, Image
from safetensors.torch import load_file, save_file

from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import write_csv
from crossflow.fetch import environment
from crossflow.fetch.image_archive import COLUMNS
from crossflow.mini import world
from crossflow.study import parameters
from crossflow.verify import machine, study_inputs
from crossflow.verify.doctor import examine
from crossflow.verify.finding import MISSING, NOTE, OK, Finding
from hub_server import hub_of
from spoiling import edit_image_processor, edit_json


@pytest.fixture
def tree(tmp_path: Path, repo: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with all that the doctor reads of a checkout."""
    for name in ("params.yaml", "envs/lock.txt", "resources/sources.csv", "workflow/schemas/params.schema.yaml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, tmp_path / name)
    shutil.copytree(repo / "resources/mini-llava", tmp_path / "resources/mini-llava")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _found(study: str = "mini", **changes: Any) -> list[Finding]:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": study}
    config["studies"][study] |= changes
    return list(examine(lambda: config, offline=True))


def _of(findings: list[Finding], what: str) -> list[Finding]:
    found = [finding for finding in findings if finding.what.startswith(what)]
    assert found, what
    return found


def test_the_mini_study_needs_nothing_more(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--offline"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert not [line for line in lines if line.startswith(MISSING)]
    assert {line[9:37].split()[0] for line in lines} == {
        "python",
        "packages",
        "device",
        "params.yaml",
        "data",
        "model",
        "disk",
        "dvc",
    }


def test_what_is_missing_fails_the_command_and_hides_nothing_else(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(tree / "resources/mini-llava")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    assert main(["doctor", "--offline"]) == 1
    printed = capsys.readouterr()
    missing = [line for line in printed.out.splitlines() if line.startswith(MISSING)]
    assert [line.split()[1] for line in missing] == ["model", "disk", "disk"]
    assert "has no config.json" in missing[0]
    assert "0.0 GB are free: free some space" in missing[1]
    assert printed.err.strip() == "crossflow doctor: 3 things that the study needs are missing; see the lines above."


def test_an_overlay_is_laid_over_params_yaml(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "mine.yaml").write_text(
        "study: mine\nstudies: {mine: {dataset: nowhere, models: [mini-llava], "
        "categories: [ChooseRel], flows: [image->last]}}\n"
    )
    assert main(["doctor", "--offline", "--configfile", "mine.yaml"]) == 1
    assert "datasets has no entry 'nowhere'" in capsys.readouterr().out
    (tree / "mine.yaml").write_text("studies: {mini: {dataset: shapes, flows: 3}}\n")
    assert main(["doctor", "--offline", "--configfile", "mine.yaml"]) == 1
    assert "studies.mini.flows" in capsys.readouterr().out


def test_packages_are_held_against_the_lock(tree: Path) -> None:
    lock = tree / "envs/lock.txt"
    assert _of(_found(), "packages") == [Finding(OK, "packages", _of(_found(), "packages")[0].found)]
    lock.write_text("numpy==0.0.1\nno-such-package==1.0\n")
    absent, other = _of(_found(), "packages")
    assert absent.level == other.level == NOTE
    assert "no-such-package" in absent.found
    assert "(locked 0.0.1)" in other.found


def test_a_model_that_does_not_fit_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_inputs, "capacity", lambda device: 10**6)
    (finding,) = _of(_found(), "model mini-llava")
    assert finding.level == MISSING
    assert "use a device with more memory" in finding.found


def test_a_study_of_the_paper_is_planned_without_any_download(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study_inputs, "capacity", lambda device: 80 * 2**30)
    findings = _found("paper")
    assert {finding.level for finding in _of(findings, "model")} == {OK}
    assert all("fetched by the run" in finding.found for finding in _of(findings, "model"))
    assert len(_of(findings, "data gqa")) == 3
    cache = _of(findings, "disk")[-1]
    # 14.1 + 26.7 + 14.1 + 16.7 GB of weights, and what the folders before it need.
    assert 71.6 < float(cache.found.partition(": ")[2].split()[0]) < 77


def test_an_address_that_can_not_be_reached_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        study_inputs, "_reachable", lambda url: asked.append(url) or ("Timeout" if "images" in url else None)
    )
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "real-sample"}
    findings = list(examine(lambda: config))
    missing = [finding for finding in _of(findings, "data gqa") if finding.level == MISSING]
    assert len(missing) == 1
    assert "images.zip, which cannot be reached (Timeout)" in missing[0].found
    assert sum("huggingface.co" in url for url in asked) == 1
    assert len(asked) == 4


def test_a_data_set_of_ones_own_must_be_there(tree: Path) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "mini"}
    config["datasets"]["shapes"] = {"kind": "gqa", "root": str(tree / "absent")}
    (finding,) = _of(list(examine(lambda: config, offline=True)), "data")
    assert finding.level == MISSING
    assert "absent does not exist" in finding.found


def test_a_folder_that_can_not_be_written_is_said(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    assert {finding.level for finding in _of(_found(), "disk")} == {MISSING}
    assert "cannot be written (Permission denied)" in _of(_found(), "disk")[0].found


def test_a_lock_that_was_left_is_a_note(tree: Path) -> None:
    assert not [finding for finding in _found() if finding.what == "lock"]
    (tree / ".snakemake/locks").mkdir(parents=True)
    (tree / ".snakemake/locks/0.input.lock").touch()
    (finding,) = _of(_found(), "lock")
    assert finding.level == NOTE
    assert "snakemake --unlock" in finding.found


def test_gpus_are_listed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    memory: Iterator[tuple[int, int]] = iter([(79 * 2**30, 80 * 2**30), (20 * 2**30, 80 * 2**30)])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: "a GPU")
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: next(memory))
    first, second = machine.check_device()
    assert (first.level, first.found) == (OK, "cuda:0, a GPU, 80 GiB")
    assert (second.level, second.found) == (NOTE, "cuda:1, a GPU, 80 GiB, 60 GiB of it in use")


def test_parameters_that_are_not_valid_hide_nothing_else(tree: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tree / "params.yaml").write_text("study: mini\nstudy: ci\n")
    assert main(["doctor", "--offline"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert [line[9:37].split()[0] for line in lines] == [
        "python", "packages", "device", "params.yaml", "disk", "disk", "dvc",
    ]  # fmt: skip
    assert [line for line in lines if line.startswith(MISSING)] == [
        f"{MISSING:<9}{'params.yaml':<28}params.yaml, line 1: duplicate key 'study'."
    ]


def test_a_check_that_breaks_is_a_finding_and_the_others_are_made(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: object) -> None:
        raise ZeroDivisionError("by what?\na second line")

    whole = [finding.what for finding in _found()]
    monkeypatch.setattr(machine, "check_device", broken)
    findings = _found()
    assert [finding.what for finding in findings] == whole
    (found,) = _of(findings, "device")
    assert found == Finding(MISSING, "device", "could not be checked (ZeroDivisionError: by what?)")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "lacks model.safetensors; weights are read from"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:-9]),
            "model.safetensors is damaged or truncated",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text(
                '{"weight_map": {"a": "model-2.safetensors"}}'
            ),
            "lacks model-2.safetensors",
        ),
        (
            lambda folder: (folder / "model.safetensors.index.json").write_text("[]"),
            "model.safetensors.index.json is not a valid index of weights",
        ),
        (lambda folder: (folder / "processor_config.json").unlink(), "resources/mini-llava"),
    ],
    ids=["absent", "cut short", "a part absent", "broken index", "no processor"],
)
def test_a_model_that_is_not_whole_is_said(tree: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(tree / "resources/mini-llava")
    (finding,) = _of(_found(), "model mini-llava")
    assert finding.level == MISSING
    assert message in finding.found
    assert "\n" not in finding.found


def _rename_a_weight(folder: Path) -> None:
    path = folder / "model.safetensors"
    weights = load_file(path)
    name = next(name for name in sorted(weights) if name.endswith("up_proj.weight"))
    weights[name.replace("up_proj", "up")] = weights.pop(name)
    path.unlink()
    save_file(weights, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (_rename_a_weight, "lacks 1 weights, the first of which is "),
        (lambda folder: edit_json(folder / "config.json", "text_config.num_hidden_layers", 6), "no place for"),
        (lambda folder: edit_json(folder / "config.json", "text_config.intermediate_size", 64), "of another shape"),
        (lambda folder: edit_json(folder / "processor_config.json", "patch_size", 14), "patch_size 14"),
        (lambda folder: edit_image_processor(folder, "crop_size", {"height": 64, "width": 64}), "tiles of 64 x 64"),
        (lambda folder: (folder / "adapter_config.json").write_text("{}"), "holds an adapter"),
    ],
    ids=["renamed weight", "fewer layers", "other width", "patch size", "tile", "adapter"],
)
def test_a_model_of_several_is_said_before_its_weights_are_read(
    tree: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(tree / "resources/mini-llava")
    (finding,) = _of(_found(), "model mini-llava")
    assert finding.level == MISSING
    assert message in finding.found


def test_a_sample_of_images_is_opened_as_the_jobs_will(tree: Path, repo: Path) -> None:
    shutil.copytree(repo / "resources/example", tree / "resources/example")
    pictures = tree / "resources/example/pictures"
    number = len(list(pictures.iterdir()))
    assert _of(_found("example"), "images") == [Finding(OK, "images example", f"{number} of them are used as they are")]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    one, two, three, *_ = sorted(pictures.iterdir())
    Image.open(one).save(one, exif=exif)
    Image.open(two).convert("CMYK").save(two)
    three.write_bytes(b"no image")
    found = [finding.found for finding in _of(_found("example"), "images")]
    assert found[0].startswith(f"1 of {number} images cannot be used, the first: the image ")
    assert found[0].endswith("; their questions are skipped")
    assert set(found[1:]) == {
        f"1 of {number} are turned as EXIF says", f"1 of {number} are converted from mode CMYK",
    }  # fmt: skip


def test_of_downloaded_images_those_that_are_there_are_sampled(tree: Path) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "real-sample"}
    study = parameters.read_study(config)
    for name in ("questions/val_balanced_questions.json", "sceneGraphs/val_sceneGraphs.json"):
        (tree / "data/gqa" / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / "data/gqa" / name).write_text('{"never": "fetched"}')
    for number, category in enumerate(study.categories):
        row = {"image_id": str(number), "bytes": 1, "crc32": "00000000"}
        write_csv(Path(study_inputs.inputs.fetched_images(config, study, category)), COLUMNS, [row])
        with (
            zipfile.ZipFile(tree / "data/gqa/images.zip", "a") as archive,
            archive.open(f"images/{number}.jpg", "w") as to,
        ):
            Image.new("RGB", (20, 20)).save(to, "JPEG")
    for category in study.categories:
        published = Path(study_inputs.inputs.published_file(category))
        published.parent.mkdir(parents=True, exist_ok=True)
        published.touch()
    assert list(study_inputs.check_images(config, study)) == [
        Finding(OK, "images gqa", f"{len(study.categories)} of them are used as they are")
    ]


def test_data_on_the_hub_are_fetched_by_the_run_and_parquet_files_written_as_a_table(tree: Path) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "real-sample"}
    config["datasets"]["gqa"]["source"] = "hub"
    study = parameters.read_study(config)
    found = [finding.found.partition(" ")[0] for finding in study_inputs.check_data(config, study, offline=True)]
    assert found == ["gqa-hub", "gqa-scene-graphs"]
    mine = {"kind": "table", "file": "color.parquet"}
    config["datasets"]["gqa"] = mine
    study = parameters.read_study(config)
    with pytest.raises(CrossflowError, match=r"datasets\.gqa\.file: color\.parquet does not exist"):
        list(study_inputs.check_data(config, study, offline=True))
    Path("color.parquet").touch()
    (finding,) = study_inputs.check_data(config, study, offline=True)
    assert finding == Finding(OK, "data gqa", "the run writes the table of color.parquet")
    assert not list(study_inputs.check_images(config, study))
    mine |= {"repo": "a/b", "revision": "0" * 40}
    (finding,) = study_inputs.check_data(config, study, offline=True)
    assert finding.found == "the run writes the table of color.parquet of a/b, fetched by the run"


def test_images_of_another_size_than_their_scene_graphs_are_counted(tree: Path) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text())
    world.write_world(tree / "world", 4, 0)
    config["datasets"]["shapes"] = {"kind": "gqa", "root": str(tree / "world")}
    images = tree / "world/images"
    with zipfile.ZipFile(tree / "world/images.zip") as archive:
        archive.extractall(tree / "all")
    shutil.copytree(next((tree / "all").rglob("*.jpg")).parent, images)

    def found() -> list[Finding]:
        return _of(list(examine(lambda: config, offline=True)), "images")

    (whole,) = found()
    assert whole.level == OK
    halved, cut, *others = sorted(images.iterdir())
    with Image.open(halved) as image:
        image.resize((image.width // 2, image.height // 2)).save(halved)
    with Image.open(cut) as image:
        image.crop((0, 0, image.width, image.height // 2)).save(cut)
    broken, scaled = found()
    assert broken.level == scaled.level == NOTE
    assert "but its boxes are given for an image of" in broken.found
    assert scaled.found == f"1 of {2 + len(others)} are of another scale than their boxes, which are scaled"
    for path in images.iterdir():
        path.unlink()
    assert [finding.level for finding in found()] == [MISSING]


def test_a_window_that_covers_the_model_is_said_before_any_answer(tree: Path) -> None:
    (finding,) = _of(_found(windows=[3, 16]), "model mini-llava")
    assert (finding.level, finding.what) == (MISSING, "model mini-llava")
    assert finding.found.startswith("A window of 16 layers does not fit mini-llava, which has 8:")
    assert _of(_found(windows=[15, "bottom"]), "model mini-llava")[0].level == OK


def test_a_model_in_the_hubs_cache_needs_no_network(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "real-sample"}
    monkeypatch.setattr(study_inputs, "_reachable", lambda url: "Timeout")
    lacking = _of(list(examine(lambda: config)), "model llava15-7b")
    assert [finding.level for finding in lacking] == [MISSING, OK]
    before = study_inputs.bytes_needed(config, parameters.read_study(config))
    monkeypatch.setattr(study_inputs.hub, "cached_folder", lambda repo, revision: tree / "resources/mini-llava")
    config["models"]["llava15-7b"]["dtype"] = "float32"
    (found,) = _of(list(examine(lambda: config)), "model llava15-7b")
    assert found.level == OK
    assert "mini-llava; needs" in found.found
    needed = study_inputs.bytes_needed(config, parameters.read_study(config))
    assert set(before) - set(needed) == {Path(constants.HF_HUB_CACHE)}


@pytest.mark.parametrize(("number", "images", "least"), [(30, "needed", 0), (30, "full", 2e10), (None, "needed", 2e10)])
def test_room_is_asked_for_all_images_where_all_are_fetched(
    tree: Path, number: int | None, images: str, least: float
) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "real-sample"}
    config["studies"]["real-sample"]["questions_per_category"] = number
    config["datasets"]["gqa"]["images"] = images
    needed = study_inputs.bytes_needed(config, parameters.read_study(config))[Path("data")]
    assert least <= needed < least + 3e9


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "pictures/scene1.jpg").unlink(), "scene1.jpg does not exist"),
        (lambda folder: shutil.rmtree(folder / "pictures"), "pictures does not exist"),
        (lambda folder: (folder / "questions.csv").unlink(), "questions.csv does not exist"),
    ],
)
def test_a_table_of_ones_own_is_read_with_its_images(
    tree: Path, repo: Path, spoil: Callable[[Path], object], message: str
) -> None:
    shutil.copytree(repo / "resources/example", tree / "resources/example")
    assert _of(_found("example"), "data")[0].level == OK
    (unknown,) = _of(_found("example", categories=["side", "shade"]), "data")
    assert "has no question of category 'shade'; it has " in unknown.found
    spoil(tree / "resources/example")
    (finding,) = _of(_found("example"), "data")
    assert finding.level == MISSING
    assert message in finding.found


def test_a_data_set_without_images_is_said(tree: Path) -> None:
    for name in ("val_balanced_questions.json", "val_sceneGraphs.json"):
        (tree / name).write_text("{}")
    config = yaml.safe_load(Path("params.yaml").read_text())
    config["datasets"]["shapes"] = {"kind": "gqa", "root": str(tree)}
    (finding,) = _of(list(examine(lambda: config, offline=True)), "data")
    assert finding == Finding(MISSING, "data", f"{tree} contains neither images/ nor images.zip.")
    (tree / "images").mkdir()
    assert _of(list(examine(lambda: config, offline=True)), "data")[0].level == OK


@pytest.mark.parametrize(
    ("status", "said", "level", "found"),
    [
        (0, "", OK, "every stage is up to date"),
        (1, "", OK, "some stages are out of date"),
        (
            255,
            "ERROR: dvc.yaml is broken\nmore",
            NOTE,
            "`dvc status` fails: no git repository is here: `git init`, or `dvc",
        ),
        (None, "", NOTE, "`dvc status` takes more than 120 seconds"),
    ],
)
def test_dvc_may_say_anything_but_fails_nothing(
    tree: Path, monkeypatch: pytest.MonkeyPatch, status: int | None, said: str, level: str, found: str
) -> None:
    def run(command: list[str], **options: Any) -> SimpleNamespace:
        if status is None:
            raise subprocess.TimeoutExpired(command, options["timeout"])
        return SimpleNamespace(returncode=status, stderr=said)

    assert [finding.level for finding in machine.check_dvc()] == [NOTE], "no checkout"
    (tree / ".dvc").mkdir()
    monkeypatch.setattr(subprocess, "run", run)
    (finding,) = machine.check_dvc()
    assert finding.level == level
    assert finding.found.startswith(found)
    (tree / ".git").mkdir()
    if status == 255:
        (finding,) = machine.check_dvc()
        assert finding.found.startswith("`dvc status` fails: ERROR: dvc.yaml is broken; see ")


_STALE = {
    "ALL_PROXY": ("socks5://127.0.0.1:1080", "ALL_PROXY names a SOCKS proxy"),
    "HTTPS_PROXY": ("ftp://127.0.0.1:1080", "HTTPS_PROXY names a proxy of the kind 'ftp'"),
    "SSL_CERT_FILE": ("/absent.pem", "SSL_CERT_FILE names /absent.pem, which does not exist"),
    "REQUESTS_CA_BUNDLE": ("/absent.pem", "REQUESTS_CA_BUNDLE names /absent.pem, which does not exist"),
    "HF_TOKEN": ("hf_ä", "HF_TOKEN holds spaces or letters outside ASCII"),
}


@pytest.mark.parametrize("variable", _STALE)
def test_a_variable_that_can_not_work_is_named_and_missed_only_where_something_is_fetched(
    tree: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    value, found = _STALE[variable]
    monkeypatch.setenv(variable, value)
    monkeypatch.setattr(environment, "find_spec", lambda name: None)
    for study, level in (("mini", NOTE), ("real-sample", MISSING)):
        findings = _of(_found(study), "environment")
        assert {finding.level for finding in findings} == {level}
        assert all(finding.found.startswith(found) for finding in findings)


def test_a_token_that_the_hub_refuses_is_missed_before_a_model_is_fetched(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
        monkeypatch.delenv(name)
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "real-sample"}
    study = parameters.read_study(config)
    with hub_of(tree / "resources/mini-llava") as hub:
        hub.refused = "hf_expired"
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        for token, found in (("hf_expired", [MISSING]), ("hf_good", [])):
            monkeypatch.setenv("HF_TOKEN", token)
            assert [finding.level for finding in study_inputs.check_environment(config, study, offline=False)] == found
        monkeypatch.setenv("HF_TOKEN", "hf_expired")
        (finding,) = study_inputs.check_environment(config, study, offline=False)
        assert finding.found.startswith("The hub refuses the token in HF_TOKEN")
        assert not list(study_inputs.check_environment(config, study, offline=True))


def test_a_folder_with_braces_is_missed(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree / "a {b}").mkdir()
    monkeypatch.chdir(tree / "a {b}")
    (finding,) = machine.check_folder()
    assert finding.level == MISSING
    assert finding.found.endswith(f"rename {tree / 'a {b}'}")


def test_results_that_would_share_a_file_are_said(tree: Path) -> None:
    config = yaml.safe_load(Path("params.yaml").read_text()) | {"study": "mini"}
    models = config["models"]
    models |= {"m": models["mini-llava"], "published-m": models["mini-llava"]}
    config["studies"]["mini"]["models"] = ["m", "published-m"]
    (finding,) = _of(list(examine(lambda: config, offline=True)), "params.yaml")
    assert finding.level == MISSING
    assert "two results would be the same file" in finding.found
