"""Faults of the machine while a job runs: one sentence, a non-zero exit, and nothing lost."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from crossflow.cli.main import main
from crossflow.core.columns import SKIPPED
from crossflow.core.errors import CrossflowError
from crossflow.core.tables import ANSWERS, read_csv, read_parquet, write_parquet
from crossflow.data.chosen import write_chosen
from crossflow.engine import planning
from crossflow.experiments import answers
from tiny import draw_world, load_tiny

DEVICE = (
    "The device is out of memory; finished work is kept: stop other programs on it, choose a dtype of half the size, or "
    "use a device with more memory, and run again."
)
MACHINE = "The machine is out of memory; finished work is kept: run again on a machine with more."


def _said(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert main(command) == 1
    return capsys.readouterr().err.strip().splitlines()[-1].removeprefix(f"crossflow {command[0]}: ")


def _hashes(folder: Path) -> list[str]:
    """The command of a job that hashes one file."""
    (folder / "a").touch()
    return ["hashes", "--files", str(folder / "a"), "--output", str(folder / "b")]


def _no_cpu_memory() -> None:
    torch.empty(2**60, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 MiB.\nGPU 0 has"), DEVICE),
        (
            torch.AcceleratorError("CUDA error: unspecified launch failure\nCUDA kernel errors might be"),
            "The device failed (CUDA error: unspecified launch failure); finished work is kept: run again.",
        ),
        (MemoryError(), MACHINE),
        (None, MACHINE),
    ],
)
def test_a_fault_of_the_machine_is_one_sentence(
    error: BaseException | None,
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*arguments: object) -> None:
        if error is None:
            _no_cpu_memory()
        else:
            raise error

    monkeypatch.setattr("hashlib.file_digest", fail)
    assert _said(_hashes(tmp_path), capsys) == sentence


def test_a_package_that_is_not_installed_is_named(repo: Path) -> None:
    hidden = "import sys; sys.modules['torch'] = None; from crossflow.cli.main import main; sys.exit(main(['doctor']))"
    ran = subprocess.run(
        [sys.executable, "-c", hidden], cwd=repo, env={"PYTHONPATH": "workflow"}, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert (ran.returncode, ran.stdout) == (1, "")
    assert ran.stderr == "crossflow doctor: The package torch is not installed: run `make environment`.\n"


def test_an_error_of_the_program_is_no_fault_of_the_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*arguments: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("hashlib.file_digest", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        main(_hashes(tmp_path))


def test_a_full_device_keeps_what_is_finished_and_the_next_run_ends_with_the_same_bytes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    load_tiny(tmp_path / "model", layers=2, width=32)
    write_chosen(tmp_path / "q.csv", draw_world(tmp_path / "world", 3)["ChooseAttr"][:3])
    command = ["answers", "--questions", "q.csv", "--root", "world", "--device", "cpu"]
    command += ["--model-path", "model", "--prompt", "vicuna-v1", "--max-new-tokens", "2"]
    right, calls = answers._entries, []

    def third_is_too_much(*arguments: object) -> object:
        calls.append(arguments)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return right(*arguments)

    # Questions that run together are finished together, and their rounding depends on one another.
    monkeypatch.setattr(planning, "AT_ONCE", 1)
    with monkeypatch.context() as patch:
        patch.setattr(answers, "_entries", third_is_too_much)
        assert _said([*command, "--output", "a"], capsys) == DEVICE
    assert not (tmp_path / "a/q.parquet").exists()
    _, *kept = (tmp_path / "a/q.journal.jsonl").read_text().splitlines()
    assert len([json.loads(line) for line in kept]) == 2
    assert main([*command, "--output", "a"]) == 0
    assert main([*command, "--output", "whole"]) == 0
    assert (tmp_path / "a/q.parquet").read_bytes() == (tmp_path / "whole/q.parquet").read_bytes()


@pytest.mark.parametrize("content", [b"\xff\xfequestion_id", b"question_id,image_id,reason\n\xff", b"a" * 200_000])
def test_a_table_that_is_no_text_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(CrossflowError, match=r"t.csv cannot be read as a CSV file in UTF-8 \(.*\)\.$"):
        read_csv(tmp_path / "t.csv", SKIPPED)


def _complaint(path: Path) -> str:
    try:
        read_parquet(path, ANSWERS)
    except CrossflowError as error:
        return str(error)
    return ""


def test_a_damaged_table_of_answers_is_named(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    write_parquet(path, ANSWERS, [], {"layers": 8})
    whole = path.read_bytes()
    complaints = []
    for at in range(len(whole) - 8):
        path.write_bytes(whole[:at] + bytes(8) + whole[at + 8 :])
        complaints.append(_complaint(path))
    told = [complaint for complaint in complaints if complaint]
    assert len(told) > len(whole) // 4
    assert all(complaint.startswith(str(path)) and "\n" not in complaint for complaint in told)
