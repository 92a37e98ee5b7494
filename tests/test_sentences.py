"""Names and sentences of the sources: rules that a syntax tree or a line count can tell."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
VERBS = Path(__file__).with_name("imperative_verbs.txt")
ROOMS = ("mdnkernels", "models", "train", "examples", "benchmarks", "csrc", "tests", "docs")
SUFFIXES = {".py", ".cpp", ".cu", ".cuh", ".h", ".md", ".toml", ".txt"}
LONGEST = 600
# Why a file is longer than LONGEST lines.
LONG: dict[str, str] = {}
NAMELESS = re.compile(r"(utils?|misc|helpers?|commons?)", re.IGNORECASE)
LEFT_TO_DO = re.compile(r"\b(TO" + r"DO|FIX" + r"ME)\b")


@functools.cache
def sources() -> dict[str, str]:
    """Return the text of each source by its path in the checkout."""
    found = [path for room in ROOMS for path in (ROOT / room).rglob("*") if path.suffix in SUFFIXES]
    found += [path for path in ROOT.iterdir() if path.suffix in SUFFIXES]
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted(found)}


def functions(node: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield all functions and methods but tests, whose names are claims, properties, and those such as __init__."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            decorators = " ".join(map(ast.unparse, child.decorator_list))
            if not re.search(r"property\b|\.setter\b", decorators) and not re.fullmatch("__.+__|test_.+", child.name):
                yield child
        if isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):
            yield from functions(child)


def not_imperative(text: str, verbs: set[str]) -> Iterator[tuple[int, str]]:
    """Yield the line and the first words of each docstring that begins with no verb.

    A word before "of" is a noun, whatever else it may be: "Time of a call".
    """
    for function in functions(ast.parse(text)):
        docstring = ast.get_docstring(function)
        if docstring is not None:
            first, *rest = docstring.split(maxsplit=5)
            if first.rstrip(".,:;").lower() not in verbs or rest[:1] == ["of"]:
                yield function.body[0].lineno, " ".join([first, *rest[:4]])


def test_docstrings_of_functions_begin_with_a_verb():
    verbs = set(VERBS.read_text().split())
    wrong = []
    for name, text in sources().items():
        if name.endswith(".py"):
            wrong += [f"{name}:{line}: {words} ..." for line, words in not_imperative(text, verbs)]
    assert not wrong, "\n".join(["begin with a verb, or add the verb to tests/imperative_verbs.txt:", *wrong])


def test_what_counts_as_a_verb():
    text = '''
class Clock:
    """A clock."""
    def __init__(self): """seconds: to wait."""
    @property
    def now(self): """The time."""
    @functools.cached_property
    def then(self): """The time before."""
    def tick(self):
        """Returns the time."""
        def tock():
            """Time of a call."""
    def wait(self): """Time a call."""
    def stop(self): """Return."""
    def silent(self): pass
'''
    assert list(not_imperative(text, {"return", "time"})) == [(10, "Returns the time."), (12, "Time of a call.")]


def test_verbs_are_listed_once_and_in_order():
    verbs = VERBS.read_text().split("\n")[:-1]
    assert verbs == sorted(set(verbs))


def test_nothing_is_left_to_do_in_comments():
    assert [name for name, text in sources().items() if LEFT_TO_DO.search(text)] == []


def test_a_file_is_long_only_for_a_reason():
    lines = {name: text.count("\n") for name, text in sources().items()}
    assert {name: count for name, count in lines.items() if count > LONGEST and name not in LONG} == {}
    assert [name for name in LONG if lines.get(name, 0) <= LONGEST] == []


def test_files_and_folders_say_what_is_in_them():
    parts = ((name, part) for name in sources() for part in name.split("/"))
    assert [name for name, part in parts if NAMELESS.fullmatch(part.split(".")[0])] == []
