"""What is installed: the command's name for itself, its extra, its versions, and what wheels and the sdist hold."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path
from types import ModuleType

import pytest

import mdnkernels.__main__
from mdnkernels import command_line
from mdnkernels.native import library

ROOT = Path(__file__).parents[1]
PROJECT = (ROOT / "pyproject.toml").read_text()
VERSION = re.search(r'^version = "(.+)"$', PROJECT, re.MULTILINE)


def script(name: str) -> ModuleType:
    """Load a script of wheels/ as a module."""
    specification = importlib.util.spec_from_file_location(f"wheels_{name}", ROOT / "wheels" / f"{name}.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("module", "called", "expected"),
    [
        ("train.__main__", "/checkout/train/__main__.py", "python -m train"),
        ("mdnkernels.train.__main__", "/somewhere/__main__.py", "python -m mdnkernels.train"),
        ("mdnkernels.__main__", "/somewhere/__main__.py", "python -m mdnkernels"),
        (None, "/usr/bin/mdnkernels", "mdnkernels"),
        (None, "/usr/bin/pytest", "python -m train"),  # of a checkout
    ],
)
def test_the_command_line_calls_itself_as_it_was_called(monkeypatch, module, called, expected):
    specification = None if module is None else importlib.util.spec_from_loader(module, None)
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", specification)
    monkeypatch.setattr(sys, "argv", [called])
    assert command_line.program() == expected


def test_without_the_extra_commands_are_refused_and_help_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setattr(mdnkernels.__main__, "absent", lambda extra: ["accelerate", "tyro"])
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mdnkernels", "fit", "--help"])
    assert mdnkernels.__main__.main() == 2
    advice = "pip install 'mdnkernels[train]'"
    assert capsys.readouterr().err == f"error: mdnkernels fit needs accelerate, tyro: {advice}\n"
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mdnkernels", "--help"])
    assert mdnkernels.__main__.main() == 0
    assert advice in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["/usr/bin/mdnkernels", "fti"])
    assert mdnkernels.__main__.main() == 2
    assert capsys.readouterr().err.startswith("error: there is no command 'fti'; there are fit, evaluate, ")


def test_the_packages_of_an_extra_that_are_not_installed_are_those_without_metadata(monkeypatch):
    needed = [
        "torch>=2.10",
        'no-such-package>=1; extra == "train"',
        'numpy>=1; extra == "train"',
        'other; extra == "x"',
    ]
    monkeypatch.setattr(metadata, "requires", lambda name: needed)
    assert mdnkernels.__main__.absent("train") == ["no-such-package"]


def test_the_extra_for_cuda_asks_for_the_wheel_of_this_version():
    assert VERSION is not None
    assert f'cuda13 = ["mdnkernels-cuda13=={VERSION[1]}"]' in PROJECT


def test_a_wheel_of_the_cuda_library_is_found_by_the_major_version_of_torchs_cuda(monkeypatch, tmp_path):
    for major in (12, 13):
        (tmp_path / f"mdnkernels_cuda{major}").mkdir()
        (tmp_path / f"mdnkernels_cuda{major}" / "libmdnkernels_cuda.so").touch()
    monkeypatch.setattr(library, "_HERE", tmp_path / "mdnkernels" / "native")
    monkeypatch.setattr(library, "_CSRC", tmp_path / "none")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(library.torch.version, "cuda", "12.8")
    assert library._find("cuda") == tmp_path / "mdnkernels_cuda12" / "libmdnkernels_cuda.so"
    monkeypatch.setattr(library.torch.version, "cuda", "13.0")
    assert library._find("cuda") == tmp_path / "mdnkernels_cuda13" / "libmdnkernels_cuda.so"
    monkeypatch.setattr(library.torch.version, "cuda", None)
    assert library._find("cuda") == tmp_path / "mdnkernels" / "native" / "libmdnkernels_cuda.so"


@pytest.mark.skipif(sys.platform != "linux" or not library.PATH.exists(), reason="no library for glibc here")
def test_the_library_needs_no_glibc_newer_than_that_of_manylinux_2_28():
    needed = re.findall(rb"\x00GLIBC_(\d+)\.(\d+)", library.PATH.read_bytes())
    assert needed
    assert max((int(major), int(minor)) for major, minor in needed) <= (2, 28)


@pytest.fixture(scope="module")
def sdist(tmp_path_factory) -> Path:
    """Build the sdist, which compiles nothing."""
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("sdist")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SOURCE_DATE_EPOCH", "1700000000")
        (file,) = script("build").build(["sdist"], folder, folder / "objects")
    return file


def test_the_sdist_holds_what_it_is_built_of_and_no_tests(sdist: Path):
    with tarfile.open(sdist) as file:
        members = file.getmembers()
    names = {member.name.partition("/")[2] for member in members}
    assert not any(member.issym() for member in members)
    for folder, suffixes in (("csrc", ".cpp .h .cu .cuh"), ("models", ".py"), ("train", ".py"), ("wheels", ".py .md")):
        inside = "mdnkernels" if folder in ("models", "train") else "."
        for path in (ROOT / folder).rglob("*.*"):
            if path.suffix in suffixes.split():
                assert str(Path(inside) / path.relative_to(ROOT)) in names
    assert {"README.md", "LICENSE", "mdnkernels/py.typed", "setup.py", "pyproject.toml"} <= names
    assert not any(name.startswith(("tests/", "benchmarks/", "models/", "train/", "runs/")) for name in names)


def test_an_index_shows_the_readme_without_links_into_the_checkout(sdist: Path):
    with tarfile.open(sdist) as file:
        stream = file.extractfile(next(member for member in file if member.name.endswith(f"-{VERSION[1]}/PKG-INFO")))
        assert stream is not None
        header, _, description = stream.read().decode().partition("\n\n")
    assert "Description-Content-Type: text/markdown" in header
    assert description.startswith("# mdnkernels\n")
    assert all(target.startswith("https://") for target in re.findall(r"\]\(([^)]+)\)", description))


def test_copies_with_fixed_times_and_modes_hold_the_same_whoever_made_the_files(tmp_path):
    build, copies = script("build"), []
    for mode in (0o600, 0o775):
        folder = tmp_path / str(mode)
        for path in (folder / "x-1" / "a.py", folder / "x-1" / "z.so"):
            path.parent.mkdir(exist_ok=True, parents=True)
            path.write_text("content")
            path.chmod(mode)
        sdist, wheel = folder / "x-1.tar.gz", folder / "x-1.whl"
        with tarfile.open(sdist, "w:gz") as file:
            file.add(folder / "x-1", "x-1")
        with zipfile.ZipFile(wheel, "w") as file:
            for path in sorted((folder / "x-1").iterdir(), reverse=mode == 0o600):
                file.write(path, path.name)
        build.write_sdist(sdist, folder / "sdist", 1_700_000_000)
        build.write_wheel(wheel, folder / "wheel", 1_700_000_000)
        copies.append(((folder / "sdist").read_bytes(), (folder / "wheel").read_bytes()))
    assert copies[0] == copies[1]
    unpacked = subprocess.run(["tar", "tzf", tmp_path / str(0o600) / "sdist"], capture_output=True, text=True)
    assert unpacked.stdout.split() == ["x-1/", "x-1/a.py", "x-1/z.so"]


@pytest.fixture(
    scope="module", params=sorted((ROOT / ".github" / "workflows").glob("*.yml")), ids=lambda path: path.stem
)
def workflow(request) -> dict:
    """Read a workflow of GitHub's."""
    return pytest.importorskip("yaml").safe_load(request.param.read_text())


def test_a_workflows_steps_use_pinned_actions_or_run_what_is_there(workflow: dict):
    for job in workflow["jobs"].values():
        assert (
            {"runs-on", "steps"}
            <= job.keys()
            <= {
                *("name", "if", "needs", "strategy", "runs-on", "container", "environment", "permissions", "env"),
                *("timeout-minutes", "steps"),
            }
        )
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert step.keys() <= {"name", "uses", "run", "with", "env", "if"}
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            for path in re.findall(r"(?:wheels|\.ci)/[\w.]+", step.get("run", "")):
                assert (ROOT / path).is_file()
        needed = job.get("needs", [])
        assert {*([needed] if isinstance(needed, str) else needed)} <= workflow["jobs"].keys()


def test_only_publishing_may_speak_for_the_repository(workflow: dict):
    assert workflow["permissions"] == {"contents": "read"}
    for name, job in workflow["jobs"].items():
        assert ("id-token" in job.get("permissions", {})) == (name == "publish")
