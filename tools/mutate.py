"""`python tools/mutate.py [--count 200] [--seed 1] [--only TEXT] [TESTS]`: are the rules' tests any good?

Changes one comparison, boolean, number or branch of the rules (`routing/`, `policy/`, every `*_rules.py`)
at a time, and runs the unit and scenario tests that touch the changed function. A change that no test notices
is printed; those that change nothing that anybody could see are named in `tools/equivalent_mutants.txt`.
Exit status 1 where fewer than 95 % are noticed.
"""

from __future__ import annotations

import argparse
import ast
import copy
import importlib
import json
import os
import random
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import mutate_plugin
import pytest
from mutate_in_place import NOT_IN_PLACE, NOTICED, InPlace

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("agent", "engine", "registry", "cli", "core")
TESTS = ("tests/unit", "tests/scenarios")
EQUIVALENT = ROOT / "tools" / "equivalent_mutants.txt"
BAR = 0.95
_MOST_TESTS = 300  # of a function that everything calls, the quickest
_LIMIT_S = 600.0  # what waits for ever; a busy machine is not to notice anything in our tests' place
_OPTIONS = ("-q", "-p", "mutate_plugin", "-p", "no:cacheprovider", "--timeout", "600")
_OPTIONS += ("-W", "ignore:Module already imported")
_LIBRARIES = ("asyncio", "numpy", "grpc", "msgspec", "pydantic", "structlog", "uvloop", "yaml")

_SWAPPED: dict[type[ast.cmpop], type[ast.cmpop]] = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
}


@dataclass(frozen=True)
class Mutant:
    """One change: `at` is the node's number in the order of `ast.walk`, `part` which of its operators."""

    path: str
    function: str
    first_line: int
    line: int
    at: int
    part: int
    says: str

    @property
    def key(self) -> str:
        """What names it in the file of equivalent ones; lines move, so they are not part of it."""
        return f"{self.path}: {self.function}: {self.says}"


def rules() -> list[Path]:
    """The modules that decide."""
    found = [path for top in SOURCES for path in (ROOT / top).rglob("*_rules.py")]
    found += (ROOT / "agent/bridge_agent/routing").rglob("*.py")
    found += (ROOT / "core/bridge_core/policy").rglob("*.py")
    return sorted(set(found))


def mutants(path: Path) -> Iterator[Mutant]:
    """Every change of a module."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    numbers = {id(node): index for index, node in enumerate(nodes)}
    name = str(path.relative_to(ROOT))

    def visit(node: ast.AST, function: str, line: int) -> Iterator[Mutant]:
        for child in ast.iter_child_nodes(node):
            if not _decides(child, node):
                continue
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = child.name if not function else f"{function}.{child.name}"
                is_class = isinstance(child, ast.ClassDef)
                yield from visit(child, inner, line if is_class else _first_line(child))
                continue
            for part, says in _changes(child, node):
                where = getattr(child, "lineno", 0)
                yield Mutant(name, function or "module", line, where, numbers[id(child)], part, says)
            yield from visit(child, function, line)

    yield from visit(tree, "", 0)


def _decides(child: ast.AST, parent: ast.AST) -> bool:
    """Whether a part of the source can decide anything: types, names and shapes of classes do not."""
    match parent:
        case ast.ClassDef() if child in parent.decorator_list or isinstance(child, ast.keyword):
            return False  # frozen=True and the like
        case ast.FunctionDef() | ast.AsyncFunctionDef() if child in parent.decorator_list:
            return False
        case ast.FunctionDef() | ast.AsyncFunctionDef() if child is parent.returns:
            return False
        case ast.AnnAssign() if child is parent.annotation:
            return False
        case ast.Call(func=ast.Name(id="zip")) if isinstance(child, ast.keyword):
            return False  # strict=True
    return not isinstance(child, ast.arg | ast.ImportFrom | ast.Import)


def _first_line(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return node.decorator_list[0].lineno if node.decorator_list else node.lineno


def _changes(node: ast.AST, parent: ast.AST) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Compare():
            for part, operator in enumerate(node.ops):
                if type(operator) in _SWAPPED:
                    yield part, f"{ast.unparse(node)} with {type(operator).__name__} changed"
        case ast.BoolOp():
            yield 0, f"{ast.unparse(node)} with and/or changed"
        case ast.UnaryOp(op=ast.Not()):
            yield 0, f"{ast.unparse(node)} without not"
        case ast.Constant(value=bool() | int() | float()):
            around = "" if isinstance(parent, ast.FunctionDef) else ast.unparse(parent)
            yield 0, f"{node.value!r} of {around.splitlines()[0] if around else 'the defaults'} changed"
        case ast.If() | ast.IfExp() | ast.While():
            if not isinstance(node.test, ast.Compare) or len(node.test.ops) > 1:
                yield 0, f"branch on {ast.unparse(node.test)} turned"
        case _:
            return


def mutated(mutant: Mutant) -> str:
    """The module's source with the change."""
    tree = copy.deepcopy(ast.parse((ROOT / mutant.path).read_text()))
    node = list(ast.walk(tree))[mutant.at]
    match node:
        case ast.Compare():
            node.ops[mutant.part] = _SWAPPED[type(node.ops[mutant.part])]()
        case ast.BoolOp():
            node.op = ast.Or() if isinstance(node.op, ast.And) else ast.And()
        case ast.UnaryOp():
            node.op, node.operand = ast.Not(), ast.UnaryOp(ast.Not(), node.operand)
        case ast.Constant(value=bool()):
            node.value = not node.value
        case ast.Constant():
            node.value = node.value + 1  # type: ignore[operator]  # numbers alone are changed
        case ast.If() | ast.IfExp() | ast.While():
            node.test = ast.UnaryOp(ast.Not(), node.test)
    return ast.unparse(ast.fix_missing_locations(tree))


