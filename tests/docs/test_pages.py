"""The README and the pages of docs/: Python blocks run, bash blocks name commands and options that exist."""

from __future__ import annotations

import contextlib
import io
import re
import runpy
import shlex
from contextlib import redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import mdnkernels.train.__main__ as train
from tests.docs.blocks import PAGES, ROOT, Block, blocks_of

BLOCKS = {path.relative_to(ROOT).as_posix(): blocks_of(path) for path in PAGES}
WITH_PYTHON = [page for page, blocks in BLOCKS.items() if any(block.language == "python" for block in blocks)]
COMMANDS = [block for blocks in BLOCKS.values() for block in blocks if block.language == "bash"]


def named(block: Block) -> str:
    return f"{block.page}:{block.line}"


@pytest.mark.parametrize("page", WITH_PYTHON)
def test_the_python_of_a_page_runs_from_top_to_bottom(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": "__main__"}
    for block in BLOCKS[page]:
        if block.language == "python" and not block.exempt:
            code = compile("\n" * block.line + block.text, page, "exec")  # a traceback has the page's lines
            exec(code, names)


def test_every_block_says_its_language():
    known = ("python", "bash", "text", "json", "toml")
    wrong = [named(block) for blocks in BLOCKS.values() for block in blocks if block.language not in known]
    assert not wrong


def test_code_on_a_page_fits_its_width():
    """At 1280 pixels, and so does a comment in the margin."""
    lines = [
        (f"{block.page}:{block.line + number}", line)
        for page, blocks in BLOCKS.items()
        for block in blocks
        for number, line in enumerate(block.text.split("\n"), 1)
        if page != "README.md" and block.language != "text"
    ]
    assert [place for place, line in lines if len(line) > 88] == []


@pytest.mark.parametrize("page", BLOCKS)
def test_no_line_of_a_page_becomes_a_quotation(page: str):
    """A sentence that is wrapped before "> 2" would."""
    assert re.findall(r"^>.*", (ROOT / page).read_text(), re.MULTILINE) == []


def commands(block: Block) -> list[list[str]]:
    """Return the words of each command of a bash block, without the variables set before it."""
    text = block.text.replace("\\\n", " ")
    found = [shlex.split(part, comments=True) for line in text.split("\n") for part in line.split(" && ")]
    return [words for line in found if (words := [*_without_variables(line)])]


def _without_variables(words: list[str]) -> list[str]:
    while words and re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    return words


@pytest.mark.parametrize("block", COMMANDS, ids=named)
def test_the_commands_of_a_bash_block_exist(block: Block):
    for words in commands(block):
        problem = problem_of(words)
        assert problem is None, f"{named(block)}: {shlex.join(words)}: {problem}"


OF_THE_SYSTEM = ("cd", "cp", "debootstrap", "git", "mkdir", "mount", "umount", "unzip")
# Commands that run another, and how many words lie between: `chroot FOLDER`, `env -C FOLDER`.
BEFORE_ANOTHER = {"sudo": 0, "chroot": 1, "env": 2}


def problem_of(words: list[str]) -> str | None:
    """Return what is wrong with a command, or None."""
    command, rest = words[0], words[1:]
    if command in BEFORE_ANOTHER:
        return problem_of(rest[BEFORE_ANOTHER[command] :])
    if command == "make":
        return None if set(targets_of(rest)) <= make_targets() else "no such target"
    if command in ("pip", "uv"):
        return pip_problem(rest)
    if command in ("torchrun", "accelerate"):
        return module_problem(rest[rest.index("-m") + 1 :])
    if command in ("python", "python3", ".venv/bin/python"):
        return module_problem(rest[1:]) if rest[0] == "-m" else file_problem(rest)
    if command == "mdnkernels":
        return train_problem(rest) if rest else None
    if command == "pytest":
        return file_problem(rest)
    return None if command in OF_THE_SYSTEM else f"{command} is not known to this test"


def targets_of(words: list[str]) -> list[str]:
    return [word for word in words if "=" not in word]


@cache
def make_targets() -> set[str]:
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def pip_problem(words: list[str]) -> str | None:
    table = (ROOT / "pyproject.toml").read_text().partition("[project.optional-dependencies]")[2]
    extras = re.findall(r"^([a-z0-9]+) = \[", table.partition("\n[")[0], re.MULTILINE)
    asked = {extra for word in words for found in re.findall(r"\[(.*)\]", word) for extra in found.split(",")}
    return None if asked <= set(extras) else f"no extra {asked - set(extras)}"


def file_problem(words: list[str]) -> str | None:
    files = [word for word in words if re.fullmatch(r"[\w/]+\.py", word)]
    return next((f"no file {name}" for name in files if not (ROOT / name).exists()), None)


def module_problem(words: list[str]) -> str | None:
    words = words[1:] if words[0] == "--" else words
    module, rest = words[0].removeprefix("mdnkernels."), words[1:]
    if module == "train":
        return train_problem(rest)
    if module in ("pip", "venv"):
        return pip_problem(rest)
    known = f"mdnkernels.{module}" if module.split(".")[0] == "models" else module
    found = find_spec(known) is not None or find_spec(words[0]) is not None
    return None if found else f"no module {words[0]}"


def train_problem(words: list[str]) -> str | None:
    if words[0] not in train.COMMANDS:
        return f"train has no command {words[0]}"
    options = [word.split("=")[0] for word in words if word.startswith("--")]
    known = set(re.findall(r"--[a-z][a-z-]*", help_of(words[0])))
    return next((f"{words[0]} has no option {option}" for option in options if option not in known), None)


@cache
def help_of(command: str) -> str:
    output = io.StringIO()
    with redirect_stdout(output), contextlib.suppress(SystemExit):
        train.main([command, "--help"])
    return output.getvalue()


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("make nothing", "no such target"),
        ("make TORCH=2.10.0 test-torch", None),
        ("pip install mdnkernels[gpu]", "no extra {'gpu'}"),
        ("pip install mdnkernels[train]", None),
        ("python -m train fly", "train has no command fly"),
        ("python -m train fit --faster", "fit has no option --faster"),
        ("torchrun --nproc-per-node 8 -m -- train fit --run runs/mine", None),
        ("python -m mdnkernels.nowhere", "no module mdnkernels.nowhere"),
        ("python examples/nothing.py", "no file examples/nothing.py"),
        ("curl it", "curl is not known to this test"),
    ],
)
def test_what_is_wrong_with_a_command_is_found(line: str, problem: str | None):
    assert problem_of(shlex.split(line)) == problem


