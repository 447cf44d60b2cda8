"""Mean outputs of modules at a position set, over the questions of a category: what ``attn=mean:A`` puts in place."""

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from crossflow.core.flows import parse_flow
from crossflow.core.progress import progress_of
from crossflow.core.records import ChosenQuestion
from crossflow.data.images import Images
from crossflow.engine.forward import full_forward
from crossflow.engine.modules import module_of
from crossflow.models.attention import Plain
from crossflow.models.model import MultimodalModel, Prepared
from crossflow.models.preparing import PrepareRequest, prepared_ahead

Wanted = tuple[str, str]
"""A module and a position set."""


def wanted_by(flows: Collection[str]) -> list[Wanted]:
    """The means that flows need."""
    return list(dict.fromkeys(wanted for name in flows for wanted in parse_flow(name).module_means))


@contextmanager
def _outputs(model: MultimodalModel, names: Collection[str]) -> Iterator[dict[tuple[int, str], Tensor]]:
    """The outputs of the last forward: layer and module -> ``(positions, width)``."""
    found: dict[tuple[int, str], Tensor] = {}

    def hook(key: tuple[int, str]) -> Any:
        def keep(module: nn.Module, given: Any, output: Any) -> None:
            found[key] = (output[0] if isinstance(output, tuple) else output)[0]

        return keep

    with ExitStack() as stack:
        for layer in range(len(model.layers)):
            for name in names:
                handle = module_of(model, layer, name).register_forward_hook(hook((layer, name)))
                stack.callback(handle.remove)
        yield found


def module_means(
    model: MultimodalModel,
    wanted: Sequence[Wanted],
    questions: Sequence[ChosenQuestion],
    images: Callable[[], Images],
    workers: int,
) -> dict[Wanted, Tensor]:
    """Mean outputs in the clean runs of some questions, in fp32.

    Args:
        model: The model.
        wanted: Modules and sets.
        questions: The questions that are averaged over; every position of a set counts once.
        images: Opens their images.
        workers: Processes that prepare them.

    Returns:
        Module and set -> ``(layers, width)``; without an entry, no question has a position in the set.

    Raises:
        CrossflowError: the model has no module of a kind.
    """
    sums: dict[Wanted, Tensor] = {}
    counts = dict.fromkeys(wanted, 0)
    if not wanted:
        return {}
    requests = [PrepareRequest(question, question.image_id) for question in questions]
    names = dict.fromkeys(name for name, _ in wanted)
    with (
        progress_of("means of modules", len(requests), unit="question") as progress,
        prepared_ahead(model, images, requests, workers) as prepared,
        _outputs(model, names) as outputs,
    ):
        for each in prepared:
            progress.update(1)
            if not isinstance(each, Prepared):
                continue
            full_forward(model, each, Plain())
            with torch.inference_mode():
                for name, chosen in wanted:
                    positions = torch.from_numpy(each.positions[chosen]).to(model.device)
                    if not len(positions):
                        continue
                    layers = [outputs[layer, name] for layer in range(len(model.layers))]
                    added = torch.stack([output[positions].float().sum(dim=0) for output in layers])
                    sums[name, chosen] = added if (name, chosen) not in sums else sums[name, chosen] + added
                    counts[name, chosen] += len(positions)
    return {key: total / counts[key] for key, total in sums.items()}
