"""Which library a checkout loads, beside its own and installed copies, and what it advises where there is none."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

import pytest

from mdnkernels.native import library, sources


class Copy:
    """A folder with the package, as a checkout or as pip installs it, and the place of its library."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.library = folder / "mdnkernels" / "native" / "libmdnkernels_cpu.so"
        self.library.parent.mkdir(parents=True)

    def build(self, fingerprint: str) -> Copy:
        self.library.write_text(f"code mdnkernels sources {fingerprint} code")
        return self


@pytest.fixture
def checkout(tmp_path: Path) -> Copy:
    copy = Copy(tmp_path / "checkout")
    shutil.copytree(Path(__file__).parents[2] / "csrc", copy.folder / "csrc")
    return copy


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Copy:
    copy = Copy(tmp_path / "site-packages")
    monkeypatch.setattr(sys, "path", ["no folder", str(copy.folder)])
    return copy


@pytest.fixture
def run_from(monkeypatch: pytest.MonkeyPatch):
    """Make a copy the one whose package is imported; gives what it loads, and its problem where that is no use."""

    def run(copy: Copy, problem: bool = False) -> Path | str | None:
        monkeypatch.setattr(library, "_HERE", copy.library.parent)
        monkeypatch.setattr(library, "_CHECKOUT", copy.folder)
        monkeypatch.setattr(library, "_CSRC", copy.folder / "csrc")
        monkeypatch.setattr(library, "_GIVEN", None)
        monkeypatch.setattr(library, "PATH", library._find("cpu"))
        return library._load() if problem else library.PATH

    monkeypatch.setenv("CXX", "some-compiler")
    return run


def current(checkout: Copy) -> str:
    return sources.fingerprint(checkout.folder / "csrc", "cpu")


def test_a_checkout_without_a_library_takes_that_of_the_installed_copy(checkout, installed, run_from):
    assert run_from(checkout) == checkout.library
    installed.build(current(checkout))
    assert run_from(checkout) == installed.library


def test_a_checkout_prefers_its_own_library_and_passes_over_a_stale_one(checkout, installed, run_from):
    installed.build(current(checkout))
    assert run_from(checkout.build(current(checkout))) == checkout.library
    assert run_from(checkout.build("0" * 64)) == installed.library


def test_a_checkout_takes_no_library_of_other_sources_and_says_how_to_build_one(checkout, installed, run_from):
    installed.build(current(checkout))
    with (checkout.folder / "csrc" / "mixture" / "options.h").open("a") as file:
        file.write("// changed\n")
    problem = run_from(checkout, problem=True)
    assert f"{installed.library} was built of other sources than {checkout.folder / 'csrc'}" in problem
    assert f"'pip install -e .' in {checkout.folder} builds it, with the C++ compiler some-compiler" in problem


def test_without_any_library_a_checkout_and_an_installed_copy_advise_what_helps_each(checkout, installed, run_from):
    assert f"was not built; 'pip install -e .' in {checkout.folder}" in run_from(checkout, problem=True)
    advice = "was not built; 'pip install --force-reinstall --no-deps .' in a checkout"
    assert advice in run_from(installed, problem=True)


def test_an_installed_copy_takes_its_own_library_and_no_other(checkout, installed, run_from, monkeypatch):
    monkeypatch.setattr(sys, "path", [str(checkout.folder), str(installed.folder)])
    checkout.build(current(checkout))
    assert run_from(installed) == installed.library
    assert run_from(installed.build("of an earlier version")) == installed.library


def test_a_library_that_was_asked_for_and_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(library, "_GIVEN", "nowhere.so")
    monkeypatch.setattr(library, "PATH", Path("nowhere.so"))
    assert library._load() == "MDNKERNELS_LIBRARY names nowhere.so, which does not exist"


@pytest.mark.skipif(library.problem is not None or "MDNKERNELS_LIBRARY" in os.environ, reason="nothing was built here")
def test_the_library_that_runs_here_was_built_of_these_sources():
    assert sources.built_of(library.PATH) == sources.fingerprint(library._CSRC, "cpu")


def test_a_compiler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.delenv("CXX", raising=False)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert "a C++17 compiler, g++ or clang++, which is not there" in library._build()


def test_a_file_without_a_fingerprint_is_of_unknown_sources(tmp_path):
    for content in (b"", b"no library"):
        (tmp_path / "x.so").write_bytes(content)
        assert sources.built_of(tmp_path / "x.so") is None
