"""``crossflow bench``: how fast knockouts run on this machine, compared with the published procedure."""

from typing import Literal

import torch

from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError
from crossflow.models.memory import GIB
from crossflow.verify.clock import clock_of
from crossflow.verify.speed import build_model, cost_of, measure_speed
from crossflow.verify.true_sizes import TRUE_SIZES


def run(
    model: str = "llava15-7b",
    dtype: Literal["float32", "float16", "bfloat16"] = "float16",
    window: int = 7,
    layers: int | None = None,
    width: int | None = None,
    no_tower: bool = False,
    repeats: int = 3,
    forwards: int = 6,
    together: int | None = None,
    questions: int = 6000,
    device: str = "auto",
) -> None:
    """Measure how fast knockouts run on this machine, compared with the published procedure.

    Args:
        model: A published model; only its sizes are used, with random weights.
        dtype: Type of the weights.
        window: Width of the window, in layers.
        layers: Number of decoder layers, if fewer than the model has.
        width: Width of a narrower decoder with the same proportions.
        no_tower: Use a tiny vision tower, so that only the decoder is compared.
        repeats: Runs of the engine; the median counts.
        forwards: Full forwards to time of each of the other procedures.
        together: Questions that the engine runs together; by default as a job would.
        questions: Questions of the study whose duration is computed.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.

    Raises:
        CrossflowError: the model is unknown, or the numbers of layers, forwards or repeats make no sense.
    """
    if model not in TRUE_SIZES:
        raise CrossflowError(f"No sizes are recorded for the model {model!r}; choose from {', '.join(TRUE_SIZES)}.")
    if min(repeats, forwards, window) < 1:
        raise CrossflowError("--repeats, --forwards and --window must be at least 1.")
    taken = take_device(device)
    built = build_model(model, layers, width, not no_tower, dtype, taken)
    found = measure_speed(built, window, repeats, forwards, together)
    text = built.network.config.get_text_config()
    name = torch.cuda.get_device_name(taken) if taken.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(f"device      {name}, torch {torch.__version__}")
    tower = "a tiny vision tower" if no_tower else "its vision tower"
    print(
        f"model       {model}: {text.num_hidden_layers} layers of width {text.hidden_size}, {tower}, "
        f"{dtype}, random weights"
    )
    print(f"question    {found.positions} positions, {found.rows} knockouts (window {window})")
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
    clock = clock_of(cost_of(built, found), questions)
    print(
        f"study       {clock.total / 3600:9.2f} hours for {questions:,} questions, computed (crossflow.verify.clock):"
    )
    for job, parts in clock._asdict().items():
        said = ", ".join(f"{part} {seconds / 3600:.2f}" for part, seconds in parts._asdict().items() if part != "total")
        print(f"  {job:<9} {parts.total / 3600:9.2f} hours: {said}")