def test_a_block_is_exempt_by_a_reason_that_its_reader_sees():
    assert Block("page", 1, "python", "# Not run by the tests: it takes an hour.\nf()").exempt
    assert not Block("page", 1, "python", "# Not run by the tests:\nf()").exempt
    assert not Block("page", 1, "python", "f()\n# Not run by the tests: no reason").exempt


def test_the_description_of_the_package_has_no_relative_links():
    text = runpy.run_path(str(ROOT / "setup.py"))["description"]()
    assert re.findall(r"\]\(", text) == []
    assert "Least squares draws one line" in text
    assert "When it collapses" in text


def test_stars_of_shapes_are_no_emphasis_and_formulas_stay():
    pytest.importorskip("griffe")
    from docs.docstrings import as_markdown

    text = "A map (B, M*C, *P) of `*P`::\n\n    a * b\n\nThen *P."
    assert as_markdown(text) == "A map (B, M\\*C, \\*P) of `*P`:\n\n    a * b\n\nThen \\*P."


@pytest.mark.parametrize("page", [page for page in BLOCKS if "/" not in page or page.startswith("docs/")])
def test_links_to_files_lead_to_files(page: str):
    """mkdocs checks those between its pages; here are the README's too, and all as GitHub reads them."""
    folder, text = (ROOT / page).parent, re.sub(r"```.*?```", "", (ROOT / page).read_text(), flags=re.DOTALL)
    targets = [target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    missing = [target for target in targets if target and "://" not in target and not (folder / target).exists()]
    assert not [target for target in missing if target != "changelog.md"]
