"""The options that `trace` and `check` share: where models are named, and where the model runs."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Where:
    """Where models are named, and where the model runs.

    Attributes:
        params: File of parameters.
        window: Width of the window, in layers; by default the model's own.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.
    """

    params: Path = Path("params.yaml")
    window: int | None = None
    device: str = "auto"
