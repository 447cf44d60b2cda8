"""How fast knockouts run on this machine, compared with the published procedure and with the unavoidable work.

One run measures everything on questions of one shape: a model of true size (or narrower) with random weights, a
prompt of true token counts, the six published flows at every centre layer.

published
    One full multimodal forward per flow and layer, in its most generous form: the mask is built once per forward, on
    the device, and PyTorch's own fused attention is used.
reference
    `crossflow.engine.reference`.
engine
    `crossflow.engine.shared_prefix`: one clean run and a suffix per row, with as many questions together as in a job.

The *bound* is the ratio of operations between one full forward per row and the engine's unavoidable work, counted as
positions x layers. The *floor* is the time of the unavoidable operations (one clean forward with its tower, the
suffixes and their output embeddings) at the rate of large matrix products, measured on the same device in the same run.
"""

import resource
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForImageTextToText
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from crossflow.core.flows import PUBLISHED_FLOWS, parse_flow
from crossflow.core.records import ChosenQuestion
from crossflow.engine.edges import Row, blocked, edges_of, rows_of
from crossflow.engine.forward import CleanRun, Readout, full_forward, run_clean, run_clean_together
from crossflow.engine.planning import plan_knockout
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_together
from crossflow.models import attention
from crossflow.models.architectures import ARCHITECTURES
from crossflow.models.attention import Call
from crossflow.models.memory import capacity, enough_positions
from crossflow.models.model import DTYPES, ModelSettings, MultimodalModel, Prepared
from crossflow.models.positions import Positions
from crossflow.models.visual_tokens import VisualTokens
from crossflow.verify.clock import Cost
from crossflow.verify.true_sizes import is_tiled, true_config

# Tokens of a vicuna-v1 prompt with mean counts of the published questions; an image of GQA's usual size.
SYSTEM, SEPARATOR, QUESTION, AFTER = 35, 2, 12, 17
IMAGE = (500, 375)
RELATED = 20  # visual tokens of a typical object

Result = TypeVar("Result")


class Timing(NamedTuple):
    """Seconds per question, and the number of runs behind them."""

    seconds: float
    runs: int


class Bench(NamedTuple):
    """The measurements.

    Attributes:
        positions: Length of the prompt.
        rows: Knockouts of a question.
        together: Questions that the engine runs together.
        timings: Name -> seconds per question; the time of a full forward is multiplied by the number of rows.
        bound: Ratio of operations, positions x layers.
        operations: Unavoidable operations of a question.
        forward: Operations of its clean forward alone.
        rate: Operations per second of large matrix products.
        differences: Name -> largest difference in probability from the engine.
        memory: Peak memory of the engine, in bytes.
    """

    positions: int
    rows: int
    together: int
    timings: dict[str, Timing]
    bound: float
    operations: float
    forward: float
    rate: float
    differences: dict[str, float]
    memory: int

    @property
    def floor(self) -> float:
        """Seconds that the unavoidable operations take at the measured rate."""
        return self.operations / self.rate


def build_model(
    slug: str,
    layers: int | None,
    width: int | None,
    tower: bool,
    dtype: str,
    device: torch.device,
    side: int | None = None,
) -> MultimodalModel:
    """A model from `true_config`, with the same arguments and random weights drawn on the device."""
    torch.manual_seed(0)
    config = true_config(slug, layers, width, tower, side)
    with torch.device(device):
        network = AutoModelForImageTextToText.from_config(  # type: ignore[no-untyped-call]
            config,
            dtype=DTYPES[dtype],
            attn_implementation={"text_config": attention.NAME, "vision_config": "sdpa"},
        )
    with torch.no_grad():
        # Logits with a spread of 5, so that some token is likely and a knockout can change its probability.
        network.lm_head.weight.mul_(5 / (config.text_config.initializer_range * config.text_config.hidden_size**0.5))
    settings = ModelSettings(Path(slug), "vicuna-v1", dtype=dtype)
    return MultimodalModel(settings, network.eval(), None, ARCHITECTURES[config.model_type], device)


