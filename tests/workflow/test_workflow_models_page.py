"""Every command of docs/howto/model.md runs, with a tiny random Qwen2.5-VL in place of the model on the hub."""

import re
from pathlib import Path

import pytest
import yaml

from copied import Copy
from hub_server import hub_of
from tiny_families import FAMILIES, write

pytestmark = [pytest.mark.workflow, pytest.mark.slow]


def _blocks(page: str, language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    return [text for kind, text in fenced if kind == language]


def _without_rounding(line: str) -> str:
    return re.sub(r"at most \d\.\de-\d\d", "at most X", line)


def test_every_command_of_the_page_runs(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (repo / "docs/howto/model.md").read_text()
    (overlay,) = _blocks(page, "yaml")
    commands = [line for block in _blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    assert len(commands) == 7
    write(tmp_path / "model", FAMILIES["qwen2_5_vl"])
    copy = Copy(repo, tmp_path / "tree")
    (copy.root / "mine.yaml").write_text(overlay)
    entry = yaml.safe_load(overlay)["models"]["qwen-here"]
    with hub_of(tmp_path / "model", entry["repo"], entry["revision"]) as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        monkeypatch.setenv("HF_HUB_ETAG_TIMEOUT", "2")
        outputs = [copy.run("bash", "-c", command) for command in commands]
    by_verb = dict(zip(commands, outputs, strict=True))
    (printed,) = (output for command, output in by_verb.items() if command.endswith("--dtype float32"))
    (shown,) = _blocks(page, "")
    # Beside what the command prints stands what it logs. Rounding differs from machine to machine.
    lines = [line for line in printed.splitlines() if line.startswith(("qwen-here", "ok", "check/"))]
    assert [_without_rounding(line) for line in lines] == [_without_rounding(line) for line in shown.splitlines()]
    assert (copy.root / "results/my-qwen/figures/to-last-qwen-here-w7.pdf").is_file()
    assert (copy.root / "trace/patches.png").is_file()
