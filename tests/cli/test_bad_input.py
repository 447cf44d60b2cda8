"""Real bad input and faults, and their messages; docs/bad-input.md lists the same sentences.

CROSSFLOW_WRITE_DOCS=1 pytest tests/cli/test_bad_input.py     rewrites the page
"""

import contextlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml
from huggingface_hub import HfApi
from safetensors.torch import load_file, save_file

from crossflow.cli.main import main
from crossflow.core.columns import SKIPPED
from crossflow.core.errors import CrossflowError
from crossflow.core.journal import journal_beside
from crossflow.core.measures import KNOCKOUT
from crossflow.core.tables import read_csv, read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.engine import shared_prefix as engine
from crossflow.fetch import environment, hub_repo
from crossflow.models import preparing
from crossflow.study import inputs, parameters, results
from crossflow.study.config_files import read_config
from hub_server import hub_of
from spoiling import edit_image_processor, edit_json, set_post_processor
from tiny import draw_world, load_tiny

PAGE = "docs/bad-input.md"
LAYERS = 3


class Place:
    """A good study in a folder, to be spoilt in one way: a drawn world, a small random model, params.yaml."""

    def __init__(self, root: Path, repo: Path) -> None:
        self.root = root
        self.repo = repo
        questions = draw_world(root / "world", 3)["ChooseAttr"][:5]
        write_chosen(root / "questions.csv", questions)
        self.asked = len(questions)
        load_tiny(root / "model", layers=LAYERS, width=32)
        shutil.copy(repo / "params.yaml", root / "params.yaml")

    def said(self, *arguments: str) -> str:
        """The one sentence of a command that fails."""
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            assert main(list(arguments)) == 1
        _, mark, said = errors.getvalue().partition(f"crossflow {arguments[0]}: ")
        assert mark
        assert said.count("\n") == 1
        return said.strip()

    def settings(self, change: Callable[[dict[str, Any]], object]) -> str:
        """What is said of params.yaml after a change."""
        config = yaml.safe_load((self.root / "params.yaml").read_text())
        change(config)
        (self.root / "params.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        return self.of_settings()

    def of_settings(self) -> str:
        """What is said of params.yaml as it is."""
        with pytest.raises(CrossflowError) as raised:
            config = read_config(self.root / "params.yaml")
            parameters.validate(config, self.repo / "workflow/schemas/params.schema.yaml")
            study = parameters.read_study(config)
            inputs.dataset_root(config, study.dataset)
        return str(raised.value)

    def choose(self, *options: str) -> str:
        """What is said when questions are chosen."""
        source = options or ("--root", "world", "--split", "val_balanced", "--category", "ChooseAttr")
        return self.said("questions", "--number", "all", "--output", "q.csv", "--rejections", "r.csv", *source)

    def job(self, verb: str, *options: str, folder: str = ".") -> list[str]:
        """The command of a model's job."""
        common = ["--questions", "questions.csv", "--root", "world", "--model-path", "model", "--prompt", "vicuna-v1"]
        tables = ["--output", f"{folder}/{verb}", "--device", "cpu"]
        if verb == "answers":
            return [verb, *common, *tables, *options]
        flows = ["--flows", "image->last", "related->question", "--select", "all", "--window", "1"]
        return [verb, *common, *tables, "--answers", "answers", *flows, *options]

    def run(self, verb: str, *options: str, folder: str = ".") -> None:
        """A job that succeeds."""
        with contextlib.redirect_stderr(io.StringIO()):
            assert main(self.job(verb, *options, folder=folder)) == 0


def _edit(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


QUESTIONS = "world/questions/val_balanced_questions.json"


# Settings: each returns what is said.


def unknown_key(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(widnows=[3]))


def wrong_type(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(questions_per_category="many"))


def window_of_nothing(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(windows=[0]))


def instruction_of_blanks(place: Place) -> str:
    return place.settings(lambda config: config["models"]["mini-llava"].update(instruction=" Be short."))


def unknown_order(place: Place) -> str:
    return place.settings(lambda config: config["models"]["mini-llava"].update(option_order="reversed"))


def set_that_cannot_be_patched(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(patching={"sets": ["image_sinks"]}))


def no_category(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(categories=[]))


def unknown_set(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(flows=["picture->last"]))


def unknown_study(place: Place) -> str:
    return place.settings(lambda config: config.update(study="big"))


def unknown_model(place: Place) -> str:
    return place.settings(lambda config: config["studies"]["mini"].update(models=["gpt"]))


def slug_with_a_dot(place: Place) -> str:
    return place.settings(lambda config: config["models"].update({"llava1.5": config["models"]["mini-llava"]}))


def key_twice(place: Place) -> str:
    path = place.root / "params.yaml"
    path.write_text(path.read_text().replace("\ndatasets:\n", "\ndatasets:\n  gqa: {kind: gqa}\n", 1))
    return place.of_settings()


def not_yaml(place: Place) -> str:
    path = place.root / "params.yaml"
    path.write_text(path.read_text().replace("study: mini", "study: [mini", 1))
    return place.of_settings()


def no_such_folder(place: Place) -> str:
    return place.settings(lambda config: config["datasets"].update(shapes={"kind": "gqa", "root": "/data/gqa"}))


def window_too_wide(place: Place) -> str:
    place.run("answers")
    return place.said(*place.job("knockout", "--window", str(2 * LAYERS)))


# Data.


def no_question_file(place: Place) -> str:
    (place.root / QUESTIONS).unlink()
    return place.choose()


def question_file_cut_short(place: Place) -> str:
    path = place.root / QUESTIONS
    path.write_bytes(path.read_bytes()[:-500])
    return place.choose()


def question_file_of_another_form(place: Place) -> str:
    (place.root / QUESTIONS).write_text('[{"question": "Is it red?"}]')
    return place.choose()


def question_without_its_program(place: Place) -> str:
    _edit(place.root / QUESTIONS, lambda content: next(iter(content.values())).pop("semantic"))
    return place.choose()


def category_without_questions(place: Place) -> str:
    def other(content: Any) -> None:
        for record in content.values():
            record["types"]["detailed"] = "existThat"

    _edit(place.root / QUESTIONS, other)
    return place.choose()


def table_without_a_column(place: Place) -> str:
    (place.root / "mine.csv").write_text("question_id,image,question\n1,a.jpg,Is it red?\n")
    return place.choose("--table", "mine.csv", "--images", "world", "--category", "questions")


def table_with_an_absent_image(place: Place) -> str:
    (place.root / "mine.csv").write_text("question_id,image,question,answer\n1,a.jpg,Is it red?,yes\n")
    return place.choose("--table", "mine.csv", "--images", "world", "--category", "questions")


def table_with_a_pair_of_the_same_answer(place: Place) -> str:
    for name in "ab":
        (place.root / "world" / f"{name}.jpg").write_bytes(b"")
    columns = "question_id,image,question,answer,pair_image,pair_answer"
    (place.root / "mine.csv").write_text(f"{columns}\n1,a.jpg,Is it red?,yes,b.jpg,Yes\n")
    return place.choose("--table", "mine.csv", "--images", "world", "--category", "questions")


def _packed(place: Place, columns: dict[str, list[Any]], *options: str) -> str:
    good = {"image": [b"a", b"b"], "question": ["Is it red?"] * 2, "answer": ["yes"] * 2}
    pq.write_table(pa.table(good | columns), place.root / "mine.parquet")
    return place.said("unpack-table", "--files", "mine.parquet", "--images", "i", "--output", "t.csv", *options)


def parquet_without_a_column(place: Place) -> str:
    return _packed(place, {}, "--columns", "answer=label")


def parquet_with_a_column_of_another_type(place: Place) -> str:
    return _packed(place, {"image": ["a.jpg", "b.jpg"]})


def parquet_without_an_image(place: Place) -> str:
    return _packed(place, {"image": [b"a", None]})


def parquet_with_an_id_twice(place: Place) -> str:
    return _packed(place, {"question_id": ["1", "1"]})


def parquet_cut_short(place: Place) -> str:
    pq.write_table(pa.table({"question": ["Is it red?"]}), place.root / "mine.parquet")
    (place.root / "mine.parquet").write_bytes((place.root / "mine.parquet").read_bytes()[:-20])
    return place.said("unpack-table", "--files", "mine.parquet", "--images", "i", "--output", "t.csv")


def revision_that_is_gone(place: Place) -> str:
    (place.root / "repository").mkdir()
    with pytest.MonkeyPatch.context() as patch, hub_of(place.root / "repository") as hub:
        patch.setattr(hub_repo, "HfApi", lambda: HfApi(hub.url))
        named = ["--repo", hub.repo, "--revision", "f" * 40, "--pattern", "*.parquet"]
        return place.said("unpack-table", *named, "--images", "i", "--output", "t.csv")


def missing_image(place: Place) -> str:
    _keep_images(place, lambda number: number != 0)
    place.run("answers")
    (skipped,) = read_csv(place.root / "answers/questions.skipped.csv", SKIPPED)[:1]
    return skipped["reason"]


def no_image_at_all(place: Place) -> str:
    _keep_images(place, lambda number: False)
    return place.said(*place.job("answers"))


def image_gone_after_the_answers(place: Place) -> str:
    place.run("answers")
    _keep_images(place, lambda number: False)
    return place.said(*place.job("knockout"))


def _keep_images(place: Place, keep: Callable[[int], bool]) -> None:
    path = place.root / "world/images.zip"
    with zipfile.ZipFile(path) as archive:
        members = [(name, archive.read(name)) for name in archive.namelist()]
    with zipfile.ZipFile(path, "w") as archive:
        for number, (name, content) in enumerate(members):
            if keep(number):
                archive.writestr(name, content)


def zip_cut_short(place: Place) -> str:
    path = place.root / "world/images.zip"
    path.write_bytes(path.read_bytes()[:2000])
    return place.said(*place.job("answers"))


# Models.


def not_a_model(place: Place) -> str:
    return place.said(*place.job("answers", "--model-path", "world"))


def unknown_architecture(place: Place) -> str:
    _edit(place.root / "model/config.json", lambda config: config.update(model_type="blip_3"))
    return place.said(*place.job("answers"))


def no_processor(place: Place) -> str:
    (place.root / "model/processor_config.json").unlink()
    return place.said(*place.job("answers"))


def no_image_token(place: Place) -> str:
    path = place.root / "model/tokenizer.json"
    path.write_text(path.read_text().replace("<image>", "<img>"))
    return place.said(*place.job("answers"))


def pickled_weights(place: Place) -> str:
    (place.root / "model/model.safetensors").unlink()
    torch.save({}, place.root / "model/pytorch_model.bin")
    return place.said(*place.job("answers"))


def weights_cut_short(place: Place) -> str:
    path = place.root / "model/model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return place.said(*place.job("answers"))


def weights_that_are_no_numbers(place: Place) -> str:
    path = place.root / "model/model.safetensors"
    weights = load_file(path)
    next(weight for name, weight in sorted(weights.items()) if "layers.1" in name)[..., 0] = torch.nan
    path.unlink()
    save_file(weights, path, {"format": "pt"})
    return place.said(*place.job("answers"))


def weights_without_a_place(place: Place) -> str:
    edit_json(place.root / "model/config.json", "text_config.num_hidden_layers", LAYERS - 1)
    return place.said(*place.job("answers"))


def weights_of_another_shape(place: Place) -> str:
    edit_json(place.root / "model/config.json", "text_config.intermediate_size", 48)
    return place.said(*place.job("answers"))


def adapter_beside_the_weights(place: Place) -> str:
    (place.root / "model/adapter_config.json").write_text("{}")
    return place.said(*place.job("answers"))


def image_processor_of_another_model(place: Place) -> str:
    edit_image_processor(place.root / "model", "crop_size", {"height": 84, "width": 84})
    return place.said(*place.job("answers"))


def processor_of_another_patch_size(place: Place) -> str:
    edit_json(place.root / "model/processor_config.json", "patch_size", 14)
    return place.said(*place.job("answers"))


def tower_without_the_layer(place: Place) -> str:
    edit_json(place.root / "model/config.json", "vision_feature_layer", -9)
    return place.said(*place.job("answers"))


def text_model_of_other_parts(place: Place) -> str:
    edit_json(place.root / "model/config.json", "text_config.model_type", "phi")
    return place.said(*place.job("answers"))


def prompt_begun_twice(place: Place) -> str:
    set_post_processor(place.root / "model", "<s> <s> $A")
    template = "USER: {{ messages[0].content }} ASSISTANT:"
    (place.root / "model/chat_template.jinja").write_text(template)
    return place.said(*place.job("answers", "--prompt", "chat-template"))


def template_that_does_not_parse(place: Place) -> str:
    (place.root / "model/chat_template.jinja").write_text("{% for %}")
    return place.said(*place.job("answers", "--prompt", "chat-template"))


def unknown_device(place: Place) -> str:
    return place.said(*place.job("answers", "--device", "cuda:7"))


# The machine.


def _fetching(place: Place, variable: str, value: str) -> str:
    """What is said where a variable alone spoils the fetching of a model."""
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.lower().endswith("_proxy")]:
            patch.delenv(name)
        patch.setattr(environment, "find_spec", lambda name: None)
        patch.setenv(variable, value)
        return place.said("fetch-model", "--repo", "a/b", "--revision", "0" * 40, "--output", "model.json")


def socks_proxy(place: Place) -> str:
    return _fetching(place, "ALL_PROXY", "socks5://127.0.0.1:1080")


def stale_certificates(place: Place) -> str:
    return _fetching(place, "SSL_CERT_FILE", "/absent/ca.pem")


def token_that_is_none(place: Place) -> str:
    return _fetching(place, "HF_TOKEN", "hf_“quoted”")


def refused_token(place: Place) -> str:
    with pytest.MonkeyPatch.context() as patch, hub_of(place.root / "model") as hub:
        hub.refused = "hf_expired"
        patch.setenv("HF_TOKEN", hub.refused)
        patch.setattr(hub_repo, "HfApi", lambda: HfApi(hub.url))
        return place.said("fetch-model", "--repo", hub.repo, "--revision", hub.revision, "--output", "model.json")


def names_of_one_file(place: Place) -> str:
    config = yaml.safe_load((place.root / "params.yaml").read_text())
    config["models"] |= dict.fromkeys(("m", "published-m"), config["models"]["mini-llava"])
    config["studies"]["mini"]["models"] = ["m", "published-m"]
    with pytest.raises(CrossflowError) as raised:
        results.result_files(parameters.read_study(config))
    return str(raised.value)


# Faults.


def disk_full(place: Place) -> str:
    small = place.root / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no file system of a few KiB can be mounted here")
    try:
        place.run("answers")
        said = place.said(*place.job("knockout", folder="small"))
        assert not (small / "knockout/questions.parquet").exists()
        kept = (small / "knockout/questions.journal.jsonl").read_bytes()
        assert kept.count(b"\n") >= 1
        subprocess.run(["mount", "-o", "remount,size=4m", small], check=True)
        place.run("knockout", folder="small")
        place.run("knockout")
        written = [folder / "knockout/questions.parquet" for folder in (small, place.root)]
        assert written[0].read_bytes() == written[1].read_bytes()
    finally:
        subprocess.run(["umount", small], check=True)
    return said


def results_that_can_not_be_written(place: Place) -> str:
    (place.root / "results").write_text("a file")
    return place.said(*place.job("answers", folder="results"))


def out_of_memory(place: Place) -> str:
    def full(*arguments: object) -> object:
        raise torch.OutOfMemoryError

    place.run("answers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine, "_run_suffixes", full)
        said = place.said(*place.job("knockout"))
    place.run("knockout")
    return said


def killed_worker(place: Place) -> str:
    def killed(*arguments: object) -> object:
        os.kill(os.getpid(), signal.SIGKILL)
        return None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(preparing, "_prepare", killed)
        said = place.said(*place.job("answers", "--workers", "1"))
    place.run("answers")
    return said


def journal_of_another_version(place: Place) -> str:
    place.run("answers")
    path = place.root / "knockout/questions.journal.jsonl"
    path.parent.mkdir()
    path.write_text('{"fingerprint": "of version 0.0.1"}\n["1", {"flow": ["image->last"]}]\n')
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("crossflow.core.journal")
    logger.addHandler(handler)
    try:
        place.run("knockout")
    finally:
        logger.removeHandler(handler)
    assert len(read_parquet(place.root / "knockout/questions.parquet", KNOCKOUT)[0]) == place.asked * 2 * LAYERS
    (said,) = [line for line in records if "set aside" in line]
    assert (path.parent / said.rpartition(" ")[2]).exists()
    return said


def two_runs(place: Place) -> str:
    place.run("answers")
    with journal_beside(place.root / "knockout/questions.parquet", {"of": "another run"}):
        return place.said(*place.job("knockout"))


CASES: dict[str, dict[str, tuple[str, Callable[[Place], str]]]] = {
    "Settings": {
        "an unknown key": ("unknown_key", unknown_key),
        "a value of the wrong type": ("wrong_type", wrong_type),
        "a window of width 0": ("window_of_nothing", window_of_nothing),
        "a window that always covers the whole model": ("window_too_wide", window_too_wide),
        "no category": ("no_category", no_category),
        "a flow with an unknown set": ("unknown_set", unknown_set),
        "an instruction that begins with a blank": ("instruction_of_blanks", instruction_of_blanks),
        "an unknown order of options": ("unknown_order", unknown_order),
        "patching at sinks": ("set_that_cannot_be_patched", set_that_cannot_be_patched),
        "an unknown study": ("unknown_study", unknown_study),
        "an unknown model": ("unknown_model", unknown_model),
        "a name with a dot": ("slug_with_a_dot", slug_with_a_dot),
        "a duplicate key": ("key_twice", key_twice),
        "invalid YAML": ("not_yaml", not_yaml),
        "a data set without its folder": ("no_such_folder", no_such_folder),
    },
    "Questions and images": {
        "no question file": ("no_question_file", no_question_file),
        "a truncated question file": ("question_file_cut_short", question_file_cut_short),
        "a question file of the wrong form": ("question_file_of_another_form", question_file_of_another_form),
        "a question without its program": ("question_without_its_program", question_without_its_program),
        "a category without questions": ("category_without_questions", category_without_questions),
        "a table without a column": ("table_without_a_column", table_without_a_column),
        "a table that names a missing image": ("table_with_an_absent_image", table_with_an_absent_image),
        "a table whose pair has the question's own answer": (
            "table_with_a_pair_of_the_same_answer",
            table_with_a_pair_of_the_same_answer,
        ),
        "a parquet file without a column": ("parquet_without_a_column", parquet_without_a_column),
        "a parquet file with a column of another type": (
            "parquet_with_a_column_of_another_type",
            parquet_with_a_column_of_another_type,
        ),
        "a parquet file that lacks an image": ("parquet_without_an_image", parquet_without_an_image),
        "a parquet file with an id twice": ("parquet_with_an_id_twice", parquet_with_an_id_twice),
        "a truncated parquet file": ("parquet_cut_short", parquet_cut_short),
        "a data set on the hub whose revision is gone": ("revision_that_is_gone", revision_that_is_gone),
        "a missing image (the question is listed, the others are answered)": (
            "missing_image",
            missing_image,
        ),
        "no image at all": ("no_image_at_all", no_image_at_all),
        "an image removed after the answers": ("image_gone_after_the_answers", image_gone_after_the_answers),
        "a truncated zip of images": ("zip_cut_short", zip_cut_short),
    },
    "Models and devices": {
        "a folder without a model": ("not_a_model", not_a_model),
        "an unknown architecture": ("unknown_architecture", unknown_architecture),
        "no processor": ("no_processor", no_processor),
        "a tokenizer without the image token": ("no_image_token", no_image_token),
        "pickled weights only": ("pickled_weights", pickled_weights),
        "truncated weights": ("weights_cut_short", weights_cut_short),
        "NaN weights": ("weights_that_are_no_numbers", weights_that_are_no_numbers),
        "weights that the configuration has no place for": ("weights_without_a_place", weights_without_a_place),
        "weights of another shape": ("weights_of_another_shape", weights_of_another_shape),
        "an adapter beside the weights": ("adapter_beside_the_weights", adapter_beside_the_weights),
        "an image processor of another model": (
            "image_processor_of_another_model",
            image_processor_of_another_model,
        ),
        "a processor with another patch size": ("processor_of_another_patch_size", processor_of_another_patch_size),
        "features of a layer that the vision tower lacks": ("tower_without_the_layer", tower_without_the_layer),
        "a text model with other parts": ("text_model_of_other_parts", text_model_of_other_parts),
        "a tokenizer that begins a prompt twice": ("prompt_begun_twice", prompt_begun_twice),
        "a chat template that does not parse": ("template_that_does_not_parse", template_that_does_not_parse),
        "an unknown device": ("unknown_device", unknown_device),
    },
    "The machine": {
        "a SOCKS proxy without the package for it": ("socks_proxy", socks_proxy),
        "certificates that are not there": ("stale_certificates", stale_certificates),
        "a token of the hub that is none": ("token_that_is_none", token_that_is_none),
        "a token of the hub that has expired": ("refused_token", refused_token),
        "names of models or categories that make one file name": ("names_of_one_file", names_of_one_file),
    },
    "Faults": {
        "full disk (finished work is kept; a later run resumes and gives the same bytes)": (
            "disk_full",
            disk_full,
        ),
        "unwritable results": ("results_that_can_not_be_written", results_that_can_not_be_written),
        "a knockout that does not fit into memory": ("out_of_memory", out_of_memory),
        "a killed worker process": ("killed_worker", killed_worker),
        "a journal of another version (a warning; the job starts without it)": (
            "journal_of_another_version",
            journal_of_another_version,
        ),
        "another run that writes the same table": ("two_runs", two_runs),
    },
}
HEAD = """\
# Error messages

Bad input ends with one sentence that names the problem and its place, and with a non-zero exit status; finished work is
kept. `tests/cli/test_bad_input.py` causes each fault below and compares the message with this page;
`CROSSFLOW_WRITE_DOCS=1 pytest tests/cli/test_bad_input.py` rewrites the page. `crossflow doctor` finds most of these faults
before a long run. [Faults and safety](explanation/faults.md) covers kills and untrusted files.
"""


@pytest.mark.long
def test_every_bad_input_is_told_in_one_sentence_as_the_page_says(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines, skipped = [HEAD], []
    for heading, cases in CASES.items():
        lines.append(f"## {heading}\n\n| fault | message |\n|---|---|")
        for what, (name, spoil) in cases.items():
            folder = tmp_path / name
            folder.mkdir()
            monkeypatch.chdir(folder)
            try:
                said = spoil(Place(folder, repo))
            except pytest.skip.Exception:
                skipped.append(what)
                continue
            assert "\n" not in said
            assert said.strip()
            said = said.replace(f"{folder}/", "").replace("|", "\\|")
            lines.append(f"| {what} | {said} |")
        lines.append("")
    page = "\n".join(lines)
    if os.environ.get("CROSSFLOW_WRITE_DOCS"):
        (repo / PAGE).write_text(page, encoding="utf-8")
    kept = (repo / PAGE).read_text(encoding="utf-8")
    expected = "\n".join(
        line for line in kept.splitlines() if not any(line.startswith(f"| {what} |") for what in skipped)
    )
    assert page.rstrip("\n") == expected.rstrip("\n")
