"""The memory plan against what torch allocates on the CPU, what follows from it, and what loading holds."""

import dataclasses
import runpy
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch.profiler import ProfilerActivity, profile, record_function

import tiny_families
from crossflow.cli.main import main
from crossflow.core.errors import CrossflowError
from crossflow.core.flows import PUBLISHED_FLOWS, Window, parse_flow
from crossflow.core.records import ChosenQuestion
from crossflow.data.chosen import write_chosen
from crossflow.engine import planning
from crossflow.engine import shared_prefix as engine_module
from crossflow.engine.edges import Edges, Row, edges_of, rows_of
from crossflow.engine.forward import full_forward, run_clean, run_clean_together
from crossflow.engine.planning import plan_answers, plan_knockout
from crossflow.engine.shared_prefix import run_knockouts
from crossflow.experiments.answers import answer_together
from crossflow.experiments.logit_lens import last_states, track
from crossflow.models import loading, memory
from crossflow.models.attention import Plain
from crossflow.models.loading import sketch_model
from crossflow.models.memory import GIB, Sizes
from crossflow.models.model import ModelSettings, MultimodalModel, Prepared
from loaded_families import require_processor
from tiny import draw_world, load_tiny

QUESTION = ChosenQuestion("1", "1", "ChooseAttr", "", "Is the ball red or blue?", "red", "red", "blue", ())
TILE = {"image_size": 168, "patch_size": 14}
# Each is fullest in another place: scores, the MLP, the record of many layers, the vision tower.
GEOMETRIES: dict[str, dict[str, Any]] = {
    "scores": {"architecture": "llava_next", "layers": 3, "width": 256, "heads": 8, "key_value_heads": 2, **TILE},
    "wide": {"layers": 3, "width": 512, **TILE},
    "deep": {"layers": 16, "width": 128, **TILE},
    "tower": {
        "architecture": "llava_next", "layers": 2, "heads": 2, "key_value_heads": 1,
        "vision_width": 512, "vision_layers": 4, **TILE,
    },
}  # fmt: skip
# Below it, the memory allocator's grain and the shortest-lived trifles count, and on a CPU what its attention kernel
# has for each thread: scores of up to 64 queries and 512 keys.
TRIFLE = (64 + 128 * torch.get_num_threads()) * 1024


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("memory")


def _prepared(model: MultimodalModel, size: tuple[int, int] = (400, 400)) -> Prepared:
    return model.prepare(QUESTION, Image.new("RGB", size, (9, 99, 200)))


class _Allocations:
    """What torch allocates in named pieces of work, between `__enter__` and `__exit__`."""

    def __init__(self) -> None:
        self._profile = profile(activities=[ProfilerActivity.CPU], profile_memory=True)

    def __enter__(self) -> "_Allocations":
        self._profile.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._profile.__exit__(*error)

    def of(self, name: str, work: Callable[[], Any]) -> Any:
        with record_function(name):
            return work()

    def held(self) -> dict[str, np.ndarray]:
        """The bytes held for each piece of work after each of its allocations, in order."""
        events = self._profile.profiler.kineto_results.events()
        changes = np.array(sorted((e.start_ns(), e.nbytes()) for e in events if e.name() == "[memory]"))
        spans = {e.name(): (e.start_ns(), e.end_ns()) for e in events if e.name().startswith("work ")}
        return {
            name.removeprefix("work "): np.cumsum(changes[(start <= changes[:, 0]) & (changes[:, 0] <= end), 1])
            for name, (start, end) in spans.items()
        }


def _assert_planned(planned: int, measured: np.integer, scratch: int = 0) -> None:
    assert measured <= planned + TRIFLE + scratch
    assert planned <= 1.5 * measured + TRIFLE


def _scratch(model: MultimodalModel, positions: int) -> int:
    """What this machine's widest product allocates beside its result: a CPU without bf16 units sums it in fp32."""
    widest = max(model.network.config.get_text_config().intermediate_size, model.sizes.width)
    states = torch.zeros(positions, model.sizes.width, dtype=model.network.dtype)
    weight = torch.zeros(widest, model.sizes.width, dtype=model.network.dtype)
    with _Allocations() as allocations:
        allocations.of("work product", lambda: torch.nn.functional.linear(states, weight))
    held = allocations.held()["product"]
    return int(held.max() - positions * widest * weight.element_size())


