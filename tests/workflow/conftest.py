"""Fixtures that several files of tests of the workflow share."""

from pathlib import Path

import pytest

from finished_study import Finished, finish


@pytest.fixture(scope="session")
def finished_ci(repo: Path, tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Finished:
    """The study `ci`, finished; the processes of a test run share it."""
    own = tmp_path_factory.getbasetemp()
    return finish(repo, (own if worker_id == "master" else own.parent) / "finished-ci")
