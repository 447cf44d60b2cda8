"""A job takes a free device and shares none."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from crossflow.core import devices
from crossflow.core.devices import take_device
from crossflow.core.errors import CrossflowError


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with two GPUs, as torch would show them."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda index: SimpleNamespace(uuid=f"GPU-{index}", name="GPU")
    )
    monkeypatch.setattr(devices.tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr(devices, "_held", [])
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)


def test_without_a_gpu_the_cpu_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert take_device("auto") == torch.device("cpu")


def test_a_named_device_is_taken_as_named(two_gpus: None) -> None:
    assert take_device("cpu") == torch.device("cpu")
    assert take_device("cuda:1") == torch.device("cuda", 1)


def test_a_gpu_is_the_processs_own_and_computes_as_the_engine_expects(
    two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_current: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "set_device", made_current.append)
    take_device("cuda:1")
    assert made_current == [torch.device("cuda", 1)]
    assert not torch.backends.cuda.cudnn_sdp_enabled()
    assert not torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction
    assert not torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("gpu", "torch does not know the device"),
        ("cuda:2", "torch sees 2 GPUs"),
        ("mps", "Device 'mps' is not supported: use auto, cpu or cuda:N"),
    ],
)
def test_a_device_that_is_not_there_is_one_sentence(two_gpus: None, asked: str, message: str) -> None:
    with pytest.raises(CrossflowError, match=message):
        take_device(asked)


def test_every_job_gets_a_gpu_of_its_own_until_there_is_none(two_gpus: None) -> None:
    taken = [take_device("auto"), take_device("auto")]
    assert taken == [torch.device("cuda", 0), torch.device("cuda", 1)]
    with pytest.raises(CrossflowError, match="No GPU became free within 0 seconds"):
        take_device("auto", patience=0.0)
    # A job that ends gives its device back, however it ends: the system closes its files.
    devices._held.pop().close()
    assert take_device("auto") == torch.device("cuda", 1)
