"""The tiny models of `geometries`, built once for all tests of the engine that a process runs."""

from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import pytest

from geometries import GEOMETRIES, Loaded


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("engine")


@pytest.fixture(scope="session")
def models(folder: Path) -> Callable[[str], Loaded]:
    return cache(partial(Loaded, folder))


@pytest.fixture(scope="module", params=GEOMETRIES)
def loaded(request: pytest.FixtureRequest, models: Callable[[str], Loaded]) -> Loaded:
    return models(request.param)


@pytest.fixture(scope="module")
def grouped(models: Callable[[str], Loaded]) -> Loaded:
    return models("grouped")


@pytest.fixture(scope="module")
def full(models: Callable[[str], Loaded]) -> Loaded:
    return models("full")
