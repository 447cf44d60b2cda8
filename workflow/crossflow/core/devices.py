"""Which device a job runs on.

Snakemake counts GPUs but assigns no device ids, so a job takes a free one itself: one lock file per device, held while
the process lives, released by the system when it ends.
"""

import os
import tempfile
import time
from pathlib import Path
from typing import IO

import torch

from crossflow.core.errors import CrossflowError
from crossflow.core.locks import take
from crossflow.core.provenance import note

_held: list[IO[str]] = []


def _name_of(index: int) -> str:
    """A name of a visible device that is the same in every process, also if CUDA_VISIBLE_DEVICES differs."""
    return str(torch.cuda.get_device_properties(index).uuid)


def _take(asked: str, patience: float) -> torch.device:
    if asked != "auto":
        try:
            device = torch.device(asked)
        except RuntimeError as error:
            raise CrossflowError(f"torch does not know the device {asked!r}; use auto, cpu or cuda:N.") from error
        if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
            raise CrossflowError(f"Device {asked!r} does not exist: torch sees {torch.cuda.device_count()} GPUs.")
        return device
    if not torch.cuda.is_available():
        return torch.device("cpu")
    folder = Path(tempfile.gettempdir()) / f"crossflow-devices-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    end = time.monotonic() + patience
    while True:
        for index in range(torch.cuda.device_count()):
            lock = (folder / f"{_name_of(index)}.lock").open("w")
            if not take(lock):
                lock.close()
                continue
            _held.append(lock)
            return torch.device("cuda", index)
        if time.monotonic() > end:
            raise CrossflowError(f"No GPU became free within {patience:.0f} seconds.")
        time.sleep(1)


def _set_up(device: torch.device) -> None:
    """Make a GPU the process's own, and its arithmetic the one that the engine expects."""
    torch.cuda.set_device(device)  # else the thread that pins memory opens a context on the first GPU
    torch.backends.cuda.enable_cudnn_sdp(False)  # it builds a plan for every length of prompt and cache
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def take_device(asked: str, patience: float = 3600.0) -> torch.device:
    """The device of this process.

    Args:
        asked: ``auto`` (a free GPU if there is any GPU, otherwise the CPU) or a device of torch's, such as ``cpu`` or
            ``cuda:1``. CUDA_VISIBLE_DEVICES is respected.
        patience: Seconds to wait for a GPU to become free.

    Raises:
        CrossflowError: the device does not exist, or no GPU became free.
    """
    device = _take(asked, patience)
    if device.type not in ("cpu", "cuda"):
        raise CrossflowError(f"Device {asked!r} is not supported: use auto, cpu or cuda:N.")
    if device.type == "cuda":
        _set_up(device)
    note(device=torch.cuda.get_device_properties(device).name if device.type == "cuda" else str(device))
    return device
