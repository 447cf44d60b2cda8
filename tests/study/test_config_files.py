"""Files of parameters: read strictly, and laid over one another as snakemake does it."""

from pathlib import Path

import pytest
import yaml
from snakemake.utils import update_config

from copied import Copy
from crossflow.core.errors import CrossflowError
from crossflow.study.config_files import read_config


def _write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_the_shipped_parameters_are_read_as_by_yaml(repo: Path) -> None:
    assert read_config(repo / "params.yaml") == yaml.safe_load((repo / "params.yaml").read_text())


def test_an_overlay_is_laid_over_key_by_key_as_snakemake_does(tmp_path: Path) -> None:
    below = _write(tmp_path / "a.yaml", "study: one\nmodels: {m: {window: 3, prompt: p}}\nstudies: {one: {flows: [x]}}")
    above = _write(tmp_path / "b.yaml", "study: two\nmodels: {m: {window: 5}, n: {}}\nstudies: {one: {flows: [y]}}")
    expected = read_config(below)
    update_config(expected, read_config(above))
    assert read_config(below, above) == expected
    assert expected["models"] == {"m": {"window": 5, "prompt": "p"}, "n": {}}


@pytest.mark.parametrize(
    "text", ["a: 1\nb: {c: 1}\na: 2", "x: {a: 1, b: 2, a: 3}", "x:\n- {b: {a: 1}, c: {a: 2, a: 2}}"]
)
def test_a_key_that_comes_twice_in_one_place_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(CrossflowError, match=r"p.yaml, line \d: duplicate key 'a'\.$"):
        read_config(_write(tmp_path / "p.yaml", text))


@pytest.mark.parametrize("text", ["c: {<<: *a, k: 3}", "c: {<<: [*a, *b], k: 3}", "c:\n  <<: *a\n  <<: *b\n  k: 3"])
def test_the_same_key_elsewhere_or_merged_is_read_as_by_yaml(tmp_path: Path, text: str) -> None:
    text = f"a: &a {{k: 1}}\nb: &b {{k: 0, l: 2}}\n{text}"
    assert read_config(_write(tmp_path / "p.yaml", text)) == yaml.safe_load(text)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1,", r"p.yaml, line 1: invalid YAML \(.*\)\.$"),
        (b"a: 1\n b: 2", r"p.yaml, line 2: invalid YAML \(mapping values are not allowed here\)\.$"),
        (b"- a", r"p.yaml has no keys: settings as in params.yaml were expected\.$"),
        (b"", r"p.yaml has no keys: settings as in params.yaml were expected\.$"),
        (b"a: \xff", r"p.yaml is not text in UTF-8 \(byte 3\)\.$"),
        (b"? [a]\n: 1\n", r"p.yaml, line 1: invalid YAML \(found unhashable key\)\.$"),
        (b"? {a: 1}\n: 1\n", r"p.yaml, line 1: invalid YAML \(found unhashable key\)\.$"),
        (b"a: 2020-13-45", r"p.yaml: invalid YAML \(month must be in 1..12\)\.$"),
        (b"a: !!int x", r"p.yaml: invalid YAML \(invalid literal for int.*\)\.$"),
        (b"a: !!timestamp x", r"p.yaml: invalid YAML \(.*\)\.$"),
        (b"[" * 3000, r"p.yaml: invalid YAML \(maximum recursion depth exceeded.*\)\.$"),
        (
            b"a: !!python/object:os.system {}",
            r"p.yaml, line 1: invalid YAML \(could not determine a constructor.*\)\.$",
        ),
    ],
)
def test_what_is_no_file_of_parameters_is_one_sentence(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "p.yaml").write_bytes(content)
    with pytest.raises(CrossflowError, match=message) as raised:
        read_config(tmp_path / "p.yaml")
    assert "\n" not in str(raised.value)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CrossflowError, match=r"nowhere.yaml cannot be read \(No such file or directory\)\.$"):
        read_config(tmp_path / "nowhere.yaml")


@pytest.mark.workflow
def test_the_workflow_refuses_a_key_twice_and_takes_merges(repo: Path, tmp_path: Path) -> None:
    copy = Copy(repo, tmp_path)
    mine = _write(tmp_path / "mine.yaml", "studies: {ci: {seed: 1}}\nstudies: {ci: {seed: 2}}\n")
    said = copy.snakemake("-n", "--configfile", "mine.yaml", status=1)
    assert f"{mine}, line 1: duplicate key 'studies'." in said
    assert "Traceback" not in said
    text = "study: other\nstudies:\n  ci: &ci {dataset: shapes, models: [random-llava], categories: [ChooseAttr], flows: [image->last]}\n"
    _write(mine, f"{text}  other: {{<<: *ci, answers: all, seed: 3}}\n")
    assert "results/other/claims.json" in copy.snakemake("-n", "--configfile", "mine.yaml")
