"""The explorer: what is in the page, what cannot get out of it, and the page itself in a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from crossflow.analysis.effects import summarise
from crossflow.analysis.tables import BANDS, EFFECTS, MEASURES
from crossflow.cli.main import main
from crossflow.core import measures
from crossflow.core.flows import PUBLISHED_FLOWS
from crossflow.core.records import Box, ChosenObject, ChosenQuestion
from crossflow.figures import explorer
from crossflow.figures.explorer_lens import DECADES, lens_map
from crossflow.figures.explorer_patching import patching_curves
from crossflow.figures.style import BOX
from made_up import bump, knockout_table, lens_map_rows

EVIL = "</script><img src=x onerror=alert(1)>"
FLOWS = {flow: bump(3 + number, 10.0 + 10 * number) for number, flow in enumerate(PUBLISHED_FLOWS)}

PATCHING = [
    {"model": "mini", "category": "ChooseAttr", "direction": direction, "set": name, "layer": layer, "n": n,
     "missing": 0, "share": layer / 8, "low": 0.0, "high": 0.5}
    for direction in ("both", "noising", "denoising")
    for name, n in (("question", 7), ("separator", 0), ("last", 7))
    for layer in (0, 1)
]  # fmt: skip
DEPTHS = [
    {"model": "mini", "category": "ChooseAttr", "set": name, "n": n, "sentence": f"The {name} holds something."}
    for name, n in (("question", 7), ("separator", 0))
]
HEADS = [
    {"model": "mini", "category": "ChooseAttr", "flow": "image->last", "layer": layer, "head": head, "n": 12}
    | {"mean": -5.0 * layer - head, "low": -20.0, "high": float("nan")}
    for layer, head in ((0, 0), (0, 1), (1, 0), (1, 1), (2, 0))
]


def _data(questions: list[dict[str, Any]]) -> dict[str, Any]:
    table = knockout_table(FLOWS, images=6)
    rows = list(summarise(table, {}, 0))
    effects = [{name: row[name] for name in EFFECTS} for row in rows if row["measure"] == "change_percent"]
    others = [{name: row[name] for name in MEASURES} for row in rows if row["measure"] != "change_percent"]
    bands = [
        {name: row[name] for name in list(BANDS)[:5]} | {"low": row["band_low"], "high": row["band_high"]}
        for row in rows
        if row["measure"] == "change_percent"
    ]
    found = {"model": "mini", "category": "ChooseAttr", "verdict": "supported", "n": 12}
    number = {"what": "a loss (%)", "value": 20.0, "low": 10.0, "high": 30.0, "sign": ">", "threshold": 5.0}
    return {
        "models": ["mini"],
        "windows": {"mini": ["3"]},
        "categories": ["ChooseAttr"],
        "measures": {measure.name: measure.words for measure in measures.MEASURES},
        "looks": explorer.looks([*FLOWS, "question", "last"]),
        "box": BOX,
        "diverging": [[0, "#08306b"], [1, "#d9730b"]],
        "head_tables": {"heads": "each head alone"},
        "heads": explorer.head_maps("heads", HEADS),
        "patching": patching_curves(PATCHING, DEPTHS),
        "ticks": {"mini": 2},
        "centres": {"mini": {flow: list(range(12)) for flow in FLOWS}},
        "curves": explorer.curves_of(effects + others, bands),
        "claims": [{"claim": 1, "says": "It flows.", "findings": [found | {"criteria": [number]}]}],
        "questions": questions,
        "notes": {"mini/ChooseAttr": "2 of 12 questions that were knocked out."},
        "images": {"1": explorer.thumbnail(Image.new("RGB", (640, 480), "teal"))},
        "lens": {
            "decades": DECADES,
            "maps": {
                f"mini/ChooseAttr/{each['id']}": lens_map(lens_map_rows(each["id"], word="<b>")) for each in questions
            },
        },
    }


def _question(text: str, number: int) -> dict[str, Any]:
    table = knockout_table(FLOWS, images=6)
    question_id = sorted(table.question_ids)[number]
    objects = (ChosenObject("object", "1", "cup", Box(40, 50, 200, 100)),)
    asked = ChosenQuestion(question_id, "1", "ChooseAttr", "d", text, "red", "red", "blue", objects)
    answer = {"generated": "Red", "correct": number == 0, "p_clean": 0.75}
    return explorer.question_row(table, asked, answer, "one of the largest changes")


def _page() -> str:
    return explorer.page(_data([_question("Is the cup red or blue?", 0), _question(EVIL, 1)]), "made up")


def test_every_mean_interval_and_band_is_in_the_page() -> None:
    data = _data([])
    (curve,) = [each for each in data["curves"] if each["flow"] == "image->question"]
    assert curve["layers"] == list(range(12))
    change = curve["measures"]["change_percent"]
    assert all(len(change[name]) == 12 for name in ("mean", "low", "high", "band_low", "band_high"))
    assert change["n"] == 12
    for low, mean, high, outer in zip(change["low"], change["mean"], change["high"], change["band_low"], strict=True):
        assert outer <= low <= mean <= high
    assert set(curve["measures"]) >= {"logprob_change", "flipped", "correct", "attention", "edges", "margin_change"}
    assert curve["measures"]["margin_change"]["n"] == 6


def test_maps_of_heads_have_a_place_for_each_head_and_layer() -> None:
    (found,) = explorer.head_maps("heads", HEADS)
    assert found["mean"] == [[0.0, -5.0, -10.0], [-1.0, -6.0, None]]
    assert found["high"] == [[None] * 3] * 2
    assert (found["table"], found["flow"], found["n"]) == ("heads", "image->last", 12)
    assert explorer.head_maps("heads", []) == []


def test_curves_of_patching_are_in_percent_and_sets_without_a_pair_are_left_out() -> None:
    found = patching_curves(PATCHING, DEPTHS)
    assert found is not None
    assert [(each["direction"], each["set"]) for each in found["curves"]] == [
        (direction, name) for direction in ("both", "noising", "denoising") for name in ("question", "last")
    ]
    assert found["curves"][0] | {"n": 7} == found["curves"][0]
    assert (found["curves"][0]["layers"], found["curves"][0]["share"]) == ([0, 1], [0.0, 12.5])
    assert [each["sentence"] for each in found["sentences"]] == ["The question holds something."]
    assert patching_curves([row | {"n": 0} for row in PATCHING], []) is None


def test_a_question_has_the_curves_of_the_studys_flows_alone() -> None:
    flows = {**FLOWS, "related~random1->question": bump(2, 5)}
    table = knockout_table(flows, images=2)
    asked = ChosenQuestion(sorted(table.question_ids)[0], "1", "c", "d", "?", "a", None, None, ())
    row = explorer.question_row(table, asked, {"generated": "A", "correct": True, "p_clean": 0.5}, "why")
    assert list(row["curves"]) == list(FLOWS)
    assert all(len(curve) == 12 for curve in row["curves"].values())
    assert row["options"] is None


def test_text_from_data_can_not_leave_its_script() -> None:
    page = _page()
    (held,) = re.findall(r'<script id="data" type="application/json">(.*?)</script>', page, re.DOTALL)
    assert "<" not in held
    assert json.loads(held)["questions"][1]["question"] == EVIL
    assert "onerror=alert" not in page.replace(held, "")
    assert "default-src 'none'" in page


def test_the_page_asks_for_nothing_outside_itself() -> None:
    own = _page().replace(explorer.plotly.offline.get_plotlyjs(), "")
    assert not re.findall(r"(?:src|href)\s*=\s*[\"']?https?:", own)
    assert "@import" not in own
    assert "fetch(" not in own


def test_half_of_the_questions_are_the_largest_and_half_a_seeded_sample() -> None:
    table = knockout_table(FLOWS, images=40)
    chosen = explorer.chosen_questions(table, 20, 0)
    assert len(chosen) == 20
    largest = {
        question: max(np.abs(curve.change[row]).max() for curve in table.curves.values())
        for row, question in enumerate(table.curves["image->last"].question_ids)
    }
    order = sorted(largest, key=lambda question: -largest[question])
    assert [question for question, why in chosen.items() if "largest" in why] == order[:10]
    assert chosen == explorer.chosen_questions(table, 20, 0)
    assert chosen != explorer.chosen_questions(table, 20, 1)
    assert set(explorer.chosen_questions(table, 100, 0).values()) == {"all questions are shown"}


def test_thumbnails_are_small_and_the_same_again() -> None:
    image = Image.effect_noise((640, 480), 60).convert("RGB")
    found = explorer.thumbnail(image)
    assert (found["width"], found["height"]) == (640, 480)
    # 1,200 of them at paper size: noise is the worst that an image can be.
    assert len(found["uri"]) < 20_000
    assert found == explorer.thumbnail(image)
    assert image.size == (640, 480)


def test_without_a_finished_study_there_is_no_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    results = tmp_path / "made-up"
    (tmp_path / "images").mkdir()
    options = [
        "--results",
        str(results),
        "--curves",
        "mini:3",
        "--categories",
        "c",
        "--seed",
        "0",
        "--images",
        str(tmp_path / "images"),
    ]
    assert main(["explorer", *options, "--output", str(tmp_path / "page.html")]) == 1
    assert "effects.csv does not exist" in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium (Debian: apt install chromium)")
def test_in_a_browser_it_draws_curves_and_the_evil_question_stays_text(tmp_path: Path) -> None:
    """The page as the browser sees it after its script has run: plots, claims, rows, and no image that was not ours."""
    script = "document.querySelector('#questions tbody tr:nth-child(2)').click(); document.querySelectorAll('th button')[2].click();"
    script += "document.querySelector('#lens-image').dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}));"
    path = tmp_path / "page.html"
    path.write_text(_page().replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=8000"]
    ran = subprocess.run(
        [*command, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    seen = re.sub(r"<script\b.*?</script>", "", ran.stdout, flags=re.DOTALL)
    assert seen.count('class="trace scatter') >= 2 * len(FLOWS), "both plots have their lines"
    assert seen.count('class="hm"') == 1, "the map of heads is drawn"
    assert re.search(r'<section[^>]*id="patching"(?![^>]*hidden)', seen), "patching is drawn"
    assert "<li>The question holds something.</li>" in seen
    assert '<span class="verdict supported">supported</span>' in seen
    assert seen.count("data-id=") == 2
    assert "&lt;/script&gt;&lt;img src=x onerror=alert(1)&gt;" in seen
    assert "<img src=x" not in seen.replace("&lt;img src=x", "")
    assert 'aria-sort="ascending"' in seen
    assert re.search(r'<section[^>]*id="one"(?![^>]*hidden)', seen), "a question is open"
    assert seen.count("data:image/jpeg;base64,") == 2
    (said,) = re.findall(r'<p id="lens-cell"[^>]*>(.*?)</p>', seen)
    # After one layer, the second token of the view of the whole image.
    assert said.startswith(
        "“&lt;b&gt;3” (p = 0.1); probability of the answer 0.0333; probability of the object's name 0.05;"
    )
    assert "<b>" not in seen
    assert 'viewBox="0 0 640 480"' in seen


def test_the_rule_of_the_explorer_depends_on_every_file_of_the_page(repo: Path) -> None:
    rule = (repo / "workflow/rules/figures.smk").read_text().partition("rule explorer:")[2].partition("output:")[0]
    assert set(re.findall(r'"([a-z]+\.(?:html|css|js))"', rule)) == set(explorer.PAGE_FILES)
    there = {path.name for path in (repo / "workflow/crossflow/figures/explorer_page").iterdir()}
    assert there == set(explorer.PAGE_FILES)
