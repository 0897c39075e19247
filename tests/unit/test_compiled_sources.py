"""What type checking does not show of sources that are compiled, and can be seen in them."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
_LISTED = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["bridge"]["compiled"]["modules"]
MODULES = sorted(path for pattern in _LISTED for path in ROOT.glob(pattern))


def shared_names(source: str) -> list[str]:
    """Functions in which one name is given to caught errors of several kinds, with the name."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if not isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            continue
        kinds = defaultdict(set)
        for node in ast.walk(function):
            if isinstance(node, ast.ExceptHandler) and node.name and node.type:
                kinds[node.name].add(ast.unparse(node.type))
        found += [f"{function.name}: {name}" for name, several in kinds.items() if len(several) > 1]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_no_name_is_given_to_two_kinds_of_error(path: Path) -> None:
    """mypyc gives the variable the type of the first, and the second is a TypeError when it is caught."""
    assert shared_names(path.read_text(encoding="utf-8")) == []


def test_such_a_name_is_seen() -> None:
    source = "def f():\n try: g()\n except OSError as x: pass\n except ValueError as x: pass\n"
    assert shared_names(source) == ["f: x"]


def waiting_finals(source: str) -> list[int]:
    """Lines on which the `finally` of a `try` waits for something."""
    return [
        inner.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Try)
        for statement in node.finalbody
        for inner in ast.walk(statement)
        if isinstance(inner, ast.Await | ast.AsyncWith | ast.AsyncFor)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_waited_for_in_a_finally(path: Path) -> None:
    """Compiled, the exception that passes counts as being handled from then on, by the whole thread.

    Whatever is raised later has it as its context, and the next one both: a chain that keeps all frames.
    """
    assert waiting_finals(path.read_text(encoding="utf-8")) == []


def test_such_a_wait_is_seen() -> None:
    source = "async def f():\n try: await g()\n finally:\n  if h: await i()\n  else: j()\n"
    assert waiting_finals(source) == [4]
