"""Hostile inputs of every kind that people or downloads hand to this project, and what must become of each.

An input is either *accepted*, and then what was made of it holds together, or *refused* by one sentence
(`CrossflowError`, `BrokenQuestion`, exit status 1). Any other exception is a defect. `tests/test_fuzz.py` tries a few
of each kind, `benchmarks/fuzz.py` thousands.
"""

import contextlib
import copy
import csv
import io
import json
import math
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import hypothesis
import numpy as np
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from PIL import Image

from crossflow import parameters
from crossflow.categories import CATEGORIES
from crossflow.cli import main
from crossflow.config_files import read_config
from crossflow.errors import BrokenQuestion, CrossflowError
from crossflow.flows import parse_flow
from crossflow.gqa import ChosenQuestion, Pictures, read_chosen
from crossflow.journal import journal_beside
from crossflow.models import ModelSettings, sketch_model
from published_form import published_row, write_published
from tiny import draw_world

REPO = Path(__file__).resolve().parent.parent
SCHEMA = REPO / "workflow/schemas/params.schema.yaml"
ACCEPTED, REFUSED = "accepted", "refused"

JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 1.5, math.nan, math.inf, 10**30, "", " ", "x" * 2000, "\ud800", "\u202e", "\x00", "<image>",
    "</script>", "../../x", "it's", "1e5", [], {}, [[]], [None], {"a": 1}, [1, "a"],
)  # fmt: skip
TEXTS = st.one_of(
    st.text(max_size=40),
    st.text("abcde ?,.'-<>/s", min_size=1, max_size=60),
    st.sampled_from(["<image>", "<s>", "</s>", "ASSISTANT:", "\n", "\u202eis it red?", "é狗", "x" * 5000, "", " "]),
    st.lists(st.sampled_from(["is", "the", "ball", "red", "<image>", "?", "\u200b", "USER:"]), max_size=9).map(
        " ".join
    ),
)


def _places(tree: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    keys = list(tree) if isinstance(tree, dict) else range(len(tree)) if isinstance(tree, list) else ()
    return [path] + [place for key in keys for place in _places(tree[key], (*path, key))]


def mutated(data: st.DataObject, tree: Any) -> Any:
    """A tree of mappings and lists with one to three places replaced, removed or renamed."""
    tree = copy.deepcopy(tree)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(_places(tree)))
        if not path:
            continue
        holder = tree
        for key in path[:-1]:
            holder = holder[key]
        match data.draw(st.sampled_from(["replace", "remove", "rename"])):
            case "remove":
                del holder[path[-1]]
            case "rename" if isinstance(holder, dict):
                holder[data.draw(st.sampled_from(["", "x", "Id", "\u202e"]))] = holder.pop(path[-1])
            case _:
                holder[path[-1]] = copy.deepcopy(data.draw(st.sampled_from(JUNK)))
    return tree


def damaged(data: st.DataObject, content: bytes) -> bytes:
    """Bytes cut short, with some changed, or with some put in."""
    changed = bytearray(content)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, max(0, len(changed) - 1)))
        match data.draw(st.sampled_from(["cut", "change", "insert"])):
            case "cut":
                del changed[place:]
            case "change" if changed:
                changed[place] = data.draw(st.integers(0, 255))
            case _:
                changed[place:place] = data.draw(st.binary(max_size=8))
    return bytes(changed)


def _as_json(tree: Any) -> bytes:
    return json.dumps(tree, ensure_ascii=True).encode()


def _outcome(work: Callable[[], Any]) -> str:
    """Whether some work is refused in one sentence."""
    sentence = "one"
    try:
        work()
    except (CrossflowError, BrokenQuestion) as error:
        sentence = str(error)
    else:
        return ACCEPTED
    assert sentence.strip()
    assert "\n" not in sentence
    return REFUSED


