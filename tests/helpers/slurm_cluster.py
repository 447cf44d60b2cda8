"""A real Slurm of one node on this machine: no systemd, no cgroups, no database, and /dev/null for a GPU."""

import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest

ETC = Path("/etc/slurm")
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol", "scancel")
# As many cores and as much memory as the profile's jobs ask for, whatever this machine has.
CONFIGURATION = """\
# Written by crossflow's tests.
ClusterName=crossflow
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
MinJobAge=3600
GresTypes=gpu
ReturnToService=2
StateSaveLocation={folder}/slurmctld
SlurmdSpoolDir={folder}/slurmd
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmdParameters=config_overrides
NodeName={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=192000 Gres=gpu:1 State=UNKNOWN
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


class Job(NamedTuple):
    """A job that has ended: its state, and when it began and ended, as text that sorts by time."""

    state: str
    start: str
    end: str


def eventually(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"not within {seconds:.0f} seconds: {what}"
        time.sleep(0.3)


class Cluster:
    """A running cluster."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.node = socket.gethostname().partition(".")[0]

    @staticmethod
    def ask(*command: str) -> str:
        """What a Slurm program says."""
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def jobs(self) -> list[tuple[str, str, str]]:
        """Id, state and comment (the rule) of each job that Slurm remembers."""
        lines = self.ask("squeue", "--noheader", "--states=all", "--format=%i|%T|%k").splitlines()
        return [tuple(line.split("|", 2)) for line in lines]  # type: ignore[misc]

    def of_rule(self, rule: str, state: str) -> list[str]:
        """Ids of the jobs of a rule that are in a state."""
        return [number for number, found, comment in self.jobs() if found == state and rule in comment]

    def node_state(self) -> str:
        """Such as IDLE, MIXED, or DRAINING."""
        return self.ask("sinfo", "--noheader", "--format=%T").strip().upper()

    def ended(self) -> dict[str, Job]:
        """Id -> what Slurm wrote of each job that ended."""
        found = {}
        for line in (self.folder / "jobs.txt").read_text().splitlines():
            fields = dict(re.findall(r"(\w+)=(\S*)", line))
            found[fields["JobId"]] = Job(fields["JobState"], fields["StartTime"], fields["EndTime"])
        return found


def _is_left_over() -> bool:
    """Whether the configuration is of tests that were killed: it is theirs, and no controller answers."""
    if not (ETC / "slurm.conf").read_text().startswith(CONFIGURATION.partition("\n")[0]):
        return False
    return subprocess.run(["scontrol", "ping"], capture_output=True, check=False).returncode != 0


def _start_munge() -> bool:
    """Start munge, unless it runs already. Returns whether it was started here."""
    if subprocess.run(["munge", "--no-input"], capture_output=True, check=False).returncode == 0:
        return False
    Path("/run/munge").mkdir(exist_ok=True)
    shutil.chown("/run/munge", "munge", "munge")
    subprocess.run(["runuser", "-u", "munge", "--", "munged"], check=True, capture_output=True)
    return True


def _start(folder: Path) -> None:
    for program in ("slurmctld", "slurmd"):
        (folder / program).mkdir()
        subprocess.run([program], check=True, capture_output=True)


def _stop(folder: Path, munge: bool) -> None:
    for program in ("slurmd", "slurmctld"):
        pid = folder / f"{program}.pid"
        if pid.exists():
            subprocess.run(["kill", pid.read_text().strip()], check=False)
    if munge:
        subprocess.run(["runuser", "-u", "munge", "--", "munged", "--stop"], capture_output=True, check=False)


@contextmanager
def slurm(folder: Path) -> Iterator[Cluster]:
    """Start Slurm, and stop it at the end; the test is skipped where that is not possible."""
    if lacking := [program for program in PROGRAMS if shutil.which(program) is None]:
        pytest.skip(f"Slurm is not installed ({', '.join(lacking)}): apt install slurm-wlm munge")
    if os.getuid() != 0:
        pytest.skip("only root can start Slurm")
    if (ETC / "slurm.conf").exists() and not _is_left_over():
        pytest.skip(f"{ETC} holds the configuration of another cluster")
    cluster = Cluster(folder)
    ETC.mkdir(exist_ok=True)
    # It must lie here: jobs lose the variable SLURM_CONF.
    written = {
        ETC / "slurm.conf": CONFIGURATION.format(host=cluster.node, folder=folder),
        ETC / "gres.conf": "Name=gpu File=/dev/null\n",
    }
    munge = False
    try:
        for path, content in written.items():
            path.write_text(content)
        try:
            munge = _start_munge()
            _start(folder)
        except (OSError, LookupError, subprocess.CalledProcessError) as error:
            pytest.skip(f"Slurm cannot be started here ({error})")
        eventually(lambda: cluster.node_state() == "IDLE", 30, "the node is idle")
        yield cluster
    finally:
        _stop(folder, munge)
        for path in written:
            path.unlink(missing_ok=True)
