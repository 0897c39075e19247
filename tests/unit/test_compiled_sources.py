"""What type checking does not show of sources that are compiled, and can be seen in them."""

from __future__ import annotations

import ast
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import Any

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


def waits_of_handlers(source: str) -> list[int]:
    """Lines on which a `finally`, or an `except` that raises, waits for something."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Try):
            continue
        for body in (node.finalbody, *(one.body for one in node.handlers if _has(one.body, ast.Raise))):
            found += [one.lineno for one in _in(body) if isinstance(one, _WAITS)]
    return found


_WAITS = ast.Await | ast.AsyncWith | ast.AsyncFor


def _in(body: list[ast.stmt]) -> list[Any]:
    return [one for statement in body for one in ast.walk(statement)]


def _has(body: list[ast.stmt], kind: type[ast.AST]) -> bool:
    return any(isinstance(one, kind) for one in _in(body))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_nothing_is_waited_for_while_an_exception_passes(path: Path) -> None:
    """Compiled, it counts as being handled from then on, by the whole thread.

    Whatever is raised later has it as its context, and the next one both: a chain that keeps all frames.
    """
    assert waits_of_handlers(path.read_text(encoding="utf-8")) == []


def test_such_a_wait_is_seen() -> None:
    source = """async def f():
 try: await g()
 except OSError: await h()
 except ValueError:
  await i()
  raise
 finally:
  if j: await k()
  else: m()
"""
    assert waits_of_handlers(source) == [8, 5]
