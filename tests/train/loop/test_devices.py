"""--device: the devices that it names, and the error where there is no such device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mdnkernels.train.config.commands import FitConfig
from mdnkernels.train.config.options import DataConfig
from mdnkernels.train.config.serialisation import from_plain, to_plain
from mdnkernels.train.errors import ConfigError
from mdnkernels.train.loop.network import pick_device, pick_precision


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend that the machine has two GPUs, and return the list of the indices that are made current."""
    current: list[int] = []
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 2)
    monkeypatch.setattr(torch.accelerator, "set_device_index", current.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    return current


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available: None)


def test_a_device_is_what_its_name_says(two_gpus: list[int]) -> None:
    assert pick_device("auto") == torch.device("cuda")
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("cuda") == torch.device("cuda")
    assert two_gpus == []
    assert pick_device("cuda:1") == torch.device("cuda", 1)
    assert two_gpus == [1]  # for what is only said to be on "cuda"


@pytest.mark.parametrize("device", ["cuda:2", "cuda:-1", "cuda:", "cuda:x", "mps", "gpu", "", "cpu:1", "cuda:1:1"])
def test_a_device_that_is_not_there_is_named_beside_those_that_are(two_gpus: list[int], device: str) -> None:
    with pytest.raises(ConfigError, match=f"^--device: {device} is not there; this machine has cpu, cuda:0, cuda:1$"):
        pick_device(device)


@pytest.mark.usefixtures("no_gpu")
def test_without_a_gpu_auto_is_the_cpu_and_cuda_is_refused() -> None:
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    for device in ("cuda", "cuda:0"):
        with pytest.raises(
            ConfigError, match=f"{device} is not there; this machine has cpu and no GPU that this torch"
        ):
            pick_device(device)


def test_precision_is_bfloat16_on_a_gpu_that_has_it_unless_told_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    for has_it in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has_it=has_it: has_it)
        assert pick_precision("auto", gpu) == ("bfloat16" if has_it else "float32")
        assert pick_precision("auto", cpu) == "float32"
        assert [pick_precision(name, gpu) for name in ("float32", "float16")] == ["float32", "float16"]
    assert pick_precision("bfloat16", cpu) == "bfloat16"
    with pytest.raises(ConfigError, match="--precision float16: needs a GPU"):
        pick_precision("float16", cpu)


def test_one_gpu_for_several_processes_is_refused(two_gpus: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(ConfigError, match=r"--device: cuda:1 is one device for 4 processes; give cuda, and each"):
        pick_device("cuda:1")
    assert pick_device("cuda") == torch.device("cuda")


def test_a_run_remembers_its_device() -> None:
    plain = to_plain(FitConfig(Path("r"), data=DataConfig(coco=Path("c")), device="cuda:1"))
    assert plain["device"] == "cuda:1"
    assert from_plain(FitConfig, plain, "config").device == "cuda:1"
