"""The lens over the image and the question: its job, its numbers against transformers' own, and a planted word."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from crossflow.cli.main import main
from crossflow.core.flows import parse_flow
from crossflow.core.image_lens import IMAGE_LENS, LENS_MAPS, LENS_WORDS, PLACES, TOKENS
from crossflow.core.records import Box
from crossflow.core.tables import ANSWERS, read_parquet
from crossflow.data.chosen import write_chosen
from crossflow.engine import planning
from crossflow.engine.attention_mass import attention_weights
from crossflow.engine.edges import edges_of
from crossflow.engine.forward import run_clean
from crossflow.experiments import image_lens
from crossflow.experiments.image_lens import places_in
from crossflow.experiments.lens_map import LensMap
from crossflow.experiments.token_lens import Words, read_positions, words_of
from crossflow.figures import style
from crossflow.figures.trace import draw_words
from crossflow.models.model import MultimodalModel, Prepared
from loaded_families import question_about
from tiny import draw_world, load_tiny, prepare_some

LAYERS = 3
GEOMETRIES = {
    "tiled": {"architecture": "llava_next", "layers": LAYERS},
    "grouped": {"architecture": "llava", "layers": LAYERS, "width": 32, "key_value_heads": 2},
}


@pytest.fixture(scope="module", params=list(GEOMETRIES))
def asked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[MultimodalModel, Prepared]:
    root = tmp_path_factory.mktemp("image-lens")
    model = load_tiny(root / "model", **GEOMETRIES[request.param])
    (prepared,) = prepare_some(model, root / "world", draw_world(root / "world", 5)["ChooseAttr"][:1])
    return model, prepared


def _theirs(model: MultimodalModel, prepared: Prepared) -> np.ndarray:
    """Probabilities from transformers' hidden states; those after the last layer have passed the norm."""
    with torch.inference_mode():
        *states, last = model.network(**prepared.inputs, output_hidden_states=True).hidden_states
        normed = [*map(model.norm, states), last]
        return torch.stack([model.network.lm_head(each[0]).double().softmax(-1) for each in normed]).numpy()


def test_the_lens_reads_what_transformers_states_say(asked: tuple[MultimodalModel, Prepared]) -> None:
    model, prepared = asked
    first = int(prepared.positions["image"][0])
    every = np.arange(first, prepared.length)
    found = read_positions(model, run_clean(model, prepared, first), every, [[3], [7, 9]], 4)
    theirs = _theirs(model, prepared)[:, first:]
    assert found.probabilities.shape == (LAYERS + 1, len(every), 2)
    np.testing.assert_allclose(
        found.probabilities, np.stack([theirs[..., 3], theirs[..., 7] + theirs[..., 9]], axis=-1), rtol=0, atol=2e-6
    )
    np.testing.assert_allclose(found.theirs, np.sort(theirs, axis=-1)[..., :-5:-1], rtol=0, atol=2e-6)
    np.testing.assert_allclose(np.take_along_axis(theirs, found.likeliest, axis=-1), found.theirs, rtol=0, atol=2e-6)


def test_at_the_end_the_lens_is_the_models_own_prediction(asked: tuple[MultimodalModel, Prepared]) -> None:
    model, prepared = asked
    last = prepared.positions["last"]
    clean = run_clean(model, prepared, int(last[0]))
    own = clean.logits.double().softmax(-1).numpy()
    found = read_positions(model, clean, last, [], 10**6)
    assert found.likeliest.shape == (LAYERS + 1, 1, len(own))
    np.testing.assert_allclose(found.theirs[-1, 0], own[found.likeliest[-1, 0]], rtol=0, atol=1e-6)


def test_slices_do_not_matter(asked: tuple[MultimodalModel, Prepared]) -> None:
    model, prepared = asked
    image = prepared.positions["image"]
    clean = run_clean(model, prepared, int(image[0]))
    whole, sliced = (read_positions(model, clean, image, [[3]], 1, at_once) for at_once in (2**24, 1))
    np.testing.assert_allclose(sliced.probabilities, whole.probabilities, rtol=0, atol=1e-6)
    np.testing.assert_array_equal(sliced.likeliest, whole.likeliest)


def test_the_random_tokens_are_those_of_the_knockouts_control(asked: tuple[MultimodalModel, Prepared]) -> None:
    _, prepared = asked
    sets, question_id = prepared.positions, prepared.question.question_id
    found = places_in(prepared, 5)
    assert tuple(found) == PLACES
    (edges,) = edges_of(parse_flow("related~random1->question"), sets, 5, question_id)
    np.testing.assert_array_equal(found["random"], edges.sources)
    assert len(found["random"]) == len(sets["related"]) > 0
    assert not np.isin(found["random"], np.union1d(sets["related"], sets["padding"])).any()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("image-lens-job")
    load_tiny(root / "model", **GEOMETRIES["grouped"])
    write_chosen(root / "questions.csv", draw_world(root / "world", 5)["ChooseAttr"][:4])
    assert main(["answers", *_job(root), "--output", str(root / "answers")]) == 0
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(planning, "AT_ONCE", 2)
        assert _run(root, root / "lens") == 0
    return root