def in_place(
    chosen: list[Mutant], asked: argparse.Namespace
) -> tuple[list[int], dict[str, list[tuple[float, str]]]]:
    """What came of each change, and which tests call what; in a process of its own.

    This one stays without our modules, for the changes that need them imported anew.
    """
    with tempfile.TemporaryDirectory() as folder:
        note, kept = Path(folder) / "results.json", asked.callers or Path(folder) / "callers.json"
        process = os.fork()
        if not process:
            try:
                changes = [(ROOT / one.path, one.first_line, mutated(one)) for one in chosen]
                callers = json.loads(kept.read_text()) if kept.exists() else {}
                plugin = InPlace(
                    changes, callers, jobs=asked.jobs, root=ROOT, kept=kept, seconds=asked.seconds
                )
                pytest.main([*_OPTIONS, "-s", *asked.tests], plugins=[plugin])
                note.write_text(json.dumps([plugin.results, plugin.callers]))
            except BaseException:  # noqa: BLE001 - it is shown, and the process ends
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                os._exit(0)
        os.waitpid(process, 0)
        if not note.exists():
            raise SystemExit("the tests do not run")
        results, callers = json.loads(note.read_text())
        if not callers:
            raise SystemExit("the tests fail before anything was changed")
        return results, callers


def attempts(chosen: list[tuple[Mutant, list[str]]], jobs: int) -> list[bool]:
    """Whether one of its tests fails, or does not end, with each change.

    Each runs in a process forked from this one, which has the libraries loaded but none of our modules.
    """
    for name in _LIBRARIES:
        importlib.import_module(name)
    results = [False] * len(chosen)
    waiting = list(enumerate(chosen))[::-1]
    running: dict[int, tuple[int, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < jobs:
                index, (mutant, tests) = waiting.pop()
                if tests:
                    running[_start(mutant, tests, Path(folder) / f"{index}.py")] = (index, time.monotonic())
            time.sleep(0.02)
            for process, (index, began) in list(running.items()):
                late = time.monotonic() - began > _LIMIT_S
                if late:
                    os.kill(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
                if ended:
                    results[index] = status != 0
                    del running[process]
    return results


def _start(mutant: Mutant, tests: list[str], source: Path) -> int:
    source.write_text(mutated(mutant))
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    try:
        mutate_plugin.put_in_force(str(ROOT / mutant.path), source)
        silence = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(silence, handle)
        os._exit(int(pytest.main([*_OPTIONS, "-x", *tests])))
    finally:
        os._exit(99)


def _tests_of(mutant: Mutant, callers: dict[str, list[tuple[float, str]]]) -> list[tuple[float, str]]:
    return callers.get(f"{mutant.path}:{mutant.first_line}") or callers.get(f"{mutant.path}:0") or []


def main() -> int:
    """Runs a random choice of changes and prints those that nobody noticed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument(
        "--only", default="", help="modules whose path contains this, or one of these, by commas"
    )
    parser.add_argument("--callers", type=Path, help="keeps which tests call what, for the next run")
    parser.add_argument("--seconds", type=float, default=30.0, help="the most that one change's tests take")
    parser.add_argument("tests", nargs="*", default=list(TESTS), help="test files or folders, as for pytest")
    asked = parser.parse_args()
    known = {line.split(" # ")[0].strip() for line in EQUIVALENT.read_text().splitlines() if " # " in line}
    only = asked.only.split(",")
    every = [one for path in rules() if any(part in str(path) for part in only) for one in mutants(path)]
    every = [one for one in every if one.key not in known]
    chosen = random.Random(asked.seed).sample(every, min(asked.count, len(every)))
    began = time.monotonic()
    found, callers = in_place(chosen, asked)
    results = [one == NOTICED for one in found]
    # What was made of a class or a constant while its module was imported has the old value in it.
    slow = [
        index
        for index, one in enumerate(found)
        if one == NOT_IN_PLACE or (one != NOTICED and not chosen[index].first_line)
    ]
    names = [[name for _, name in _tests_of(chosen[index], callers)[:_MOST_TESTS]] for index in slow]
    anew = attempts([(chosen[index], tests) for index, tests in zip(slow, names, strict=True)], asked.jobs)
    for index, seen in zip(slow, anew, strict=True):
        results[index] = seen
    unnoticed = [mutant for mutant, seen in zip(chosen, results, strict=True) if not seen]
    for mutant in sorted(unnoticed, key=lambda one: (one.path, one.line)):
        print(f"unnoticed (line {mutant.line}): {mutant.key}")
    share = sum(results) / len(results) if results else 1.0
    print(
        f"{sum(results)} of {len(results)} changes noticed ({share:.1%}), of {len(every)} there are; "
        f"seed {asked.seed}, {time.monotonic() - began:.0f} s"
    )
    return int(share < BAR)


if __name__ == "__main__":
    sys.exit(main())
