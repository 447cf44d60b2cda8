"""What snakemake's console shows of a study: a line for each finished job, and why a job failed; its log keeps the rest."""

import io
import logging
import os
import pty
import select
import termios
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter
from snakemake_interface_logger_plugins.common import LogEvent

from crossflow.core.progress import TERMINAL, progress_of
from crossflow.study import console

Say = Callable[..., None]


class Terminal(io.StringIO):
    """What a person sees."""

    def isatty(self) -> bool:
        return True


def _job(number: int, message: str | None, log: Path, **more: Any) -> dict[str, Any]:
    facts = {"rule_msg": message, "rule_name": "knockout", "log": [str(log)], "shellcmd": "python", "local": True}
    files = {"input": ["in.csv"], "output": ["out.csv"], "benchmark": None, "reason": "missing", "wildcards": {}}
    rest = {"priority": 0, "threads": 1, "resources": {}, "is_checkpoint": False, "indent": False}
    return {"event": LogEvent.JOB_INFO, "jobid": number, **facts, **files, **rest, **more}


def _logger(stream: io.StringIO, file: Path) -> logging.Logger:
    """A logger with the two handlers that snakemake sets up."""
    logger = logging.Logger("snakemake.logging", logging.INFO)
    kept = logging.FileHandler(file)
    for handler, name in (
        (ColorizingTextHandler(nocolor=True, stream=stream), console.CONSOLE),
        (kept, console.LOG_FILE),
    ):
        handler.name = name
        handler.setFormatter(DefaultFormatter())
        handler.addFilter(DefaultFilter(None, False, False, False, False))
        logger.addHandler(handler)
    return logger


@pytest.fixture(params=[io.StringIO, Terminal])
def screen(request: pytest.FixtureRequest) -> io.StringIO:
    stream: io.StringIO = request.param()
    return stream


@pytest.fixture
def say(screen: io.StringIO, tmp_path: Path) -> Iterator[Say]:
    """Log what snakemake logs, through handlers like its own."""
    logger = _logger(screen, tmp_path / "run.log")
    console.tidy(logger, "ci", "logs/ci")

    def log(message: str | None, level: int = logging.INFO, at: float = 0.0, **facts: Any) -> None:
        record = logger.makeRecord(logger.name, level, "", 0, message, (), None, extra=facts)
        record.created = float(at)
        logger.handle(record)

    yield log
    for handler in logger.handlers:
        handler.close()


def _shown(screen: io.StringIO) -> list[str]:
    return screen.getvalue().replace("\r\033[K", "").splitlines()


def test_each_finished_job_with_a_message_is_one_line_with_progress_and_times(
    say: Say, screen: io.StringIO, tmp_path: Path
) -> None:
    say("Building DAG of jobs...")
    say("Job stats", event=LogEvent.RUN_INFO, stats={"knockout": 2, "total": 3}, at=100)
    say("Select jobs to execute...")
    say("", at=101, **_job(1, "knockouts: mini-llava", tmp_path / "1.log"))
    say("", at=101, **_job(2, None, tmp_path / "2.log"))
    say("Finished jobid: 1", event=LogEvent.JOB_FINISHED, job_id=1, at=110)
    say(None, event=LogEvent.PROGRESS, done=1, total=3)
    say("Finished jobid: 2", event=LogEvent.JOB_FINISHED, job_id=2, at=120)
    say("", at=121, **_job(0, "study ci", tmp_path / "0.log"))
    say("Finished jobid: 0", event=LogEvent.JOB_FINISHED, job_id=0, at=3821)
    assert _shown(screen) == [
        "Study ci: 3 jobs. What a job prints is kept in logs/ci.",
        "  done  elapsed  job took",
        "1 of 3     0:10      0:09  knockouts: mini-llava",
        "3 of 3  1:02:01   1:01:40  study ci",
    ]
    assert ("\033" in screen.getvalue()) == screen.isatty()


