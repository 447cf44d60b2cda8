"""How much cheaper the engine is than the published procedure, in one run, with the largest difference.

    make benchmark        (or: PYTHONPATH=workflow .venv/bin/python benchmarks/engine.py --help)

A LLaVA of LLaVA-1.5's token counts is built with random weights (nothing is downloaded): all six published flows at
every centre layer, once by `reference`, a full multimodal forward per row, and once by the engine, which pays for one
clean forward and the rows' suffixes. The vision tower is kept tiny, so that the ratio is the decoder's own: a real
tower is repeated by the published procedure too, and would only raise it.

The *bound* is the ratio of the operations that cannot be avoided, counted as (positions x layers): per row of the
reference all positions in all layers, against one clean run and, for each row, its suffix from the first layer of
its window on.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from crossflow import attention
from crossflow.architectures import ARCHITECTURES
from crossflow.edges import Edges, Row, edges_of, rows_of
from crossflow.flows import PUBLISHED_FLOWS, Window, parse_flow
from crossflow.forward import CleanRun, Reading, run_clean
from crossflow.gqa import ChosenQuestion
from crossflow.knockout import run_knockouts
from crossflow.measures import Asked, measure
from crossflow.models import DTYPES, ModelSettings, MultimodalModel, Prepared
from crossflow.patches import VisualTokens
from crossflow.positions import Positions
from crossflow.reference import run_reference

SYSTEM, IMAGE, SEPARATOR, QUESTION, AFTER = 35, 576, 2, 12, 17
IMAGE_TOKEN = 31999
RELATED = 20  # patches of a typical object


def build_model(layers: int, width: int, dtype: str, device: torch.device) -> MultimodalModel:
    """LLaVA with random weights: Llama's proportions, 576 visual tokens from a tiny vision tower."""
    torch.manual_seed(0)
    text = LlamaConfig(
        hidden_size=width,
        intermediate_size=round(width * 2.6875),
        num_hidden_layers=layers,
        num_attention_heads=width // 64,
        vocab_size=32000,
        attn_implementation=attention.NAME,
    )
    vision = CLIPVisionConfig(
        hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, image_size=336, patch_size=14
    )
    config = LlavaConfig(text_config=text, vision_config=vision, image_token_index=IMAGE_TOKEN)
    network = LlavaForConditionalGeneration(config).to(dtype=DTYPES[dtype]).eval().to(device)
    network.set_attn_implementation({"text_config": attention.NAME})
    with torch.no_grad():
        network.lm_head.weight.mul_(16)  # probabilities that a knockout can move
    return MultimodalModel(
        ModelSettings(Path("random"), "vicuna-v1", dtype=dtype), network, None, ARCHITECTURES["llava"], device
    )


def build_question(dtype: str, device: torch.device) -> Prepared:
    """A prompt of LLaVA-1.5's token counts with random tokens and pixels."""
    generator = torch.Generator().manual_seed(1)
    cuts = np.cumsum([0, SYSTEM, IMAGE, SEPARATOR, QUESTION, AFTER - 1, 1]).tolist()
    names = ("system", "image", "separator", "question", "instruction", "last")
    sets = {name: np.arange(cuts[i], cuts[i + 1]) for i, name in enumerate(names)}
    related = np.zeros(IMAGE, dtype=bool)
    related[200 : 200 + RELATED] = True
    sets["related"], sets["other"] = sets["image"][related], sets["image"][~related]
    sets["padding"], sets["all"] = sets["image"][:0], np.arange(cuts[2], cuts[-1])
    ids = torch.randint(10, 31000, (1, cuts[-1]), generator=generator)
    ids[0, sets["image"]] = IMAGE_TOKEN
    inputs = {
        "input_ids": ids.to(device),
        "attention_mask": torch.ones_like(ids).to(device),
        "pixel_values": torch.randn(1, 3, 336, 336, generator=generator).to(device, DTYPES[dtype]),
    }
    nothing = np.zeros(IMAGE, dtype=bool)
    question = ChosenQuestion("benchmark", "none", "", "", "", "", None, None, ())
    return Prepared(
        question,
        inputs,
        Positions(cuts[-1], sets, np.arange(0)),
        VisualTokens(related, nothing, nothing, ~nothing, nothing),
    )


def bound(rows: list[Row], length: int, layers: int, first: int) -> float:
    """Operations of the reference over those of the engine, counted as positions x layers."""
    suffixes = sum((length - row.start) * (layers - row.window.first) for row in rows)
    return len(rows) * length * layers / (length * layers + suffixes)


def timed(work: Callable[[], Reading], device: torch.device) -> tuple[Reading, float]:
    """The result and the seconds it took, the device's queue emptied before and after."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    result = work()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--dtype", choices=DTYPES, default="float32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5, help="runs of the engine; the median counts")
    arguments = parser.parse_args()

    device = torch.device(arguments.device)
    model = build_model(arguments.layers, arguments.width, arguments.dtype, device)
    prepared = build_question(arguments.dtype, device)
    rows: list[Row] = []
    for name in PUBLISHED_FLOWS:
        edges = edges_of(parse_flow(name), prepared.positions, 0, "benchmark")
        rows += rows_of(name, edges, str(arguments.window), arguments.layers)
    first = min(row.start for row in rows)

    def engine() -> Reading:
        return run_knockouts(model, run_clean(model, prepared, first), rows)

    engine()  # the first run pays for memory and thread pools
    clean: CleanRun = run_clean(model, prepared, first)
    # Engine runs are spread over the reference's, so that both see the machine in the same moods.
    every = -(-len(rows) // arguments.repeats)
    fast, seconds, slow, slow_seconds = [], [], [], 0.0
    for number, row in enumerate(tqdm(rows, desc="reference", unit="row")):
        if number % every == 0:
            logits, taken = timed(engine, device)
            fast.append(logits)
            seconds.append(taken)
        logits, taken = timed(lambda row=row: run_reference(model, clean, [row]), device)  # type: ignore[misc]
        slow.append(logits)
        slow_seconds += taken

    token = int(clean.logits.argmax())
    asked = Asked(token, (), None)
    ours = np.array(measure(clean.reading, fast[0], asked)["p_knockout"])
    together = Reading(*map(torch.cat, zip(*slow, strict=True)))
    theirs = np.array(measure(clean.reading, together, asked)["p_knockout"])
    fast_seconds = float(np.median(seconds))
    limit = bound(rows, prepared.positions.length, arguments.layers, first)
    print(f"prompt     {prepared.positions.length} positions, {IMAGE} visual; {len(rows)} rows; {arguments.dtype}")
    print(f"reference  {slow_seconds:8.2f} s per question")
    spread = f"median of {len(seconds)}, {min(seconds):.2f} to {max(seconds):.2f}"
    print(f"engine     {fast_seconds:8.2f} s per question ({spread})")
    print(f"ratio      {slow_seconds / fast_seconds:8.1f}   operation bound {limit:.1f}")
    p_clean = float(torch.softmax(clean.logits.double(), -1)[token])
    print(f"p_clean    {p_clean:8.4f}   p_knockout {theirs.min():.4f} to {theirs.max():.4f}")
    print(f"largest difference in probability {np.abs(ours - theirs).max():.1e}")
    zeros = [Row("nothing", 0, Window(0, arguments.layers - 1), (Edges(np.arange(0), np.array([first])),))]
    floor = measure(clean.reading, run_knockouts(model, clean, zeros), asked)
    print(f"of which a knockout of nothing    {abs(floor['p_knockout'][0] - floor['p_clean'][0]):.1e}")


if __name__ == "__main__":
    main()