@pytest.mark.parametrize("dtype", ["float32", pytest.param("bfloat16", marks=pytest.mark.long)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_the_plan_is_an_upper_bound_and_at_most_half_too_large(folder: Path, name: str, dtype: str) -> None:
    model = load_tiny(folder / name, dtype, **GEOMETRIES[name])
    _assert_plan_holds(model, model.sizes, _prepared(model))


# Wide enough for the decoder's arithmetic to outweigh what is neither planned nor grows.
WIDER = {"hidden_size": 512, "intermediate_size": 1536, "num_attention_heads": 32, "num_key_value_heads": 16}


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", tiny_families.FAMILIES)
def test_the_plan_of_every_family_is_an_upper_bound_and_at_most_half_too_large(
    tmp_path: Path, name: str, dtype: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_processor(name)
    monkeypatch.setattr(tiny_families, "TEXT", tiny_families.TEXT | WIDER)
    tiny_families.write(tmp_path, tiny_families.FAMILIES[name])
    model = tiny_families.load(tmp_path, dtype=dtype)
    sizes = model.sizes_for([(400, 300)])  # families with grids of tiles are planned for their largest
    _assert_plan_holds(model, sizes, _prepared(model, sizes.largest))


def _assert_plan_holds(model: MultimodalModel, sizes: Sizes, prepared: Prepared) -> None:
    """Compare the plan with what torch allocates for questions with the largest image."""
    model = dataclasses.replace(model, settings=dataclasses.replace(model.settings, max_new_tokens=2))
    positions, sets = prepared.positions.length, prepared.positions
    first = int(sets["question"][0])
    run_clean(model, prepared, first)  # what is made once for the process is not the question's

    batches = [(target, count) for target in ("question", "last") for count in (1, 4, 16)]
    with _Allocations() as allocations:
        allocations.of("work forward", lambda: full_forward(model, prepared, Plain()).logits[0])
        clean = allocations.of("work clean", lambda: run_clean(model, prepared, first))
        allocations.of("work together", lambda: run_clean_together(model, [prepared] * 3, [first] * 3))
        for target, count in batches:
            rows = [Row("flow", 0, Window(0, 1), (Edges(sets["image"], sets[target]),))] * count
            allocations.of(f"work {target} {count}", lambda rows=rows: run_knockouts(model, clean, rows).logits)
        for count in (1, 3):
            allocations.of(
                f"work {count} answers",
                lambda count=count: answer_together(model, [prepared] * count, [True] * count),
            )
        allocations.of("work lens", lambda: track(model, *last_states(model, [prepared]), {"answer": 1}))
    held = allocations.held()
    assert len(held) == 6 + len(batches)

    one, three = (_scratch(model, count * positions) for count in (1, 3))
    _assert_planned(sizes.forward(positions), held["forward"].max(), one)
    _assert_planned(sizes.clean_run(positions, first), held["clean"].max(), one)
    _assert_planned(sizes.record(positions, first), held["clean"][-1])
    _assert_planned(sizes.clean_runs(3, positions, first), held["together"].max(), three)
    for target, count in batches:
        start = int(sets[target][0])
        beside = sizes.group(positions, start) + three
        _assert_planned(sizes.batch([sizes.row(positions, start)] * count), held[f"{target} {count}"].max(), beside)
    for count in (1, 3):
        plan = plan_answers(sizes, positions, model.settings.max_new_tokens, GIB, 3 * positions)
        assert plan.questions == 3
        _assert_planned(plan.question * count // 3, held[f"{count} answers"].max(), three)
    # A lens job is planned as an answers job, whose cache it does not have.
    assert held["lens"].max() <= sizes.answer(positions, model.settings.max_new_tokens) + one


@pytest.mark.parametrize("name", ["scores", "wide"])
def test_sizes_are_known_without_the_weights(folder: Path, name: str, tmp_path: Path) -> None:
    loaded = load_tiny(folder / name, "bfloat16", **GEOMETRIES[name])
    for file in (folder / name).iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    sizes = sketch_model(ModelSettings(tmp_path, "vicuna-v1", dtype="bfloat16"), torch.device("cpu")).sizes
    assert sizes == loaded.sizes
    held = [*loaded.network.parameters(), *loaded.network.buffers()]
    assert sizes.weights == sum(tensor.untyped_storage().nbytes() for tensor in held)


def test_no_image_has_more_visual_tokens_than_planned(folder: Path) -> None:
    model = load_tiny(folder / "anyres", architecture="llava_next", layers=1, width=32)
    images = [(w, h) for w in (40, 72, 100, 144, 216, 500) for h in (40, 72, 100, 144, 216, 500)]
    counts = [len(_prepared(model, size).positions["image"]) for size in images]
    assert max(counts) == model.sizes.visual
    assert len(set(counts)) > 3


def test_a_job_is_planned_for_its_own_images_where_a_model_takes_any_size(tmp_path: Path) -> None:
    tiny_families.write(tmp_path, tiny_families.FAMILIES["qwen2_vl"])
    settings = ModelSettings(tmp_path, "chat-template", patches="overlap")
    small, large = (dataclasses.replace(QUESTION, image_size=size) for size in ((60, 60), (400, 300)))
    refused = dataclasses.replace(QUESTION, image_size=(1, 1000))
    parts = [[small, refused], [small, large], [small, QUESTION], [refused]]
    # If a size is unknown, the largest that the processor makes counts.
    together = planning.plan_parts(settings, parts, torch.device("cpu"))
    assert together == [planning.plan_parts(settings, [part], torch.device("cpu"))[0] for part in parts]
    assert together[0] > together[1] > together[2] == together[3] == 1


@pytest.fixture(scope="module")
def published(repo: Path) -> dict[str, Any]:
    return runpy.run_path(str(repo / "benchmarks" / "memory.py"))


@pytest.mark.parametrize(
    ("slug", "visual", "billions", "card"),
    [
        ("llava15-7b", 576, 7.06, "24 GB"),
        ("llava15-13b", 576, 13.35, "40 GB"),
        ("llava16-vicuna-7b", 2928, 7.06, "24 GB"),
        ("llama3-llava-next-8b", 2928, 8.36, "24 GB"),
        ("llava16-vicuna-13b", 2928, 13.35, "40 GB"),
    ],
)
def test_a_published_model_fits_into_its_card(
    published: dict[str, Any], slug: str, visual: int, billions: float, card: str
) -> None:
    sizes: Sizes = published["published_sizes"](slug, "float16")
    assert sizes.visual == visual
    assert sizes.weights / 2 == pytest.approx(billions * 1e9, rel=2e-3)
    needed = published["need"](sizes, list(PUBLISHED_FLOWS))
    assert needed.card == card
    assert needed.plan.batch > 32, "a card on which rows run in small batches is not the model's"
    whole = published["card_bytes"](80)
    large = plan_knockout(sizes, needed.positions, needed.positions - 64, PUBLISHED_FLOWS, int(0.9 * whole))
    # Three flows to a question and what follows it, 64 positions, and three to the last.
    assert large.questions == -(-memory.ENOUGH["cuda"] // ((3 * sizes.layers + 1) * 65)) > 1
    assert large.batch == large.questions * 2 * (3 * sizes.layers + 1), "in 80 GB nothing is cut"


def test_batches_are_the_largest_that_fit(folder: Path) -> None:
    sizes = load_tiny(folder / "scores", **GEOMETRIES["scores"]).sizes
    rows = [(sizes.row(600, 550), 50)] * 300 + [(sizes.row(600, 599), 1)] * 200
    bytes_, positions = (sum(part) for part in zip(*rows, strict=True))
    for room in np.linspace(rows[0][0], bytes_, 7).astype(int).tolist():
        for most in (50, 1000, positions):
            batches = memory.batches(rows, room, most)
            assert [number for batch in batches for number in batch] == list(range(500))
            for batch in batches:
                together, longer = rows[batch.start : batch.stop], rows[batch.start : batch.stop + 1]
                for part, limit in enumerate((room, most)):
                    assert sum(row[part] for row in together) <= limit
                assert batch.stop == 500 or sum(row[0] for row in longer) > room or sum(row[1] for row in longer) > most
    assert memory.batches(rows, 0, positions) == [range(number, number + 1) for number in range(500)]
    assert memory.batches(rows, bytes_, positions) == [range(500)]


@pytest.fixture(scope="module")
def small(folder: Path) -> MultimodalModel:
    return load_tiny(folder / "small", layers=3, width=32)


def _all_rows(prepared: Prepared, layers: int) -> list[Row]:
    flows = {
        name: edges_of(parse_flow(name), prepared.positions, 0, "") for name in ("image->question", "question->last")
    }
    return [row for name, edges in flows.items() for row in rows_of(name, edges, "1", layers)]


def test_batches_follow_from_the_total_memory_and_change_no_result(
    small: MultimodalModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared = _prepared(small)
    rows = _all_rows(prepared, 3)
    start, positions, sizes = int(prepared.positions["question"][0]), prepared.positions.length, small.sizes
    clean = run_clean(small, prepared, start)
    ran: list[int] = []
    original = engine_module._run_suffixes
    monkeypatch.setattr(engine_module, "_run_suffixes", lambda m, batch: ran.append(len(batch)) or original(m, batch))
    whole = run_knockouts(small, clean, rows).logits
    assert ran == [6]
    ran.clear()
    needed = (
        sizes.weights
        + sizes.record(positions, start)
        + sizes.measures(len(rows))
        + sum(sizes.group(positions, start) for start in {row.start for row in rows})
        + sizes.batch([sizes.row(positions, start)] * 2)
    )
    monkeypatch.setattr(memory, "total_memory", lambda device: int(needed / memory.USABLE) + 1)
    cut = run_knockouts(small, clean, rows).logits
    assert ran == [2, 4]  # the last three are one position long
    torch.testing.assert_close(cut, whole, rtol=1e-5, atol=1e-5)


def test_the_mini_studys_batches_are_whole_on_any_machine(repo: Path) -> None:
    sizes = sketch_model(ModelSettings(repo / "resources" / "mini-llava", "vicuna-v1"), torch.device("cpu")).sizes
    # 36 visual tokens and fewer than 100 of text.
    flows = yaml.safe_load((repo / "params.yaml").read_text())["studies"]["mini"]["flows"]
    plan = plan_knockout(sizes, 136, 36, flows, GIB // 4)
    assert plan.batch == plan.questions * (len(flows) * sizes.layers + 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_in_parts_are_those_of_the_whole(small: MultimodalModel, dtype: torch.dtype) -> None:
    width = 2048
    generator = torch.Generator().manual_seed(0)
    rows = memory.CONVERTED_AT_ONCE // width
    weight = torch.randn(2 * rows + 320, width, generator=generator).to(dtype)
    network = SimpleNamespace(lm_head=SimpleNamespace(weight=weight))
    model = dataclasses.replace(small, network=network)
    for count in (1, 20):
        normed = torch.randn(count, width, generator=generator).to(dtype)
        # Bit-equal where it was measured; another machine's kernels may sum another shape in another order.
        torch.testing.assert_close(model.logits(normed), normed.float() @ weight.float().T, rtol=1e-5, atol=1e-4)


def _mapped(network: torch.nn.Module, folder: Path) -> list[bool]:
    """Whether each weight is a part of a file that is mapped into memory, and no copy of it."""
    maps = Path("/proc/self/maps")
    if not maps.exists():
        pytest.skip("the kernel does not list this process's mappings")
    lines = [line.split() for line in maps.read_text().splitlines() if str(folder) in line]
    spans = [tuple(int(end, 16) for end in line[0].split("-")) for line in lines]
    return [any(low <= tensor.data_ptr() < high for low, high in spans) for tensor in network.parameters()]


def test_weights_of_the_asked_type_are_mapped_and_not_copied(small: MultimodalModel, folder: Path) -> None:
    assert all(_mapped(small.network, folder / "small"))


def test_weights_reach_the_device_one_by_one_without_a_copy_of_the_whole(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where their type changes; what has arrived on the device takes none of the host's memory."""
    settings = load_tiny(folder / "deep", **GEOMETRIES["deep"]).settings
    move, check = loading._move, loading.require_finite
    sizes: list[int] = []

    def moving(path: Path, network: torch.nn.Module, *target: Any) -> None:
        assert all(_mapped(network, path))
        with _Allocations() as allocations:
            allocations.of("work load", lambda: move(path, network, *target))
        assert 0 < allocations.held()["load"].max() <= max(sizes) + TRIFLE < sum(sizes) / 4

    def arrived(path: Path, name: str, weight: torch.Tensor) -> None:
        check(path, name, weight)
        assert weight.dtype == torch.bfloat16
        sizes.append(weight.nbytes)
        weight.data = weight.data.new_empty(0)

    monkeypatch.setattr(loading, "_move", moving)
    monkeypatch.setattr(loading, "require_finite", arrived)
    loading.load_model(dataclasses.replace(settings, dtype="bfloat16"), torch.device("cpu"))
    assert sizes


@pytest.fixture
def job(small: MultimodalModel, tmp_path: Path) -> list[str]:
    """An answers job on a model whose weights are not there: whatever it says, it says before it reads them."""
    for file in small.settings.path.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    write_chosen(tmp_path / "questions.csv", draw_world(tmp_path / "world", 3)["ChooseAttr"])
    return [
        "answers", "--questions", str(tmp_path / "questions.csv"), "--root", str(tmp_path / "world"),
        "--output", str(tmp_path / "answers"),
        "--model-path", str(tmp_path), "--prompt", "vicuna-v1", "--device", "cpu",
    ]  # fmt: skip


def test_a_job_says_what_it_needs_before_it_reads_weights(
    job: list[str], caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("INFO", "crossflow")
    assert main(job) == 1
    assert "cannot be loaded" in capsys.readouterr().err
    (line,) = [record.getMessage() for record in caplog.records if record.name == "crossflow.engine.planning"]
    assert "GiB" in line
    assert "on this machine: weights 0.0" in line
    assert "for the answers to 8 questions" in line


def test_a_job_that_can_not_fit_is_refused_in_one_sentence(
    job: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for module in (memory, planning):
        monkeypatch.setattr(module, "total_memory", lambda device: 10**6)
    assert main(job) == 1
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert "GiB of memory as float32" in last
    assert "this machine has 0.001" in last
    assert "set a dtype of half its size, or take a device with more memory." in last


def test_the_least_that_a_job_can_do_with_is_the_weights_a_clean_run_and_one_row(small: MultimodalModel) -> None:
    sizes = small.sizes
    plan = plan_knockout(sizes, 100, 60, ["image->question", "image->last"], 0)
    assert plan.batch == 1
    assert plan.smallest == sizes.weights + plan.least
    assert plan.least >= plan.question == sizes.clean_run(100, 60)
    longer = plan_knockout(sizes, 100, 60, ["question->image"], 0)
    assert longer.least > plan.least, "a row that begins before the image is as long as the prompt"
    reference = plan_knockout(sizes, 100, 60, ["image->question"], 0, batched=False)
    assert reference.rows >= sizes.record(100, 60) + sizes.forward(100)


def test_a_larger_type_needs_more(small: MultimodalModel) -> None:
    half = dataclasses.replace(small.sizes, itemsize=2)
    for needed in ("forward", "answer"):
        more = (16,) if needed == "answer" else ()
        assert getattr(small.sizes, needed)(4000, *more) > 0.6 * getattr(half, needed)(4000, *more)
    with pytest.raises(CrossflowError, match="not of the form"):
        plan_knockout(small.sizes, 100, 60, ["nothing"], 0)
