"""``crossflow bench``: how fast knockouts are on this machine, beside the published procedure."""

import argparse

import torch

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.models.memory import GIB
from crossflow.models.model import DTYPES
from crossflow.verify.speed import build_model, measure_speed
from crossflow.verify.true_sizes import TRUE_SIZES


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's options."""
    parser.add_argument("--model", choices=TRUE_SIZES, default="llava15-7b")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--window", type=int, default=7, help="width of the window, in layers (default 7)")
    parser.add_argument("--layers", type=int, help="fewer decoder layers than the model has")
    parser.add_argument("--width", type=int, help="a narrower decoder of the same proportions")
    parser.add_argument("--no-tower", action="store_true", help="a tiny vision tower, so that the decoder is compared")
    parser.add_argument("--repeats", type=int, default=3, help="runs of the engine; the median counts (default 3)")
    parser.add_argument("--forwards", type=int, default=6, help="full forwards that are timed of each other way")
    parser.add_argument(
        "--together", type=int, help="questions that the engine runs together (default: as a job would)"
    )
    parser.add_argument("--questions", type=int, default=6000, help="questions of the study whose hours are computed")
    parser.add_argument("--device", default="auto", help="auto (a free GPU, else the CPU), cpu or cuda:N")


def run(arguments: argparse.Namespace) -> None:
    """Print the measurements.

    Raises:
        CrossflowError: the numbers of layers, forwards or repeats make no sense.
    """
    if min(arguments.repeats, arguments.forwards, arguments.window) < 1:
        raise CrossflowError("--repeats, --forwards and --window are at least 1.")
    device = take_device(arguments.device)
    model = build_model(
        arguments.model, arguments.layers, arguments.width, not arguments.no_tower, arguments.dtype, device
    )
    found = measure_speed(model, arguments.window, arguments.repeats, arguments.forwards, arguments.together)
    text = model.network.config.get_text_config()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"device      {name}, torch {torch.__version__}")
    tower = "a tiny vision tower" if arguments.no_tower else "its vision tower"
    print(
        f"model       {arguments.model}: {text.num_hidden_layers} layers of width {text.hidden_size}, {tower}, "
        f"{arguments.dtype}, random weights"
    )
    print(f"question    {found.positions} positions, {found.rows} knockouts (window {arguments.window})")
    engine = found.timings["engine"].seconds
    for way in ("published", "reference", "engine"):
        seconds, runs = found.timings[way]
        line = f"{way:<11} {seconds:9.3f} s a question"
        if way in found.differences:
            line += f", from {runs} of {found.rows} forwards; {seconds / engine:6.1f} x the engine"
            line += f", largest difference in probability {found.differences[way]:.1e}"
        elif found.together > 1:
            line += f", {found.together} at a time"
        print(line)
    print(f"bound       {found.bound:9.1f} x by operations (positions x layers)")
    print(
        f"floor       {found.floor:9.3f} s: {found.operations:.2e} operations at {found.rate:.2e} a second; "
        f"the engine reaches {100 * found.floor / engine:.0f} %"
    )
    print(f"memory      {found.memory / GIB:9.1f} GiB at most")
    hours = arguments.questions * engine / 3600
    print(f"study       {hours:9.2f} hours for {arguments.questions:,} questions (computed, without answering)")