def _job(root: Path) -> list[str]:
    job = ["--questions", str(root / "questions.csv"), "--root", str(root / "world")]
    return [*job, "--model-path", str(root / "model"), "--prompt", "vicuna-v1", "--device", "cpu"]


def _run(root: Path, output: Path) -> int:
    options = ["--answers", str(root / "answers"), "--select", "all", "--words", "3", "--maps", "2"]
    return main(["image-lens", *_job(root), *options, "--output", str(output)])


def test_every_place_token_and_layer_has_its_row(made: Path) -> None:
    table, metadata = read_parquet(made / "lens/questions.parquet", IMAGE_LENS)
    assert len(table) == 4 * len(PLACES) * len(TOKENS) * (LAYERS + 1)
    assert (metadata["layers"], metadata["selected"], metadata["excluded"]) == (LAYERS, 4, 0)
    for _, rows in table.groupby(["question_id", "place", "token"]):
        assert rows["layer"].tolist() == list(range(LAYERS + 1))
    missing = table["positions"].eq(0) | table["word"].isna()
    assert table["probability"].isna().equals(missing)
    assert table["top"].isna().equals(missing)
    assert table.loc[~missing, "probability"].between(0, 1).all()
    answers, _ = read_parquet(made / "answers/questions.parquet", ANSWERS)
    words = table[table["token"] == "answer"].groupby("question_id")["word"].first()
    assert words.to_dict() == dict(zip(answers["question_id"], answers["generated"], strict=True))


def test_words_at_the_last_position_end_with_the_answer(made: Path) -> None:
    table, _ = read_parquet(made / "lens/questions.words.parquet", LENS_WORDS)
    answers, _ = read_parquet(made / "answers/questions.parquet", ANSWERS)
    best = table[(table["layer"] == LAYERS) & (table["rank"] == 1)].set_index("question_id")
    for row in answers.itertuples():
        assert best.loc[row.question_id, "token_id"] == row.first_token
        assert best.loc[row.question_id, "probability"] == pytest.approx(row.p_clean, abs=1e-6)
    for _, rows in table.groupby(["question_id", "layer"]):
        assert rows["rank"].tolist() == list(range(1, 51))
        assert rows["probability"].is_monotonic_decreasing


