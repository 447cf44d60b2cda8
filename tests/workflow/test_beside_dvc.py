"""DVC where no environment is active, or no git: stages find their programs, and the zip its settings."""

import os
import shutil
import subprocess
import sys
import tarfile
from io import BytesIO
from pathlib import Path

import pytest

SHELL = "/bin/sh"


def _program(path: Path, script: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!{SHELL}\n{script}\n")
    path.chmod(0o755)


@pytest.fixture
def environment(tmp_path: Path, repo: Path) -> Path:
    """An environment, in a folder with a space, whose programs say what they are started with."""
    folder = tmp_path / "an environment/bin"
    stage = f'"{repo}/workflow/scripts/beside_dvc.py" data'
    _program(folder / "dvc", f"{SHELL} -c 'python3 {stage}; exit $?'; exit $?")
    _program(folder / "snakemake", "")
    _program(folder / "python3", 'echo "started: $0 $*"')
    # The system's Python, which has no package.
    (tmp_path / "system").mkdir()
    (tmp_path / "system/python3").symlink_to(Path(sys.executable).resolve())
    return folder


def _run(command: list[str | Path], *path: str | Path) -> subprocess.CompletedProcess[str]:
    folders = [*map(str, path), *(str(Path(found).parent) for found in (shutil.which("ps"),) if found)]
    return subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": os.pathsep.join(folders)}, cwd="/"
    )


@pytest.mark.skipif(shutil.which("ps") is None, reason="the processes of this machine cannot be listed")
def test_a_stage_runs_in_the_environment_of_the_running_dvc(environment: Path, tmp_path: Path, repo: Path) -> None:
    stage = repo / "workflow/scripts/stage.py"
    ran = _run([SHELL, environment / "dvc"], tmp_path / "system")
    assert (ran.stdout, ran.stderr) == (f"started: {environment / 'python3'} {stage} data\n", "")
    # Another environment that is active is not taken in its place.
    _program(tmp_path / "other/snakemake", "")
    _program(tmp_path / "other/python3", "exec " + str(tmp_path / "system/python3") + ' "$@"')
    ran = _run([SHELL, environment / "dvc"], tmp_path / "other", tmp_path / "system")
    assert ran.stdout == f"started: {environment / 'python3'} {stage} data\n"


def test_an_active_environment_is_taken_where_dvc_lies_elsewhere(environment: Path, tmp_path: Path, repo: Path) -> None:
    (environment / "dvc").rename(tmp_path / "dvc")
    ran = _run([SHELL, tmp_path / "dvc"], tmp_path / "system", environment)
    assert ran.stdout.startswith(f"started: {environment / 'python3'} ")


def test_where_snakemake_is_nowhere_one_sentence_says_so(environment: Path, tmp_path: Path) -> None:
    (environment / "snakemake").unlink()
    ran = _run([SHELL, environment / "dvc"], tmp_path / "system")
    assert ran.returncode == 1
    assert ran.stderr.startswith("snakemake is neither beside dvc nor on the PATH: activate the environment")
    assert ran.stderr.count("\n") == 1


def test_every_stage_of_dvc_is_started_so(repo: Path) -> None:
    commands = [line.split()[1:] for line in (repo / "dvc.yaml").read_text().splitlines() if "cmd:" in line]
    assert len(commands) == 9
    assert {tuple(command[:2]) for command in commands} == {("python3", "workflow/scripts/beside_dvc.py")}


def test_a_zip_of_the_repository_tells_dvc_that_it_holds_no_git(repo: Path, tmp_path: Path) -> None:
    checkout = tmp_path / "checkout"
    for name in (".dvc/config", ".gitattributes"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(repo / name, checkout / name)
    who = {f"GIT_{who}_{what}": "test@localhost" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    zipped = b""
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "state"], ["archive", "HEAD"]):
        zipped = subprocess.run(
            ["git", *command], cwd=checkout, check=True, capture_output=True, env=os.environ | who
        ).stdout
    with tarfile.open(fileobj=BytesIO(zipped)) as archive:
        archive.extractall(tmp_path / "unpacked", filter="data")
    set_ = {
        folder: [
            line.strip() for line in (tmp_path / folder / ".dvc/config").read_text().splitlines() if "no_scm" in line
        ]
        for folder in ("checkout", "unpacked")
    }
    assert set_["unpacked"] == ["no_scm = true"]
    assert all(line.startswith("#") for line in set_["checkout"])
    dvc = Path(sys.executable).with_name("dvc")
    ran = subprocess.run(
        [dvc, "status"], cwd=tmp_path / "unpacked", capture_output=True, text=True, check=False,
        env=os.environ | {"GIT_CEILING_DIRECTORIES": str(tmp_path), "DVC_SITE_CACHE_DIR": str(tmp_path / "site")},
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
