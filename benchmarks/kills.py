"""A campaign of kills: a study is killed at random moments until it is done, and its tables must not show it.

    PYTHONPATH=workflow .venv/bin/python benchmarks/kills.py --kills 100

The tree is cloned into a temporary folder and the study is run there once without interruption. Then it is run again
and again from nothing: at a random moment snakemake with all its jobs is killed (SIGKILL or SIGTERM), or one job alone
(SIGKILL); it is started again until it ends, and every table is compared byte by byte. The run is complete when so many
kills have hit something that was running.
"""

import argparse
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import psutil
from tqdm import tqdm

REPO = Path(__file__).resolve().parent.parent
TABLES = (
    "questions/*.csv",
    "answers/*/*.*",
    "knockout/*/*/*.parquet",
    "lens/*/*.parquet",
    "heads/*/*.parquet",
    "summary/*.csv",
)
ALL_OF_IT, KINDLY, ONE_JOB = "snakemake and its jobs, SIGKILL", "snakemake and its jobs, SIGTERM", "one job, SIGKILL"


def start(tree: Path, study: str) -> subprocess.Popen[bytes]:
    """Start the study as a person would, in a process group of its own."""
    log = (tree / "kills.log").open("ab")
    command = ["snakemake", "--cores", "2", "--resources", "gpu=2", "--config", f"study={study}"]
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    return subprocess.Popen(command, cwd=tree, stdout=log, stderr=log, env=environment, start_new_session=True)


def unlock(tree: Path, study: str) -> None:
    """Remove the lock that a killed snakemake leaves."""
    command = [Path(sys.executable).parent / "snakemake", "--unlock", "--config", f"study={study}"]
    subprocess.run(command, cwd=tree, capture_output=True, check=True)


def is_job(process: psutil.Process) -> bool:
    """Whether a process is a verb of this project at work."""
    try:
        return {"-m", "crossflow"} <= set(process.cmdline())
    except psutil.Error:
        return False


def kill(process: subprocess.Popen[bytes], way: str) -> bool:
    """Kill what is running; whether there was something to kill."""
    if process.poll() is not None:
        return False
    if way == ONE_JOB:
        jobs = [child for child in psutil.Process(process.pid).children(recursive=True) if is_job(child)]
        if jobs:
            random.choice(jobs).kill()
            process.wait()
        return bool(jobs)
    everybody = [*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)]
    for member in everybody if way == ALL_OF_IT else everybody[-1:]:
        try:
            member.send_signal(signal.SIGKILL if way == ALL_OF_IT else signal.SIGTERM)
        except psutil.NoSuchProcess:
            continue
    process.wait()
    psutil.wait_procs(everybody, timeout=60)
    return True


def hashes(results: Path) -> dict[str, str]:
    """Table -> SHA-256."""
    return {
        path.relative_to(results).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for pattern in TABLES
        for path in sorted(results.glob(pattern))
    }


def main() -> None:
    """Run the campaign."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--study", default="mini")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--between", type=float, nargs=2, default=(3, 20), metavar="SECONDS", help="of work")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    random.seed(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "clone", "--quiet", REPO, tree], check=True)
        results = tree / "results" / arguments.study
        if start(tree, arguments.study).wait():
            raise SystemExit((tree / "kills.log").read_text()[-3000:])
        expected = hashes(results)
        print(f"{len(expected)} tables of an uninterrupted run")
        done: Counter[str] = Counter()
        runs = identical = 0
        with tqdm(total=arguments.kills, unit="kill") as bar:
            while done.total() < arguments.kills:
                for made in (results, tree / "data", tree / ".snakemake"):
                    shutil.rmtree(made, ignore_errors=True)
                failures = 0
                while True:
                    process = start(tree, arguments.study)
                    if done.total() < arguments.kills:
                        time.sleep(random.uniform(*arguments.between))
                        way = random.choice((ALL_OF_IT, KINDLY, ONE_JOB))
                        if kill(process, way):
                            done[way] += 1
                            bar.update()
                            unlock(tree, arguments.study)
                            continue
                    if process.wait() == 0:
                        break
                    failures += 1
                    unlock(tree, arguments.study)
                    if failures == 3:
                        raise SystemExit("The study does not end:\n" + (tree / "kills.log").read_text()[-3000:])
                runs += 1
                found = hashes(results)
                identical += found == expected
                for table in sorted(found.keys() | expected.keys()):
                    if found.get(table) != expected.get(table):
                        print(f"run {runs}: {table} differs")
    for way, number in done.items():
        print(f"{number:4} x {way}")
    print(f"{done.total()} kills in {runs} runs, {identical} of {runs} with {len(expected)} identical tables")
    raise SystemExit(identical != runs)


if __name__ == "__main__":
    main()
