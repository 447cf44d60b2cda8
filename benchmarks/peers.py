"""crossflow beside other ways to compute the same knockouts, in one run: seconds, differences, lines of one's own code.

    python3 -m venv --system-site-packages peers && peers/bin/pip install nnsight
    PYTHONPATH=workflow OMP_NUM_THREADS=1 peers/bin/python benchmarks/peers.py --layers 16 --width 512

One random LLaVA with true token counts, the six published flows at every layer in windows of 7. Ways take turns. Where
each knockout runs alone, some of them are timed, spread over flows and layers, and the time is scaled up. nnsight is
left out where it is not installed, and TransformerLens always: its multimodal models install torchvision by themselves,
which replaces torch.

hooks
    Plain transformers: hooks give the layers of the window another mask.
cache
    A prefix cache by hand: keys and values before the first target are kept, each knockout runs the positions after it
    through all layers.
cache, batched
    The same with all layers of a flow in one batch.
nnsight
    The mask edited in a trace of the whole model.
nnsight, cache
    A trace of the positions after the prefix; the layers below the window are skipped.
"""

import argparse
import copy
import inspect
import platform
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForImageTextToText, DynamicCache

from crossflow.core.flows import PUBLISHED_FLOWS
from crossflow.engine.edges import Row, blocked
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.verify.speed import build_model, build_question, rows_for, run_engine, timed

try:
    from nnsight import NNsight
except ImportError:
    NNsight = None

WINDOW = 7


@dataclass
class Clean:
    """What the ways with a cache keep of the clean run.

    Attributes:
        embeddings: What enters the first layer, ``(1, positions, width)``.
        states: What leaves each layer.
        keys, values: Of each layer, ``(1, heads, positions, head_width)``.
    """

    embeddings: Tensor
    states: list[Tensor]
    keys: list[Tensor]
    values: list[Tensor]


def layers_of(row: Row) -> range:
    """The layers of a knockout's window."""
    return range(row.window.first, row.window.last + 1)


def mask_of(row: Row, start: int, length: int) -> Tensor:
    """What the positions from ``start`` on may attend to, ``(1, 1, positions, length)``."""
    allowed = np.tri(length, dtype=bool) & ~blocked(row.edges, 0, length)
    return torch.from_numpy(allowed[start:])[None, None]


def clean_run(network: Any, prepared: Prepared) -> Clean:
    """The clean run of plain transformers."""
    entering: list[Tensor] = []
    states: list[Tensor] = []
    decoder = network.model.language_model
    handles = [decoder.layers[0].register_forward_pre_hook(lambda _, given: entering.append(given[0]))]
    handles += [layer.register_forward_hook(lambda *given: states.append(given[-1])) for layer in decoder.layers]
    cache = network(**prepared.inputs, use_cache=True).past_key_values
    for handle in handles:
        handle.remove()
    layers = [(layer.keys, layer.values) for layer in cache.layers]
    return Clean(entering[0], states, *map(list, zip(*layers, strict=True)))


def prefix(clean: Clean, start: int, rows: int = 1) -> DynamicCache:
    """A cache of the positions before ``start``."""
    cache = DynamicCache()
    for layer, (key, value) in enumerate(zip(clean.keys, clean.values, strict=True)):
        cache.update(key[:, :, :start].expand(rows, -1, -1, -1), value[:, :, :start].expand(rows, -1, -1, -1), layer)
    return cache


def masking(layers: Sequence[Any], masks: dict[int, Tensor]) -> list[Any]:
    """Hooks that give some layers another mask."""
    return [
        layers[layer].register_forward_pre_hook(
            lambda _, args, kwargs, mask=mask: (args, kwargs | {"attention_mask": mask}), with_kwargs=True
        )
        for layer, mask in masks.items()
    ]


def by_hooks(network: Any, prepared: Prepared, clean: Clean, row: Row) -> Tensor:
    mask = mask_of(row, 0, prepared.length)
    handles = masking(network.model.language_model.layers, dict.fromkeys(layers_of(row), mask))
    logits = network(**prepared.inputs, use_cache=False, logits_to_keep=1).logits[:, -1]
    for handle in handles:
        handle.remove()
    return logits


def by_cache(network: Any, prepared: Prepared, clean: Clean, row: Row) -> Tensor:
    decoder, start = network.model.language_model, row.start
    mask = mask_of(row, start, prepared.length)
    handles = masking(decoder.layers, dict.fromkeys(layers_of(row), mask))
    states = decoder(
        inputs_embeds=clean.embeddings[:, start:],
        position_ids=torch.arange(start, prepared.length)[None],
        past_key_values=prefix(clean, start),
    ).last_hidden_state
    for handle in handles:
        handle.remove()
    return network.lm_head(states[:, -1])


def by_batched_cache(network: Any, prepared: Prepared, clean: Clean, rows: Sequence[Row]) -> Tensor:
    decoder, start, length = network.model.language_model, rows[0].start, prepared.length
    causal = torch.ones(length - start, length, dtype=torch.bool).tril(start)[None, None]
    masks = {
        layer: torch.cat([mask_of(row, start, length) if layer in row.window else causal for row in rows])
        for layer in range(len(decoder.layers))
    }
    handles = masking(decoder.layers, masks)
    states = decoder(
        inputs_embeds=clean.embeddings[:, start:].expand(len(rows), -1, -1),
        position_ids=torch.arange(start, length)[None].expand(len(rows), -1),
        past_key_values=prefix(clean, start, len(rows)),
    ).last_hidden_state
    for handle in handles:
        handle.remove()
    return network.lm_head(states[:, -1])


