"""Fixtures that every test file shares."""

import os
from pathlib import Path

# The hook below gives every module that is imported through the package a bytecode cache of its own: what is large is
# imported before it.
import pandas as pd  # noqa: F401
import pytest
import torch
import torch._dynamo
import transformers.modeling_utils  # noqa: F401
from jaxtyping import install_import_hook

# Array shapes and types in signatures are checked while tests run.
install_import_hook("crossflow", "beartype.beartype")

REPO = Path(__file__).resolve().parent.parent

# The models of the tests are tiny: a second thread only waits for the first.
torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that run snakemake come first: side by side with others, the longest must not be the last to begin."""
    long = {item.path for item in items if item.get_closest_marker("workflow") or item.get_closest_marker("round_trip")}
    items.sort(key=lambda item: item.path not in long)


@pytest.fixture(scope="session")
def repo() -> Path:
    """The root of the checkout."""
    return REPO


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real GQA data and the published program's numbers, which is not part of the project."""
    folder = Path(os.environ.get("CROSSFLOW_SHARED", REPO.parent / "shared"))
    if not (folder / "reference").is_dir():
        pytest.skip(f"{folder} is absent: set CROSSFLOW_SHARED to the folder with gqa/ and reference/")
    return folder
