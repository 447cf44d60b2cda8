"""The options that `trace` and `check` share: the file that names models, and the device."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Where:
    """The file that names models, and the device.

    Attributes:
        params: The file that names models, such as params.yaml.
        window: Width of the window, in layers; by default the model's own.
        device: auto (a free GPU, else the CPU), cpu or cuda:N.
    """

    params: Path = Path("params.yaml")
    window: int | None = None
    device: str = "auto"