class Kinds:
    """Inputs of every kind, made from good ones under a folder of one's own.

    Attributes:
        kinds: Name -> draws one input, hands it over, and says what became of it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.world = folder / "world"
        self.questions = draw_world(self.world, 2)
        self.model = folder / "model"
        shutil.copytree(REPO / "resources/mini-llava", self.model, ignore=shutil.ignore_patterns("*.safetensors"))
        self.sketch = sketch_model(ModelSettings(self.model, "vicuna-v1"), torch.device("cpu"))
        self.published = {category: self._published_set(category) for category in CATEGORIES}
        self.params = read_config(REPO / "params.yaml")
        self.kinds: Mapping[str, Callable[[st.DataObject], str]] = {
            "params": self._params,
            "params-text": self._params_text,
            "questions": self._questions,
            "scenes": self._scenes,
            "table": self._table,
            "published": self._published,
            "pictures": self._pictures,
            "prompts": self._prompts,
            "flows": self._flows,
            "model": self._model,
            "journal": self._journal,
        }

    def _published_set(self, category: str) -> str:
        records = json.loads((self.world / "questions/val_balanced_questions.json").read_bytes())
        scenes = json.loads((self.world / "sceneGraphs/val_sceneGraphs.json").read_bytes())
        rows = []
        for question in self.questions[category][:3]:
            record = records[question.question_id]
            options = question.true_option or "", question.false_option or ""
            rows.append(published_row(category, question.question_id, record, scenes[record["imageId"]], options))
        path = self.folder / "published.csv"
        write_published(path, category, rows)
        return path.read_text(encoding="utf-8")

    def run(self, kind: str, examples: int, seed: int) -> Counter[str]:
        """Try so many inputs of a kind; what became of them.

        Raises:
            Exception: what an input caused that is neither accepted nor refused, with the input, as small as it gets.
        """
        outcomes: Counter[str] = Counter()

        @hypothesis.seed(seed)
        @settings(
            max_examples=examples,
            database=None,
            deadline=None,
            phases=[Phase.generate, Phase.shrink],
            suppress_health_check=list(HealthCheck),
        )
        @hypothesis.given(st.data())
        def attempt(data: st.DataObject) -> None:
            outcomes[self.kinds[kind](data)] += 1

        attempt()
        return outcomes

    # Settings.

    def _study(self, config: Any) -> str:
        studies: list[parameters.Study] = []

        def read() -> None:
            parameters.check(config, SCHEMA)
            studies.append(parameters.read_study(config))

        if _outcome(read) == REFUSED:
            return REFUSED
        (study,) = studies
        assert parameters.stage_files(study)["answers"]
        assert all(
            window.isdecimal() or window in ("bottom", "top") for found in study.windows.values() for window in found
        )
        assert all(parse_flow(flow).parts for flow in (*study.flows, *study.controls))
        return ACCEPTED

    def _params(self, data: st.DataObject) -> str:
        return self._study(mutated(data, self.params))

    def _params_text(self, data: st.DataObject) -> str:
        path = self.folder / "params.yaml"
        path.write_bytes(damaged(data, (REPO / "params.yaml").read_bytes()))
        read: list[Any] = []
        return REFUSED if _outcome(lambda: read.append(read_config(path))) == REFUSED else self._study(*read)

    def _flows(self, data: st.DataObject) -> str:
        names = [
            "image",
            "question",
            "last",
            "related",
            "all",
            "->",
            "+",
            "only:",
            "~random1",
            "~moved",
            " ",
            "x",
            "~",
            "",
        ]
        text = data.draw(
            st.one_of(
                TEXTS,
                st.lists(st.sampled_from(names), max_size=8).map("".join),
                st.tuples(*[st.sampled_from(names), st.just("->"), st.sampled_from(names)]).map("".join),
            )
        )
        try:
            flow = parse_flow(text)
        except CrossflowError:
            return REFUSED
        assert flow.parts
        assert "->" in text
        return ACCEPTED

    # Questions.

    def _chosen(self, *options: str) -> str:
        output, rejections = self.folder / "chosen.csv", self.folder / "rejections.csv"
        output.unlink(missing_ok=True)
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors):
            status = main(
                ["questions", "--number", "all", "--output", str(output), "--rejections", str(rejections), *options]
            )
        if status:
            said = [line for line in errors.getvalue().splitlines() if line.startswith("crossflow questions: ")]
            assert len(said) == 1
            assert not output.exists()
            return REFUSED
        for question in read_chosen(output):
            self._holds_together(question)
        return ACCEPTED

    @staticmethod
    def _holds_together(question: ChosenQuestion) -> None:
        assert question.question_id
        assert question.question.strip()
        assert question.answer.strip()
        if question.true_option:
            assert question.true_option.lower() == question.answer.lower()
        assert question.true_option != question.false_option or question.true_option is None
        for chosen in question.objects:
            assert chosen.box.w > 0
            assert chosen.box.h > 0

    def _in_gqas_layout(self, data: st.DataObject, name: str) -> str:
        path = self.world / name
        content = path.read_bytes()
        changed = damaged(data, content) if data.draw(st.booleans()) else _as_json(mutated(data, json.loads(content)))
        path.write_bytes(changed)
        try:
            category = data.draw(st.sampled_from(list(CATEGORIES)))
            return self._chosen("--root", str(self.world), "--split", "val_balanced", "--category", category)
        finally:
            path.write_bytes(content)

    def _questions(self, data: st.DataObject) -> str:
        return self._in_gqas_layout(data, "questions/val_balanced_questions.json")

    def _scenes(self, data: st.DataObject) -> str:
        return self._in_gqas_layout(data, "sceneGraphs/val_sceneGraphs.json")

    def _with_cells(self, data: st.DataObject, content: str) -> bytes:
        if data.draw(st.booleans()):
            return damaged(data, content.encode())
        rows = list(csv.reader(io.StringIO(content)))
        for _ in range(data.draw(st.integers(1, 3))):
            row = data.draw(st.sampled_from(rows))
            if row:
                row[data.draw(st.integers(0, len(row) - 1))] = str(data.draw(st.sampled_from(JUNK)))
        written = io.StringIO()
        csv.writer(written).writerows(rows)
        return written.getvalue().encode("utf-8", "surrogatepass")

    def _table(self, data: st.DataObject) -> str:
        example = REPO / "resources/example"
        path = self.folder / "table.csv"
        path.write_bytes(self._with_cells(data, (example / "questions.csv").read_text(encoding="utf-8")))
        return self._chosen("--table", str(path), "--pictures", str(example / "pictures"), "--category", "side")

    def _published(self, data: st.DataObject) -> str:
        path = self.folder / "published.csv"
        category = data.draw(st.sampled_from(list(CATEGORIES)))
        path.write_bytes(self._with_cells(data, self.published[category]))
        return self._chosen("--published", str(path), "--category", category)

    # Pictures.

    def _pictures(self, data: st.DataObject) -> str:
        root = self.folder / "pictures"
        root.mkdir(exist_ok=True)
        path = root / "images.zip"
        good = io.BytesIO()
        Image.fromarray(np.full((20, 30, 3), 99, dtype=np.uint8)).save(good, "png")
        members = data.draw(
            st.lists(
                st.tuples(
                    st.sampled_from(
                        ["1.jpg", "images/1.jpg", "../1.jpg", "/1.jpg", "images/../../1.jpg", "C:\\1.jpg", "\u202e"]
                    ),
                    st.sampled_from([good.getvalue(), b"", b"\x89PNG\r\n\x1a\n", b"GIF89a", bytes(500)]),
                ),
                max_size=4,
            )
        )
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members:
                with contextlib.suppress(UserWarning):
                    archive.writestr(name, content)
        if data.draw(st.booleans()):
            path.write_bytes(damaged(data, path.read_bytes()))
        before = set(self.folder.rglob("*"))
        outcome = ACCEPTED
        try:
            with Pictures(root) as pictures:
                strange = data.draw(st.sampled_from(["../1", "/1", "", "\x00", "1/../1", "x" * 300]))
                with contextlib.suppress(BrokenQuestion):
                    assert pictures.open(strange) is None, strange
                try:
                    picture = pictures.open("1")
                    assert picture.mode == "RGB"
                    assert picture.size == (30, 20)
                except BrokenQuestion as reason:
                    outcome = REFUSED if str(reason).strip() else ""
        except CrossflowError:
            outcome = REFUSED
        assert set(self.folder.rglob("*")) == before
        return outcome

    # Prompts and models.

    def _prompts(self, data: st.DataObject) -> str:
        text = data.draw(TEXTS)
        question = ChosenQuestion("1", "1", "ChooseAttr", "", text, "red", "red", "blue", ())
        try:
            prepared = self.sketch.prepare(question, Image.new("RGB", (60, 60)))
        except (BrokenQuestion, CrossflowError):
            return REFUSED
        positions = prepared.positions
        ids = prepared.inputs["input_ids"][0]
        parts = [
            positions[name]
            for name in ("system", "image", "separator", "question", "instruction", "last")
            if name in positions.sets
        ]
        covered = np.concatenate(parts)
        assert len(np.unique(covered)) == len(covered) <= positions.length
        said = self.sketch.processor.tokenizer.decode(ids[torch.from_numpy(positions["question"])])
        assert "".join(said.split()) == "".join(text.split())
        assert int((ids == self.sketch.network.config.image_token_id).sum()) == len(positions["image"])
        return ACCEPTED

    def _model(self, data: st.DataObject) -> str:
        folder = self.folder / "hostile"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.model, folder)
        name = data.draw(
            st.sampled_from(["config.json", "processor_config.json", "tokenizer_config.json", "config.json"])
        )
        path = folder / name
        content = path.read_bytes()
        path.write_bytes(
            damaged(data, content)
            if data.draw(st.integers(0, 2)) == 0
            else _as_json(mutated(data, json.loads(content)))
        )
        return _outcome(lambda: sketch_model(ModelSettings(folder, "vicuna-v1"), torch.device("cpu")))

    # Finished work of an earlier job.

    def _journal(self, data: st.DataObject) -> str:
        table, mark = self.folder / "job.parquet", {"version": "1"}
        path = self.folder / "job.journal.jsonl"
        for old in self.folder.glob("job.journal*"):
            old.unlink()
        entries = {"1": {"p": [0.25, None]}, "2": {"p": []}, "3": {"p": [1.0]}}
        with contextlib.suppress(KeyboardInterrupt), journal_beside(table, mark) as journal:
            for key, entry in entries.items():
                journal.add(key, entry)
            raise KeyboardInterrupt
        whole = path.read_bytes()
        path.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
        with journal_beside(table, mark) as journal:
            # What a killed job leaves is a beginning: entries are whole, or not there.
            assert entries.items() >= journal.finished.items()
            outcome = ACCEPTED if journal.finished else REFUSED
        path.write_bytes(damaged(data, whole))
        with journal_beside(table, mark) as journal:
            assert isinstance(journal.finished, dict)
        return outcome
