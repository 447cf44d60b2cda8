"""Models from the hub: fetched by the hub's own client from a stand-in on this machine."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from crossflow.core.errors import CrossflowError
from crossflow.mini import random_model
from crossflow.models.folder import ModelSource, files_in, folder_of, hash_model, read_manifest
from hub_server import REPO, REVISION, Hub, hub_of


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    random_model.save(folder, 0)
    return folder


@pytest.fixture
def hub(model: Path, tmp_path: Path) -> Iterator[Hub]:
    """A repository with a model, and with files that nobody should fetch."""
    folder = shutil.copytree(model, tmp_path / "repository")
    (folder / "pytorch_model.bin").write_bytes(b"a pickle")
    (folder / "modeling_evil.py").write_text("raise SystemExit")
    (folder / "README.md").write_text("a card")
    with hub_of(folder) as hub:
        yield hub


Fetch = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def fetch(hub: Hub, tmp_path: Path, repo: Path) -> Fetch:
    """Run the verb in a process of its own: the hub's client reads its settings at import."""

    def run(repository: str = REPO, revision: str = REVISION, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                sys.executable, "-m", "crossflow", "fetch-model", "--repo", repository, "--revision",
                revision, "--output", "manifest.json",
            ],
            cwd=tmp_path, capture_output=True, text=True, check=False,
            env=os.environ | {
                "PYTHONPATH": str(repo / "workflow"), "HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"),
                "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_ETAG_TIMEOUT": "2",
            } | environment,
        )  # fmt: skip

    return run


def test_a_model_is_fetched_once_and_its_manifest_lists_names_sizes_and_hashes(
    fetch: Fetch, hub: Hub, model: Path, tmp_path: Path
) -> None:
    ran = fetch()
    assert ran.returncode == 0, ran.stderr
    assert sorted({name for name, _ in hub.asked}) == [path.name for path in files_in(model)]
    manifest = read_manifest(tmp_path / "manifest.json")
    assert (manifest.repo, manifest.revision) == (REPO, REVISION)
    assert {name: tuple(file) for name, file in manifest.files.items()} == {
        path.name: (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files_in(model)
    }
    hub.asked.clear()
    (tmp_path / "manifest.json").unlink()
    assert fetch().returncode == 0
    assert hub.asked == []


def test_a_fetched_model_and_a_folder_with_the_same_files_have_the_same_hash(
    fetch: Fetch, model: Path, tmp_path: Path
) -> None:
    fetch()
    fetched = ModelSource("vicuna-v1", model_manifest=tmp_path / "manifest.json")
    assert fetched.sha256 == ModelSource("vicuna-v1", model_path=model).sha256


def test_the_hash_of_a_model_follows_names_and_contents_and_no_order() -> None:
    assert hash_model({"a": "1", "b": "2"}) == hash_model({"b": "2", "a": "1"})
    assert len({hash_model(files) for files in ({"a": "1"}, {"a": "2"}, {"b": "1"}, {})}) == 4


def test_weights_that_break_off_are_taken_up(fetch: Fetch, hub: Hub, tmp_path: Path) -> None:
    # The client keeps whole pieces of 10 MB.
    (hub.folder / "model.safetensors").write_bytes(os.urandom(50_000_000))
    hub.break_off = {"model.safetensors"}
    ran = fetch()
    again = fetch() if ran.returncode else ran
    assert again.returncode == 0, again.stderr
    starts = [start for name, start in hub.asked if name == "model.safetensors"]
    assert len(starts) == 2
    assert starts[0] == 0 < starts[1]


def test_without_a_network_the_cache_is_enough(fetch: Fetch, hub: Hub, tmp_path: Path) -> None:
    fetch()
    first = (tmp_path / "manifest.json").read_bytes()
    for environment in ({"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}):
        (tmp_path / "manifest.json").unlink()
        ran = fetch(**environment)
        assert ran.returncode == 0, ran.stderr
        assert (tmp_path / "manifest.json").read_bytes() == first


@pytest.mark.parametrize("environment", [{"HF_HUB_OFFLINE": "1"}, {"HF_ENDPOINT": "http://127.0.0.1:9"}])
def test_without_network_and_cache_it_is_one_sentence(fetch: Fetch, environment: dict[str, str]) -> None:
    ran = fetch(**environment)
    assert ran.returncode == 1
    assert f"{REPO} at {REVISION} is not in" in ran.stderr
    assert "run once with network access" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_licence_that_must_be_accepted_is_said_before_anything_is_fetched(fetch: Fetch, hub: Hub) -> None:
    hub.gated = True
    ran = fetch()
    assert ran.returncode == 1
    assert f"accept its licence: do so at https://huggingface.co/{REPO}" in ran.stderr
    assert "Traceback" not in ran.stderr
    assert hub.asked == []


def test_an_unknown_repository_and_an_unknown_revision_are_one_sentence_each(fetch: Fetch) -> None:
    ran = fetch("nobody/nothing")
    assert ran.returncode == 1
    assert "nobody/nothing is not on the hub" in ran.stderr
    ran = fetch(revision="f" * 40)
    assert ran.returncode == 1
    assert f"{REPO} has no revision {'f' * 40}" in ran.stderr


def test_too_small_a_disk_is_said_before_anything_is_fetched(fetch: Fetch, hub: Hub) -> None:
    hub.sizes = {"model.safetensors": 10**15}
    ran = fetch()
    assert ran.returncode == 1
    assert f"{REPO} needs 1000000.0 GB, but the disk of" in ran.stderr
    assert "nothing was fetched" in ran.stderr
    assert hub.asked == []


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_damaged_file_in_the_cache_is_named(fetch: Fetch, tmp_path: Path, name: str) -> None:
    fetch()
    (path,) = (tmp_path / "hf").rglob(f"snapshots/*/{name}")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    ran = fetch()
    assert ran.returncode == 1
    assert f"{name} differs from the hub's file: delete" in ran.stderr


def test_a_repository_without_safetensors_is_refused(fetch: Fetch, hub: Hub) -> None:
    (hub.folder / "model.safetensors").unlink()
    ran = fetch()
    assert ran.returncode == 1
    assert f"{REPO} has no safetensors" in ran.stderr


def test_a_token_that_the_hub_refuses_is_named_and_not_the_repository(fetch: Fetch, hub: Hub) -> None:
    hub.refused = "hf_expired"
    ran = fetch(HF_TOKEN="hf_expired")
    assert ran.returncode == 1
    said = ran.stderr.strip().splitlines()[-1]
    assert said.startswith("crossflow fetch-model: The hub refuses the token in HF_TOKEN, which has expired")
    assert "not on the hub" not in said
    assert hub.asked == []


def test_a_model_that_left_the_cache_is_named(tmp_path: Path) -> None:
    manifest = {"repo": REPO, "revision": REVISION, "files": {"config.json": {"bytes": 1, "sha256": "0" * 64}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        CrossflowError, match="config.json of somebody/a-model-hf is missing from .*--forcerun fetch_model"
    ):
        folder_of(read_manifest(tmp_path / "manifest.json"))
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(CrossflowError, match="is not a valid manifest of a fetched model"):
        read_manifest(tmp_path / "manifest.json")
