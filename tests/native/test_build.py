"""What setup.py decides: what is built, for which GPUs, and what it says. Nothing is compiled for a GPU here."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from mdnkernels.native import sources

ROOT = Path(__file__).parents[2]
KNOWN = ["7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0"]


@pytest.fixture
def setup(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load setup.py as a module, on a machine with a compiler and CUDA 13.0's toolkit, without a GPU."""
    pytest.importorskip("setuptools", minversion="77")
    specification = importlib.util.spec_from_file_location("mdnkernels_setup", ROOT / "setup.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    for name in ("MDNKERNELS_BUILD_CUDA", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "cpp_compiler", lambda: "c++")
    monkeypatch.setattr(module, "cuda_toolkit", lambda: Path("toolkit"))
    monkeypatch.setattr(module, "toolkit_version", lambda _: "13.0")
    monkeypatch.setattr(module, "known_architectures", lambda _: KNOWN)
    monkeypatch.setattr(module, "present_gpus", list)
    return module


@pytest.mark.parametrize(
    ("options", "folder"),
    [
        ({"editable_mode": True}, ROOT / "build" / "objects"),
        ({"inplace": True}, ROOT / "build" / "objects"),
        ({"inplace": True, "build_temp": "mine"}, Path("mine")),
        ({}, Path("pips")),
    ],
)
def test_builds_for_the_checkout_share_their_objects_and_others_keep_to_their_folder(setup, options, folder):
    distribution = setup.setup(
        script_name="setup.py", script_args=["--name"], ext_modules=[setup.CPU_LIBRARY], long_description="of an index"
    )
    distribution.get_command_obj("build").build_temp = "pips"
    command = setup.BuildNative(distribution)
    for name, value in options.items():
        setattr(command, name, value)
    command.finalize_options()
    assert Path(command.build_temp) == folder


def torch_for(setup: ModuleType, cuda: str | None):
    return setup.Torch(Path("torch"), "2.11.0", cuda)


def test_a_torch_without_cuda_gets_no_cuda_library_whatever_else_is_there(setup, monkeypatch):
    monkeypatch.setattr(setup, "present_gpus", lambda: ["9.0"])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    plan = setup.cuda_plan(torch_for(setup, None))
    assert plan.architectures == []
    assert "has no CUDA; MDNKERNELS_BUILD_CUDA=1 builds it all the same" in plan.why


def test_a_torch_with_cuda_gets_one_for_the_gpus_present(setup, monkeypatch):
    monkeypatch.setattr(setup, "present_gpus", lambda: ["8.6", "9.0"])
    assert setup.cuda_plan(torch_for(setup, "13.2")).architectures == ["8.6", "9.0"]


def test_without_a_gpu_the_list_decides_and_without_a_list_nothing_is_built(setup, monkeypatch):
    plan = setup.cuda_plan(torch_for(setup, "13.0"))
    assert plan.architectures == []
    assert "no GPU is present; TORCH_CUDA_ARCH_LIST=9.0 builds it" in plan.why
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.0;9.0+PTX")
    assert setup.cuda_plan(torch_for(setup, "13.0")).architectures == ["8.0", "9.0+PTX"]


def test_the_list_stands_before_the_gpus_present(setup, monkeypatch):
    monkeypatch.setattr(setup, "present_gpus", lambda: ["9.0"])
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "10.0")
    assert setup.cuda_plan(torch_for(setup, "13.0")).architectures == ["10.0"]


def test_a_list_of_other_things_than_architectures_is_refused_by_name(setup, monkeypatch):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0 Hopper")
    with pytest.raises(SystemExit, match="got 'Hopper'"):
        setup.cuda_plan(torch_for(setup, "13.0"))


@pytest.mark.parametrize(
    ("gpus", "expected"),
    [
        (["7.0"], []),
        (["7.0", "8.0"], ["8.0"]),
        (["12.1"], ["12.0+PTX"]),
        (["8.9", "13.0"], ["8.9", "12.0+PTX"]),
    ],
)
def test_a_gpu_that_nvcc_does_not_know_is_served_by_ptx_or_left_out(setup, gpus, expected):
    assert setup.for_present(gpus, KNOWN) == expected


def test_a_toolkit_of_another_major_version_is_not_used_and_said(setup):
    plan = setup.cuda_plan(torch_for(setup, "12.8"))
    assert plan.architectures == []
    assert "nvcc's CUDA 13.0 does not fit torch 2.11.0 for CUDA 12.8" in plan.why


@pytest.mark.parametrize("cuda", [None, "12.8", "13.0"])
def test_asked_for_it_is_built_for_all_beside_any_torch(setup, monkeypatch, cuda):
    monkeypatch.setenv("MDNKERNELS_BUILD_CUDA", "1")
    plan = setup.cuda_plan(torch_for(setup, cuda))
    assert plan.architectures == ["8.0", "8.6", "8.9", "9.0", "10.0", "12.0+PTX"]