def build_question(model: MultimodalModel, number: int = 0) -> Prepared:
    """A prompt of true token counts with random tokens and pixels, different for each number."""
    config: Any = model.network.config
    generator = torch.Generator().manual_seed(number)
    width, height = IMAGE
    side, patch = config.vision_config.image_size, config.vision_config.patch_size
    pixels: dict[str, Tensor] = {}
    tiles = 1
    if is_tiled(str(model.settings.path)):
        tiles = image_size_to_num_patches((height, width), config.image_grid_pinpoints, side)
        pixels["image_sizes"] = torch.tensor([[height, width]])
    shape = (1, tiles, 3, side, side) if "image_sizes" in pixels else (1, 3, side, side)
    pixels["pixel_values"] = torch.randn(shape, generator=generator).to(DTYPES[model.settings.dtype])
    visual = len(model.pack(torch.zeros(tiles, (side // patch) ** 2, 1), IMAGE))
    cuts = np.cumsum([0, SYSTEM, visual, SEPARATOR, QUESTION, AFTER - 1, 1]).tolist()
    names = ("system", "image", "separator", "question", "instruction", "last")
    sets = {name: np.arange(cuts[i], cuts[i + 1]) for i, name in enumerate(names)}
    related = np.zeros(visual, dtype=bool)
    related[visual // 3 : visual // 3 + RELATED] = True
    sets["related"], sets["other"] = sets["image"][related], sets["image"][~related]
    sets["padding"], sets["all"] = sets["image"][:0], np.arange(cuts[2], cuts[-1])
    ids = torch.randint(10, 31000, (1, cuts[-1]), generator=generator)
    ids[0, sets["image"]] = config.image_token_id
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)} | pixels
    nothing = np.zeros(visual, dtype=bool)
    return Prepared(
        ChosenQuestion("benchmark", "none", "", "", "", "", None, None, ()),
        {name: value.to(model.device) for name, value in inputs.items()},
        Positions(cuts[-1], sets, np.arange(0)),
        VisualTokens(related, nothing, nothing, ~nothing, nothing),
    )


def rows_for(prepared: Prepared, flows: Sequence[str], window: int, layers: int) -> list[Row]:
    """All rows of some flows; flows without edges are left out."""
    rows: list[Row] = []
    for name in flows:
        edges = edges_of(parse_flow(name), prepared.positions, 0, prepared.question.question_id)
        rows += rows_of(name, edges, str(window), layers) if edges else []
    return rows


def run_engine(model: MultimodalModel, questions: Sequence[Prepared], rows: Sequence[Row]) -> list[Readout]:
    """Run the same rows of some questions together, as a job does."""
    first = min(row.start for row in rows)
    cleans = run_clean_together(model, questions, [first] * len(questions))
    return run_together(model, [(clean, rows) for clean in cleans])


class Published:
    """The published procedure's attention: a mask in the layers of the window, causal elsewhere."""

    def __init__(self, row: Row, length: int, device: torch.device) -> None:
        self.window = row.window
        pairs = torch.from_numpy(blocked(row.edges, 0, length)).to(device)
        self.mask = torch.ones(length, length, dtype=torch.bool, device=device).tril() & ~pairs

    def attend(self, call: Call) -> Tensor:
        """Attend by PyTorch's fused attention."""
        knocked_out = call.layer in self.window
        return functional.scaled_dot_product_attention(
            call.query,
            call.key,
            call.value,
            attn_mask=self.mask if knocked_out else None,
            is_causal=not knocked_out,
            scale=call.scaling,
            enable_gqa=call.query.shape[1] != call.key.shape[1],
        )


def timed(work: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """The result and the seconds taken; the device is synchronised before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def matrix_rate(dtype: torch.dtype, device: torch.device) -> float:
    """Operations per second of large square matrix products: best of five."""
    side = 8192 if device.type == "cuda" else 2048
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    left @ right
    return 2 * side**3 / min(timed(lambda: left @ right, device)[1] for _ in range(5))


def operation_bound(rows: Sequence[Row], length: int, layers: int) -> float:
    """Operations of one full forward per row divided by the engine's, counted as positions x layers."""
    suffixes = sum((length - row.start) * (layers - row.window.first) for row in rows)
    return len(rows) * length * layers / (length * layers + suffixes)


def unavoidable(model: MultimodalModel, prepared: Prepared, rows: Sequence[Row]) -> float:
    """Operations of one clean forward, and of every row's suffix from the first layer of its window on."""
    length, layers = prepared.length, len(model.layers)
    text = model.network.config.get_text_config()
    weights = sum(part.weight.numel() for part in model.layers[0].modules() if isinstance(part, nn.Linear))
    attended = 4 * text.num_attention_heads * (text.hidden_size // text.num_attention_heads)
    head = 2 * text.vocab_size * text.hidden_size
    features = {name: value for name, value in prepared.inputs.items() if name in ("pixel_values", "image_sizes")}
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        model.network.get_image_features(**features)
    clean = layers * length * (2 * weights + attended * (length + 1) / 2) + head
    suffixes = 0.0
    for row in rows:
        places = np.arange(row.start, length) + 1
        suffixes += (layers - row.window.first) * (len(places) * 2 * weights + attended * places.sum()) + head
    return float(counter.get_total_flops() + clean + suffixes)


def _peak_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # KiB on Linux


def _token_probabilities(reading: Readout, token: int) -> Tensor:
    return torch.softmax(reading.logits.double(), dim=-1)[:, token]


def questions_together(model: MultimodalModel, prepared: Prepared) -> int:
    """How many questions of this shape a job would run together."""
    image_stop = int(prepared.positions["image"][-1]) + 1
    room, enough = capacity(model.device), enough_positions(model.device)
    return plan_knockout(model.sizes, prepared.length, image_stop, PUBLISHED_FLOWS, room, enough=enough).questions


def cost_of(model: MultimodalModel, found: Bench) -> Cost:
    """What a question costs on the measured device: an answer is a clean forward, at the engine's rate."""
    text, seconds = model.network.config.get_text_config(), found.timings["engine"].seconds
    return Cost(
        text.num_hidden_layers,
        is_tiled(str(model.settings.path)),
        text.num_key_value_heads < text.num_attention_heads,
        float(model.sizes.weights),
        found.forward / found.operations * seconds,
        (seconds,),
        beside=model.device.type == "cuda",
    )


def measure_speed(
    model: MultimodalModel, window: int, repeats: int, forwards: int, together: int | None = None
) -> Bench:
    """Time the engine, the reference and the published procedure in turns.

    Args:
        model: From `build_model`.
        window: Width of the window.
        repeats: Runs of the engine, of which the median counts.
        forwards: Timed full forwards of the reference and of the published procedure, spread over the rows.
        together: Questions that the engine runs together; None = as many as a job would.
    """
    device, layers = model.device, len(model.layers)
    prepared = build_question(model)
    rows = rows_for(prepared, PUBLISHED_FLOWS, window, layers)
    together = together or questions_together(model, prepared)
    questions = [prepared, *(build_question(model, number) for number in range(1, together))]

    def engine() -> Readout:
        return run_engine(model, questions, rows)[0]

    def published(row: Row) -> Readout:
        return full_forward(model, prepared, Published(row, prepared.length, device))

    def reference(row: Row) -> Readout:
        return run_reference(model, clean, [row])

    engine()  # warm-up: the first run allocates memory and thread pools
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    fast, first_seconds = timed(engine, device)
    memory = _peak_memory(device)
    clean: CleanRun = run_clean(model, prepared, min(row.start for row in rows))
    published(rows[0])
    chosen = np.linspace(0, len(rows) - 1, forwards).round().astype(int).tolist()
    seconds: dict[str, list[float]] = {"published": [], "reference": [], "engine": [first_seconds]}
    found: dict[str, list[Tensor]] = {"published": [], "reference": []}
    token = int(clean.logits.argmax())
    for turn, number in enumerate(chosen):
        for name, way in (("published", published), ("reference", reference)):
            reading, taken = timed(partial(way, rows[number]), device)
            seconds[name].append(taken)
            found[name].append(_token_probabilities(reading, token)[0])
        if (turn + 1) * repeats // forwards > turn * repeats // forwards:
            seconds["engine"].append(timed(engine, device)[1])
    ours = _token_probabilities(fast, token)[chosen]
    timings = {name: Timing(len(rows) * float(np.mean(seconds[name])), len(chosen)) for name in found}
    timings["engine"] = Timing(float(np.median(seconds["engine"])) / together, len(seconds["engine"]))
    return Bench(
        prepared.length,
        len(rows),
        together,
        timings,
        operation_bound(rows, prepared.length, layers),
        unavoidable(model, prepared, rows),
        unavoidable(model, prepared, []),
        matrix_rate(DTYPES[model.settings.dtype], device),
        {name: float((torch.stack(values) - ours).abs().max()) for name, values in found.items()},
        int(memory),
    )
