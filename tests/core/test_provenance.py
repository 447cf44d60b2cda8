"""By what, when and where a result was made: recorded by the jobs, collected for a study."""

import json
from pathlib import Path
from typing import Any

import pytest

from crossflow.analysis.provenance import FACTS, JOBS
from crossflow.cli.main import main
from crossflow.core.tables import read_csv
from crossflow.study import results


def test_a_result_has_one_record_whatever_its_files() -> None:
    assert results.record_of("results/mini/questions/QueryAttr.rejections.csv") == results.record_of(
        "results/mini/questions/QueryAttr.csv"
    )
    assert results.record_of("results/mini/figures/heat-map.pdf") == "results/mini/provenance/figures/heat-map.json"


def test_a_verb_records_its_run_only_if_it_succeeds(tmp_path: Path) -> None:
    record = tmp_path / "deep" / "mini-world.json"
    options = ["--scenes", "1", "--root", str(tmp_path), "--provenance", str(record)]
    assert main(["mini-world", "--seed", "-1", *options]) == 1
    assert not record.exists()
    assert main(["mini-world", "--seed", "0", *options]) == 0
    written = json.loads(record.read_text())
    assert written["verb"] == "mini-world"
    assert written["options"] == ["--seed", "0", *options]
    assert written["packages"]["torch"]
    assert written["seconds"] >= 0
    assert len(written["commit"] or "0" * 40) == 40


def _record(folder: Path, name: str, **changes: Any) -> Path:
    content = {"started": "2026-01-01T00:00:00+00:00", "seconds": 1.5, "commit": "c", "packages": {"torch": "2.0"}}
    path = folder / "results" / "s" / "provenance" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content | changes))
    return path


def _collect(folder: Path, *jobs: Path) -> int:
    (folder / "data.zip").write_bytes(b"data")
    hashes = folder / "hashes.json"
    assert main(["hashes", "--files", str(folder / "data.zip"), "--output", str(hashes)]) == 0
    return main([
        "provenance", "--jobs", *map(str, jobs), "--parameters", '{"study": "s", "windows": [3, 5]}',
        "--hashes", str(hashes), "--output", str(folder / "all.json"),
        "--facts", str(folder / "facts.csv"), "--times", str(folder / "times.csv"),
    ])  # fmt: skip


def test_records_are_collected_with_every_version_that_took_part(tmp_path: Path) -> None:
    late = _record(tmp_path, "knockout/m/w3/C", started="2026-01-02T00:00:00+00:00", device="H200")
    early = _record(tmp_path, "answers/m/C", packages={"torch": "2.1"})
    assert _collect(tmp_path, late, early, tmp_path / "absent.json") == 0
    everything = json.loads((tmp_path / "all.json").read_text())
    assert everything["versions"] == {"torch": ["2.0", "2.1"]}
    assert everything["jobs"].keys() == {"knockout/m/w3/C", "answers/m/C"}
    facts = {row["what"]: row["value"] for row in read_csv(tmp_path / "facts.csv", FACTS)}
    assert facts["parameters.windows"] == "3, 5"
    assert facts["versions.torch"] == "2.0, 2.1"
    # sha256sum of b"data"
    assert facts[f"sha256.{tmp_path}/data.zip"] == "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    times = read_csv(tmp_path / "times.csv", JOBS)
    assert [(row["job"], row["device"]) for row in times] == [("answers/m/C", ""), ("knockout/m/w3/C", "H200")]


def test_a_broken_record_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    record = _record(tmp_path, "answers/m/C")
    record.write_text("{")
    assert _collect(tmp_path, record) == 1
    assert f"{record} is not valid JSON: delete it and run again." in capsys.readouterr().err
