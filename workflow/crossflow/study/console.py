"""What snakemake prints while it runs a study: one line per finished job, and why a job failed.

The console gets another filter and formatter; the run's log file (.snakemake/log) keeps every detail. The logger plugin
`rich` was tried and left aside: in a file or a pipe it shows no job, and on a terminal it draws a panel over the jobs'
progress bars.
"""

import copy
import logging
from collections import deque
from pathlib import Path

CONSOLE = "DefaultStreamHandler"
LOG_FILE = "DefaultLogFileHandler"
"""The names of snakemake's handlers; one that a logger plugin replaces is left as it is."""

_DROPPED_EVENTS = frozenset({"workflow_started", "job_started", "resources_info", "progress"})
_DROPPED_LINES = (
    "Assuming unrestricted shared filesystem",
    "Building DAG of jobs",
    "Using shell",
    "Singularity containers: ignored",
    "Select jobs to execute",
    "Elapsed time",
    # What failed is printed as soon as it does.
    "Exiting because a job execution failed",
)
_LAST_LINES = 15


def tidy(logger: logging.Logger, study: str, logs: str, verbose: bool = False) -> None:
    """Let snakemake's console show one line for each job, and its log file the details of every job.

    Args:
        logger: Snakemake's logger.
        study: The study's name.
        logs: Folder of the jobs' own logs.
        verbose: Let the console show the details, too.
    """
    for handler in logger.handlers:
        formatter = handler.formatter or logging.Formatter()
        if handler.name == LOG_FILE or (handler.name == CONSOLE and verbose):
            handler.setFormatter(Detailed(formatter))
        elif handler.name == CONSOLE:
            stream = getattr(handler, "stream", None)
            console = Console(formatter, study, logs, terminal=stream is not None and stream.isatty())
            handler.setFormatter(console)
            handler.addFilter(console.shows)


def _event(record: logging.LogRecord) -> str:
    return str(getattr(getattr(record, "event", None), "value", ""))


def clock(seconds: float) -> str:
    """Seconds as m:ss, or h:mm:ss from an hour on."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Detailed(logging.Formatter):
    """Snakemake's own form, with the files of a job even where its rule has a message."""

    def __init__(self, default: logging.Formatter) -> None:
        super().__init__()
        self.default = default

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record."""
        if _event(record) == "job_info":
            record = copy.copy(record)
            record.rule_msg = None
        return self.default.format(record)


class Console(logging.Formatter):
    """One line for each finished job whose rule has a message; other jobs are only counted.

    Args:
        default: Writes everything that has no form here.
        study: The study's name.
        logs: Folder of the jobs' own logs.
        terminal: Whether jobs may have drawn a progress bar where the next line begins.
    """

    def __init__(self, default: logging.Formatter, study: str, logs: str, terminal: bool) -> None:
        super().__init__()
        self.default = default
        self.study = study
        self.logs = logs
        self.terminal = terminal
        self.started: float | None = None
        self.total = self.done = 0
        self.running: dict[int, logging.LogRecord] = {}

    def shows(self, record: logging.LogRecord) -> bool:
        """Whether the console shows a record; unknown records are shown. Started jobs are noted."""
        event = _event(record)
        if event == "job_info":
            self.running[getattr(record, "jobid", -1)] = record
            return False
        if event == "error":
            # That a command failed; which job it was and why follows as `job_error`.
            return not str(record.msg).startswith("RuleException:\nCalledProcessError")
        return event not in _DROPPED_EVENTS and not str(record.msg).startswith(_DROPPED_LINES)

    def format(self, record: logging.LogRecord) -> str:
        """The text of a record, empty if there is nothing to show."""
        forms = {
            "run_info": self._run,
            "job_finished": self._finished,
            "job_error": self._failed,
        }
        form = forms.get(_event(record), self.default.format)
        text = form(record)
        # "\r" and "erase to the end of the line" remove a bar.
        return f"\r\033[K{text}" if text and self.terminal else text

    def _run(self, record: logging.LogRecord) -> str:
        self.started = record.created
        self.total = getattr(record, "stats", {}).get("total", 0)
        width = len(f"{self.total} of {self.total}")
        jobs = "1 job" if self.total == 1 else f"{self.total} jobs"
        return (
            f"Study {self.study}: {jobs}. What a job prints is kept in {self.logs}.\n"
            f"{'done':>{width}}  elapsed  job took"
        )

    def _line(self, record: logging.LogRecord, job: logging.LogRecord | None, progress: str, what: str) -> str:
        elapsed = clock(record.created - (self.started or record.created))
        took = clock(record.created - (job or record).created)
        width = len(f"{self.total} of {self.total}")
        return f"{progress:>{width}}  {elapsed:>7}  {took:>8}  {what}"

    def _finished(self, record: logging.LogRecord) -> str:
        self.done += 1
        job = self.running.pop(getattr(record, "job_id", -1), None)
        message = getattr(job, "rule_msg", None)
        if not message and self.done < self.total:
            return ""
        lines = [self._line(record, job, f"{self.done} of {self.total}", message or f"study {self.study}")]
        for log in getattr(job, "log", ()):
            lines += [f"  {line}" for line in _lines_of(Path(log)) if line.startswith("WARNING crossflow")]
        return "\n".join(lines)

    def _failed(self, record: logging.LogRecord) -> str:
        job = self.running.pop(getattr(record, "jobid", -1), None)
        rule = getattr(record, "rule_name", "?")
        lines = [self._line(record, job, "FAILED", getattr(job, "rule_msg", None) or f"rule {rule}")]
        for log in map(Path, getattr(record, "log", ())):
            said = deque(_lines_of(log), _LAST_LINES)
            # A verb's last line is one sentence with the reason; any other command needs the lines before it.
            if said and said[-1].startswith("crossflow "):
                said = deque(said, 1)
            lines += [*(f"  {line}" for line in said), f"  Its log is {log}{'' if said else ', which is empty'}."]
        if not getattr(record, "log", ()):
            lines.append(f"  {getattr(record, 'shellcmd', '')}")
        lines += [f"  {name}: {value}" for name, value in (getattr(record, "aux", None) or {}).items()]
        return "\n".join(lines)


def _lines_of(log: Path) -> list[str]:
    """The lines of a log; of a progress bar, only its last state."""
    try:
        # Read as bytes: in text mode, a line would end wherever a bar overwrites itself.
        text = log.read_bytes().decode("utf-8", errors="replace")
    except OSError:
        return []
    return [line.rpartition("\r")[2] for line in text.split("\n") if line.strip()]