@pytest.mark.parametrize("missing", ["cuda_toolkit", "cpp_compiler"])
def test_asked_for_it_is_an_error_where_something_is_missing(setup, monkeypatch, missing):
    monkeypatch.setattr(setup, missing, lambda: None)
    assert setup.cuda_plan(torch_for(setup, "13.0")).architectures == []
    monkeypatch.setenv("MDNKERNELS_BUILD_CUDA", "1")
    with pytest.raises(SystemExit, match="asks for the CUDA library, but no"):
        setup.cuda_plan(torch_for(setup, "13.0"))


def test_refused_none_is_built(setup, monkeypatch):
    monkeypatch.setattr(setup, "present_gpus", lambda: ["9.0"])
    monkeypatch.setenv("MDNKERNELS_BUILD_CUDA", "0")
    assert setup.cuda_plan(torch_for(setup, "13.0")) == ([], "MDNKERNELS_BUILD_CUDA=0")
    monkeypatch.setenv("MDNKERNELS_BUILD_CUDA", "yes")
    with pytest.raises(SystemExit, match="must be 0 or 1, got 'yes'"):
        setup.cuda_plan(torch_for(setup, "13.0"))


def test_one_line_says_what_is_built_and_how_long_it_takes(setup, monkeypatch):
    monkeypatch.setattr(setup, "CPU_SECONDS", 60)
    monkeypatch.setattr(setup, "CUDA_SECONDS", 100)
    plan = setup.CudaPlan(["8.0", "9.0"], "the GPUs present")
    assert setup.announcement(plan, 2) == (
        "mdnkernels: building the CPU library and the CUDA library for 8.0, 9.0 (the GPUs present): "
        "about 3 minutes on 2 cores"
    )
    assert setup.announcement(setup.CudaPlan([], "no reason"), 2) == (
        "mdnkernels: building the CPU library and no CUDA library (no reason): about 30 seconds on 2 cores"
    )


def test_an_older_torch_is_refused_by_its_version(setup, monkeypatch, tmp_path):
    (tmp_path / "version.py").write_text("__version__ = '2.9.1+cu128'\ncuda = '12.8'\n")
    monkeypatch.setattr(setup, "torch_folder", lambda: tmp_path)
    with pytest.raises(SystemExit, match=r"torch >= 2.10, and .* is torch 2.9.1\+cu128"):
        setup.installed_torch()
    (tmp_path / "version.py").write_text("__version__ = '2.10.0'\ncuda = None\n")
    assert setup.installed_torch() == (tmp_path, "2.10.0", None)


def test_the_installed_torch_is_what_importing_it_says(setup):
    import torch

    found = setup.installed_torch()
    assert (found.version, found.cuda) == (str(torch.__version__), torch.version.cuda)


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler")
def test_gpus_are_asked_of_the_driver(tmp_path):
    """A driver of two GPUs, 8.6 and 9.0, in another process, whose loader finds it."""
    (tmp_path / "driver.c").write_text("""
int cuInit(unsigned flags) { return 0; }
int cuDeviceGetCount(int* count) { *count = 2; return 0; }
int cuDeviceGet(int* device, int ordinal) { *device = 10 + ordinal; return 0; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  *value = attribute == 75 ? (device == 10 ? 9 : 8) : attribute == 76 ? (device == 10 ? 0 : 6) : -1;
  return 0;
}
""")
    subprocess.run(["cc", "-shared", "-fPIC", tmp_path / "driver.c", "-o", tmp_path / "libcuda.so.1"], check=True)
    script = f"import runpy; print(runpy.run_path({str(ROOT / 'setup.py')!r})['present_gpus']())"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={"LD_LIBRARY_PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "['8.6', '9.0']"


def test_a_fingerprint_follows_every_source_of_its_library_and_no_other(tmp_path):
    (tmp_path / "cpu").mkdir()
    for name in ("shared.h", "cpu/one.cpp", "cpu/one.h", "two.cu", "two.cuh", "notes.md"):
        (tmp_path / name).write_text(name)
    before = {library: sources.fingerprint(tmp_path, library) for library in ("cpu", "cuda")}
    changed = {}
    for name in ("shared.h", "cpu/one.cpp", "two.cuh", "notes.md"):
        (tmp_path / name).write_text("changed")
        changed[name] = {library for library in before if sources.fingerprint(tmp_path, library) != before[library]}
        (tmp_path / name).write_text(name)
    assert changed == {"shared.h": {"cpu", "cuda"}, "cpu/one.cpp": {"cpu"}, "two.cuh": {"cuda"}, "notes.md": set()}


def test_the_build_writes_the_fingerprint_into_the_libraries(setup):
    torch = Path("torch")
    for library, text in (
        ("cpu", setup.cpu_ninja("c++", torch, Path("x.so"))),
        ("cuda", setup.cuda_ninja("c++", ROOT, torch, Path("x.so"), ["9.0"])),
    ):
        assert text.count(sources.fingerprint(ROOT / "csrc", library)) == 1
