"""The position sets of sinks, which prompts get if a flow names one: one forward to the middle layer for each prompt.

The rule is in `crossflow.engine.sinks`.
"""

import logging
import math
from collections.abc import Iterable, Sequence
from functools import partial

from crossflow.core.flows import SINK_SETS, parse_flow
from crossflow.engine.sinks import THRESHOLD, Sinks, find_sinks, middle_layer
from crossflow.models.memory import halving
from crossflow.models.model import MultimodalModel, Prepared

log = logging.getLogger(__name__)


def _found(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Sinks]:
    return halving(prompts, partial(find_sinks, model), "questions")


def _with(prompts: Sequence[Prepared], found: Sequence[Sinks]) -> list[Prepared]:
    return [
        prompt.with_sinks(sinks.positions if len(sinks.dimensions) else None)
        for prompt, sinks in zip(prompts, found, strict=True)
    ]


def with_sinks(model: MultimodalModel, prompts: Sequence[Prepared]) -> list[Prepared]:
    """Some prompts with the position sets of their sinks; all are empty if the model has no sinks by the rule."""
    return _with(prompts, _found(model, prompts))


class SinkSets:
    """Adds the position sets of sinks to the prompts of one category, if flows name them.

    Args:
        model: The model.
        flows: All flows.
        category: The category, for the log.
    """

    def __init__(self, model: MultimodalModel, flows: Iterable[str], category: str) -> None:
        self._model = model
        self._needed = any(parse_flow(flow).needs_sinks for flow in flows)
        self._category = category
        self._reported = False

    def added_to(self, prompts: Sequence[Prepared]) -> list[Prepared]:
        """Prompts that run together, with the sets if they are needed; the first time, the log says what was found."""
        if not self._needed or not prompts:
            return list(prompts)
        found = _found(self._model, prompts)
        if not self._reported:
            self._report(found[0])
            self._reported = True
        return _with(prompts, found)

    def _report(self, sinks: Sinks) -> None:
        layers = len(self._model.layers)
        where = f"after layer {middle_layer(layers)} of {layers}"
        if len(sinks.dimensions):
            log.info("sinks, %s: dimensions %s %s", self._category, ", ".join(map(str, sinks.dimensions)), where)
            return
        width = self._model.network.config.get_text_config().hidden_size
        log.warning(
            "%s: flows of %s are missing, because the model has no sinks: no dimension of its first position reaches "
            "%g times the RMS %s; with hidden states %d wide, none exceeds %.1f",
            self._category, ", ".join(SINK_SETS), THRESHOLD, where, width, math.sqrt(width),
        )  # fmt: skip