def test_the_log_file_of_the_run_keeps_what_the_console_leaves_out(
    say: Say, screen: io.StringIO, tmp_path: Path
) -> None:
    say("Building DAG of jobs...")
    say("", **_job(1, "knockouts: mini-llava", tmp_path / "1.log"))
    kept = (tmp_path / "run.log").read_text()
    assert "Building DAG of jobs..." in kept
    assert "rule knockout:" in kept
    assert "output: out.csv" in kept
    assert "reason: missing" in kept
    assert _shown(screen) == []


def test_what_is_not_known_here_is_shown(say: Say, screen: io.StringIO) -> None:
    say("Job 5 has been submitted with SLURM jobid 7")
    say("WorkflowError:\nno space left", logging.ERROR, event=LogEvent.ERROR, exception="WorkflowError")
    assert _shown(screen) == ["Job 5 has been submitted with SLURM jobid 7", "WorkflowError:", "no space left"]


@pytest.mark.parametrize(
    ("printed", "lines"),
    [
        ("WARNING x\ncrossflow knockout: A window of 16 layers does not fit.\n", ["crossflow knockout: A window of 16 layers does not fit."]),
        ("a bar: 1%\ra bar: 2%\nTraceback\nValueError: 3\n", ["a bar: 2%", "Traceback", "ValueError: 3"]),
        ("", []),
    ],
)  # fmt: skip
def test_a_failed_job_says_its_reason_or_the_end_of_its_log(
    say: Say, screen: io.StringIO, tmp_path: Path, printed: str, lines: list[str]
) -> None:
    log = tmp_path / "1.log"
    log.write_text(printed)
    say("Job stats", event=LogEvent.RUN_INFO, stats={"total": 3}, at=100)
    say("", at=101, **_job(1, "knockouts: mini-llava", log))
    say("RuleException:\nCalledProcessError in file x", logging.ERROR, event=LogEvent.ERROR, exception="RuleException")
    say(
        "",
        logging.ERROR,
        at=105,
        event=LogEvent.JOB_ERROR,
        jobid=1,
        rule_name="knockout",
        log=[str(log)],
        aux={"external_jobid": "7"},
    )
    empty = "" if printed else ", which is empty"
    assert _shown(screen)[2:] == [
        "FAILED     0:05      0:04  knockouts: mini-llava",
        *(f"  {line}" for line in lines),
        f"  Its log is {log}{empty}.",
        "  external_jobid: 7",
    ]


def test_a_warning_of_a_finished_job_is_shown_below_its_line(say: Say, screen: io.StringIO, tmp_path: Path) -> None:
    log = tmp_path / "1.log"
    log.write_text("INFO crossflow.a: b\nWARNING crossflow.core.journal: set aside\nWARNING other: c\n")
    say("", **_job(1, "answers: mini-llava", log))
    say("", event=LogEvent.JOB_FINISHED, job_id=1)
    assert _shown(screen)[1:] == ["  WARNING crossflow.core.journal: set aside"]


def test_verbose_leaves_the_console_as_snakemake_has_it(tmp_path: Path) -> None:
    screen = io.StringIO()
    logger = _logger(screen, tmp_path / "run.log")
    console.tidy(logger, "ci", "logs/ci", verbose=True)
    logger.info("", extra=_job(1, "knockouts: mini-llava", tmp_path / "1.log"))
    assert "rule knockout:" in screen.getvalue()
    for handler in logger.handlers:
        handler.close()


def test_a_bar_goes_to_standard_error_where_the_workflow_has_no_terminal(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (tmp_path / "pipe").open("w") as pipe:
        monkeypatch.setenv(TERMINAL, str(pipe.fileno()))
        with progress_of("answers", 2) as progress:
            progress.update(2)
    assert (tmp_path / "pipe").read_text() == ""
    assert "2/2" in capsys.readouterr().err


def test_a_bar_is_drawn_on_the_workflows_terminal_and_vanishes(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    monkeypatch.setenv(TERMINAL, str(theirs))
    with progress_of("answers", 2) as progress:
        progress.update(2)
    assert select.select([ours], [], [], 10)[0], "nothing was drawn"
    drawn = os.read(ours, 4096).decode()
    assert "answers:" in drawn
    assert not drawn.endswith("\n")
    assert drawn.rpartition("\r")[2].strip() == ""
    assert capsys.readouterr().err == ""
