"""Is the distance between the engine and the published procedure rounding, and whose?

    PYTHONPATH=workflow .venv/bin/python benchmarks/rounding.py --model llava15-7b --layers 32 --width 1024

The same knockouts of random questions with true token counts are computed in fp32 by the engine, by the reference and
by the published procedure (as `crossflow bench` does), and then in fp64 by the engine and by the published procedure.
In fp64 the two must agree to a millionth of what they differ by in fp32; and each fp32 result is held against fp64.
"""

import argparse

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from crossflow.core.flows import PUBLISHED_FLOWS
from crossflow.engine.forward import Readout, full_forward, run_clean
from crossflow.engine.reference import run_reference
from crossflow.engine.shared_prefix import run_together
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.verify.speed import Published, build_model, build_question, rows_for
from crossflow.verify.true_sizes import TRUE_SIZES

# The fp32 results against the published procedure in fp64; then engine against published procedure, in either.
COLUMNS = ("engine", "reference", "published", "both fp32", "both fp64")

BENCH_SPREAD = 5.0
"""Standard deviation of the logits as `build_model` makes them, so that some token is likely."""


def to_double(model: MultimodalModel) -> None:
    """Compute in fp64 throughout: transformers' norm would go through fp32."""

    def normalised(norm: nn.Module, states: Tensor) -> Tensor:
        return norm.weight * states * torch.rsqrt(states.pow(2).mean(-1, keepdim=True) + norm.variance_epsilon)

    model.network.double()
    for module in model.network.modules():
        if type(module).__name__.endswith("RMSNorm"):
            module.forward = normalised.__get__(module)


def probabilities(
    model: MultimodalModel, prepared: Prepared, window: int, knockouts: int, ways: tuple[str, ...], token: int | None
) -> tuple[int, dict[str, Tensor]]:
    """The clean answer's token, and its probability under some knockouts, by each way."""
    rows = rows_for(prepared, PUBLISHED_FLOWS, window, len(model.layers))
    clean = run_clean(model, prepared, min(row.start for row in rows))
    answer = int(clean.logits.argmax()) if token is None else token
    chosen = np.linspace(0, len(rows) - 1, knockouts).round().astype(int).tolist()

    def read(reading: Readout) -> Tensor:
        return torch.softmax(reading.logits.double(), dim=-1)[:, answer]

    found = {"engine": read(run_together(model, [(clean, rows)])[0])[chosen]}
    if "reference" in ways:
        found["reference"] = torch.cat([read(run_reference(model, clean, [rows[number]])) for number in chosen])
    attentions = [Published(rows[number], prepared.length, model.device) for number in chosen]
    found["published"] = torch.cat([read(full_forward(model, prepared, attention)) for attention in attentions])
    return answer, found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", choices=TRUE_SIZES, default="llava15-7b")
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--window", type=int, default=7)
    parser.add_argument("--questions", type=int, default=3)
    parser.add_argument("--knockouts", type=int, default=6, help="of each question, spread over flows and layers")
    parser.add_argument(
        "--spread",
        type=float,
        default=BENCH_SPREAD,
        help="of the logits; transformers' own weights: 0.02 * width ** 0.5",
    )
    arguments = parser.parse_args()
    model = build_model(arguments.model, arguments.layers, arguments.width, False, "float32", torch.device("cpu"))
    with torch.no_grad():
        model.network.lm_head.weight.mul_(arguments.spread / BENCH_SPREAD)
    questions = [build_question(model, number) for number in range(arguments.questions)]
    size = (arguments.window, arguments.knockouts)
    with torch.inference_mode():
        single = [
            probabilities(model, question, *size, ("reference",), None) for question in tqdm(questions, desc="fp32")
        ]
        to_double(model)
        for question in questions:
            question.inputs["pixel_values"] = question.inputs["pixel_values"].double()
        double = [
            probabilities(model, question, *size, (), token)[1]
            for question, (token, _) in tqdm(list(zip(questions, single, strict=True)), desc="fp64")
        ]
    print("largest distance in probability of        ", *(f"{name:>11}" for name in COLUMNS))
    for number, ((_, fp32), fp64) in enumerate(zip(single, double, strict=True)):
        truth = fp64["published"]
        pairs = [(found, truth) for found in fp32.values()]
        pairs += [(fp32["engine"], fp32["published"]), (fp64["engine"], truth)]
        distances = [float((one - other).abs().max()) for one, other in pairs]
        span = f"p {float(truth.min()):.2g} to {float(truth.max()):.2g}"
        print(f"  question {number}, {span:<27}", *(f"{distance:11.1e}" for distance in distances))


if __name__ == "__main__":
    main()