def test_maps_are_of_the_first_questions_and_agree_with_the_curves(made: Path) -> None:
    maps, _ = read_parquet(made / "lens/questions.maps.parquet", LENS_MAPS)
    table, _ = read_parquet(made / "lens/questions.parquet", IMAGE_LENS)
    asked = list(dict.fromkeys(table["question_id"]))
    assert list(dict.fromkeys(maps["question_id"])) == asked[:2]
    assert {len(words) for words in maps["words"]} == {3}
    assert maps.groupby("layer")["attention_last"].count().tolist() == [len(maps) // (LAYERS + 1)] * LAYERS + [0]
    answers = table[table["token"] == "answer"].set_index(["question_id", "layer", "place"])
    sizes = answers["positions"]
    for (question, layer), rows in maps.groupby(["question_id", "layer"]):
        # Without padding and newlines, the related and the other tokens are the image.
        related, other = ((question, layer, place) for place in ("related", "other"))
        assert len(rows) == sizes[related] + sizes[other]
        parts = sum(answers.loc[place, "probability"] * sizes[place] for place in (related, other) if sizes[place])
        assert rows["p_answer"].sum() == pytest.approx(parts, abs=1e-9)
        assert rows["p_object"].notna().all()


def test_a_killed_job_resumes_and_writes_the_same_bytes(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(planning, "AT_ONCE", 2)
    entry, ran = image_lens.ImageLens.entry, []

    def killed(self: image_lens.ImageLens, *arguments: object) -> object:
        if len(ran) == 2:
            raise KeyboardInterrupt
        ran.append(arguments)
        return entry(self, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patched:
        patched.setattr(image_lens.ImageLens, "entry", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(made, tmp_path)
    (journal,) = tmp_path.glob("*.jsonl")
    assert len(journal.read_text().splitlines()) == 1 + 2
    assert _run(made, tmp_path) == 0
    tables = list((made / "lens").glob("*.parquet"))
    assert len(tables) == 3
    for table in tables:
        assert (tmp_path / table.name).read_bytes() == table.read_bytes()


PLANTED, FROM = 8, 2
"""The patch that says a word, in reading order, and the layer from whose end on it does."""


def test_a_planted_word_is_read_at_its_place_and_from_its_layer_on_alone(tmp_path: Path) -> None:
    model = load_tiny(tmp_path, **GEOMETRIES["grouped"])
    network, question = model.network, question_about(Box(24, 12, 12, 12))
    (word,) = model.processor.tokenizer.encode("ball", add_special_tokens=False)
    tower, projector = network.model.vision_tower, network.model.multi_modal_projector
    with torch.no_grad():
        # The tower knows places only, and marks one; the projector writes the mark into the first dimension.
        tower.embeddings.patch_embedding.weight.zero_()
        mark = tower.embeddings.position_embedding.weight[1 + PLANTED].clone()
        tower.embeddings.position_embedding.weight.zero_()
        tower.embeddings.position_embedding.weight[1 + PLANTED] = mark
        for layer in tower.encoder.layers:
            layer.self_attn.out_proj.weight.zero_()
            layer.mlp.fc2.weight.zero_()
        for linear, row in (
            (projector.linear_1, mark),
            (projector.linear_2, torch.eye(len(projector.linear_2.weight))[0]),
        ):
            linear.weight.zero_()
            linear.weight[0] = row
        # One layer turns it into the word.
        for number, layer in enumerate(model.layers):
            layer.self_attn.o_proj.weight.zero_()
            layer.mlp.down_proj.weight.zero_()
            if number == FROM - 1:
                for linear in (layer.mlp.gate_proj, layer.mlp.up_proj):
                    linear.weight[0] = torch.eye(linear.weight.shape[1])[0]
                layer.mlp.down_proj.weight[:, 0] = 10 * network.lm_head.weight[word]
    image = Image.new("RGB", (72, 72), "red")
    table = LensMap.asked(model, model.prepare(question, image), "red", 1, image.size).table()
    says = table[table["words"].str[0] == "ball"]
    assert says["layer"].tolist() == list(range(FROM, LAYERS + 1))
    assert says[["left", "top", "width", "height"]].to_numpy() == pytest.approx(
        np.tile([24, 12, 12, 12], (2, 1)), abs=0.5
    )
    assert says["p_object"].min() > 0.5
    assert table.drop(says.index)["p_object"].max() < 0.1


def test_the_map_holds_the_attention_that_reads_each_state(asked: tuple[MultimodalModel, Prepared]) -> None:
    model, prepared = asked
    sets, size = prepared.positions, prepared.question.image_size
    assert size is not None
    table = LensMap.asked(model, prepared, "red", 2, size).table().set_index("layer")
    for layer, weights in enumerate(attention_weights(run_clean(model, prepared, 0))):
        for target in ("last", "question"):
            mean = weights[:, sets[target]][..., sets["image"]].double().mean(dim=(0, 1))
            np.testing.assert_allclose(table.loc[layer, f"attention_{target}"], mean, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(table.loc[layer, "position"], sets["image"])
        without_place = prepared.visual.newline | prepared.visual.padding
        np.testing.assert_array_equal(table.loc[layer, "left"].isna(), without_place)


def test_a_word_keeps_the_space_before_it_and_a_row_without_a_token_has_a_name() -> None:
    pieces = {1: "▁dog", 2: "dog", 3: "Ġdog", 4: None}

    class Tokenizer:
        def decode(self, tokens: list[int]) -> str:
            return {1: "dog", 2: "dog", 3: " dog", 4: ""}[tokens[0]]

        def convert_ids_to_tokens(self, token: int) -> str | None:
            return pieces[token]

    assert [Words(Tokenizer()).of(token) for token in pieces] == [" dog", "dog", " dog", "<4>"]


def test_a_word_is_read_in_all_its_forms_and_unknown_words_are_not(asked: tuple[MultimodalModel, Prepared]) -> None:
    tokenizer = asked[0].processor.tokenizer
    question = replace(question_about(Box(0, 0, 9, 9)), false_option="zeppelin")
    found = words_of(Words(tokenizer), tokenizer, question, "Red")
    assert {name: (each.word, tokenizer.convert_ids_to_tokens(each.tokens)) for name, each in found.items()} == {
        "object": ("ball", ["Ball", "ball"]),
        "answer": ("Red", ["Red", "red"]),
    }


def test_the_figure_of_a_trace_writes_a_word_on_each_token_that_shows_the_whole_image(
    asked: tuple[MultimodalModel, Prepared],
) -> None:
    model, prepared = asked
    size = prepared.question.image_size
    assert size is not None
    lens = LensMap.asked(model, prepared, "red", 2, size)
    with style.own_settings():
        page = draw_words(lens, Image.new("RGB", size), [], "heading")
    view = lens.places.views[0]
    panels = [axes for axes in page.axes if axes.texts]
    assert [axes.get_title() for axes in panels] == [f"layer {layer}" for layer in range(LAYERS + 1)]
    for layer, axes in enumerate(panels):
        words = [lens.words.of(token)[:7] for token in lens.reading.likeliest[layer, view, 0].tolist()]
        assert [text.get_text().rstrip("…")[:7] for text in axes.texts] == words