def by_nnsight(network: Any, prepared: Prepared, clean: Clean, row: Row) -> Tensor:
    traced = NNsight(network)
    mask = mask_of(row, 0, prepared.length)
    with traced.trace(**prepared.inputs, use_cache=False):
        for layer in layers_of(row):
            args, kwargs = traced.model.language_model.layers[layer].inputs
            traced.model.language_model.layers[layer].inputs = (args, {**kwargs, "attention_mask": mask})
        logits = traced.lm_head.output[:, -1].save()
    return logits  # noqa: RET504 (a trace returns nothing by itself)


def by_nnsight_cache(network: Any, prepared: Prepared, clean: Clean, row: Row) -> Tensor:
    start, length = row.start, prepared.length
    decoder = NNsight(network.model.language_model)
    mask, cache = mask_of(row, start, length), prefix(clean, start)
    with decoder.trace(
        inputs_embeds=clean.embeddings[:, start:],
        position_ids=torch.arange(start, length)[None],
        past_key_values=cache,
    ):
        for layer in range(row.window.first):
            decoder.layers[layer].skip(clean.states[layer][:, start:])
        for layer in layers_of(row):
            args, kwargs = decoder.layers[layer].inputs
            decoder.layers[layer].inputs = (args, {**kwargs, "attention_mask": mask})
        states = decoder.norm.output.save()
    return network.lm_head(states[:, -1])


def by_crossflow(model: MultimodalModel, prepared: Prepared, rows: Sequence[Row]) -> Tensor:
    return run_engine(model, [prepared], rows)[0].logits


WAYS: dict[str, Callable[..., Tensor]] = {
    "hooks": by_hooks,
    "cache": by_cache,
    "cache, batched": by_batched_cache,
    "nnsight": by_nnsight,
    "nnsight, cache": by_nnsight_cache,
}


def lines_of(way: Callable[..., Tensor]) -> int:
    """Lines of one's own code, with those of the helpers that it calls."""
    code = inspect.getsource(way)
    helpers = {"mask_of(": mask_of, "clean.": clean_run, "prefix(": prefix, "masking(": masking}
    parts = [way, *(helper for name, helper in helpers.items() if name in code)]
    return sum(len(inspect.getsource(part).strip().splitlines()) for part in parts)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--width", type=int, default=512)
    parser.add_argument("--knockouts", type=int, default=6, help="of the ways that run one at a time, per repeat")
    parser.add_argument("--repeats", type=int, default=3, help="turns of all ways; the median counts")
    given = parser.parse_args()
    cpu = torch.device("cpu")
    model = build_model("llava15-7b", given.layers, given.width, False, "float32", cpu)
    prepared = build_question(model)
    rows = rows_for(prepared, PUBLISHED_FLOWS, WINDOW, given.layers)
    network = AutoModelForImageTextToText.from_config(
        copy.deepcopy(model.network.config), attn_implementation="sdpa"
    ).eval()
    network.load_state_dict(model.network.state_dict())
    chosen = [rows[number] for number in np.linspace(0, len(rows) - 1, given.knockouts).round().astype(int)]
    flows = [[row for row in rows if row.flow == flow] for flow in PUBLISHED_FLOWS]
    ways = {name: way for name, way in WAYS.items() if NNsight is not None or not name.startswith("nnsight")}
    seconds: dict[str, list[float]] = {name: [] for name in ("crossflow", *ways)}
    found: dict[str, Tensor] = {}
    with torch.inference_mode():
        token = int(by_hooks(network, prepared, clean_run(network, prepared), chosen[0]).argmax())
        by_crossflow(model, prepared, rows)  # the first run allocates memory
        for _ in range(given.repeats):
            logits, taken = timed(partial(by_crossflow, model, prepared, rows), cpu)
            seconds["crossflow"].append(taken)
            found["crossflow"] = logits[[rows.index(row) for row in chosen]]
            clean, once = timed(partial(clean_run, network, prepared), cpu)
            for name, way in ways.items():
                together = flows if name == "cache, batched" else [[row] for row in chosen]
                given_rows = [part if name == "cache, batched" else part[0] for part in together]
                results = [timed(partial(way, network, prepared, clean, each), cpu) for each in given_rows]
                taken = sum(each for _, each in results) * len(rows) / sum(map(len, together))
                seconds[name].append(taken + once * (name not in ("hooks", "nnsight")))
                logits = torch.cat([each for each, _ in results])
                every = [row for part in together for row in part]
                found[name] = logits[[every.index(row) for row in chosen]]
    probabilities = {name: torch.softmax(each.double(), -1)[:, token] for name, each in found.items()}
    median = {name: float(np.median(taken)) for name, taken in seconds.items()}
    print(f"{platform.processor() or 'CPU'}, {torch.get_num_threads()} threads, torch {torch.__version__}")
    print(f"{given.layers} layers of width {given.width}, {len(rows)} knockouts, fp32, median of {given.repeats}")
    print("| way | s a question | times crossflow | difference | lines of one's own |")
    print("|---|---|---|---|---|")
    for name, taken in median.items():
        difference = float((probabilities[name] - probabilities["crossflow"]).abs().max())
        lines = 2 if name == "crossflow" else lines_of(ways[name])
        print(f"| {name} | {taken:.1f} | {taken / median['crossflow']:.1f} | {difference:.1e} | {lines} |")


if __name__ == "__main__":
    main()
