"""The quick side of `mutate.py`: the tests are collected once, and each change is put into the code that
they have already imported, in a process forked for it.

What cannot be exchanged in place (a default of a msgspec struct, a table of objects of the changed
module's own classes) is left to the slow side, which imports everything anew.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

import pytest
from mutate_plugin import recording

_PLAIN = (int, float, str, bytes, tuple, frozenset, dict, type(None))
_WALL_S = 600.0  # of what waits for ever; what computes for ever has _CPU_S
_CPU_S = 25
NOTICED, UNNOTICED, NOT_IN_PLACE = 1, 0, 77


class InPlace:
    """A pytest plugin that runs the collected tests once a change in place of once.

    Args:
        changes: Of each change: its module's path, its function's first line and the changed source.
        callers: Which tests call what; empty: it is found out first.
        jobs: How many processes run at once.
        root: Where the repository lies.
        kept: Where `callers` is written down.
        seconds: The most that the tests of a change take; the quickest of those that call it are run.
    """

    def __init__(
        self,
        changes: Sequence[tuple[Path, int, str]],
        callers: dict[str, list[tuple[float, str]]],
        *,
        jobs: int,
        root: Path,
        kept: Path,
        seconds: float,
    ) -> None:
        self.callers = callers
        self.results: list[int] = []
        self._changes = changes
        self._jobs = jobs
        self._root = root
        self._kept = kept
        self._seconds = seconds
        self._failed = False

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Takes the place of pytest's own loop."""
        items = {item.nodeid: item for item in session.items}
        if not self.callers:
            self._record(session)
        self.results = [UNNOTICED] * len(self._changes)
        waiting = list(enumerate(self._changes))[::-1]
        running: dict[int, tuple[int, float]] = {}
        while waiting or running:
            while waiting and len(running) < self._jobs:
                index, change = waiting.pop()
                tests = list(self._tests(change, items))
                if tests:
                    running[_forked(lambda c=change, t=tests: self._attempt(c, t))] = index, time.monotonic()
            time.sleep(0.003)
            for process, (index, began) in list(running.items()):
                late = time.monotonic() - began > _WALL_S
                if late:
                    os.kill(process, signal.SIGKILL)
                ended, status = os.waitpid(process, 0 if late else os.WNOHANG)
                if ended:
                    code = os.waitstatus_to_exitcode(status)
                    self.results[index] = code if code in (UNNOTICED, NOT_IN_PLACE) else NOTICED
                    del running[process]
        return True

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Notes that a test failed."""
        self._failed = self._failed or report.failed

    def _tests(self, change: tuple[Path, int, str], items: dict[str, pytest.Item]) -> Iterator[pytest.Item]:
        path, line, _ = change
        name = path.relative_to(self._root)
        found = self.callers.get(f"{name}:{line}") or self.callers.get(f"{name}:0") or []
        left = self._seconds
        for seconds, test in found:
            left -= seconds
            if left < 0:
                return
            if test in items:
                yield items[test]

    def _record(self, session: pytest.Session) -> None:
        def run() -> int:
            with recording(self._kept):
                self._run(session.items, to_the_end=True)
            return int(self._failed)

        _, status = os.waitpid(_forked(run), 0)
        if status:
            raise pytest.UsageError("the tests fail before anything was changed")
        self.callers = json.loads(self._kept.read_text())

    def _attempt(self, change: tuple[Path, int, str], tests: list[pytest.Item]) -> int:
        path, _, source = change
        resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
        try:
            if not exchange(_module_of(path), source):
                return NOT_IN_PLACE
        except Exception:  # noqa: BLE001 - whatever it is: the module cannot even be imported
            return NOTICED
        self._run(tests, to_the_end=False)
        return NOTICED if self._failed else UNNOTICED

    def _run(self, tests: Sequence[pytest.Item], *, to_the_end: bool) -> None:
        for item, following in zip(tests, [*tests[1:], None], strict=True):
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed and not to_the_end:
                return


def _forked(work: Callable[[], int]) -> int:
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 99
    try:
        silence = os.open(os.devnull, os.O_RDWR)
        for handle in (0, 1, 2):
            os.dup2(silence, handle)
        code = work()
    finally:
        os._exit(code)


def _module_of(path: Path) -> ModuleType:
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(path):
            return module
    parts = path.with_suffix("").parts
    return importlib.import_module(
        ".".join(parts[next(i for i, part in enumerate(parts) if part.startswith("bridge_")) :])
    )


def exchange(module: ModuleType, source: str) -> bool:
    """Puts a changed source into a loaded module; false where that is not possible in place."""
    fresh = ModuleType(module.__name__)
    fresh.__file__ = module.__file__
    exec(compile(source, str(module.__file__), "exec"), fresh.__dict__)
    changed = _exchange_all(module, fresh, module.__name__)
    for name, value in list(vars(fresh).items()):
        old = vars(module).get(name)
        if not name.startswith("__") and _plain(value) and _plain(old) and _differ(value, old):
            for other in list(sys.modules.values()):
                there = getattr(other, "__dict__", {})
                if there.get(name) is old:
                    there[name] = value
            changed = True
    return changed


def _plain(value: object) -> bool:
    if isinstance(value, dict):
        return all(_plain(key) and _plain(one) for key, one in value.items())
    if isinstance(value, tuple | frozenset):
        return type(value) in (tuple, frozenset) and all(map(_plain, value))
    return type(value) in (*_PLAIN, bool)


def _differ(one: object, other: object) -> bool:
    return repr(one) != repr(other)


def _exchange_all(old: Any, new: Any, module: str) -> bool:
    changed = False
    for name, value in list(vars(new).items()):
        former = vars(old).get(name)
        if isinstance(value, type) and value.__module__ == module and isinstance(former, type):
            if "__slots__" in vars(value) or value is not former:
                changed = _exchange_all(former, value, module) or changed
            continue
        new_function, old_function = _function(value), _function(former)
        if new_function is None or old_function is None or new_function.__module__ != module:
            ours = isinstance(old, type) and not name.startswith("__")
            if ours and _plain(value) and _plain(former) and _differ(value, former):
                setattr(old, name, value)
                changed = True
            continue
        changed = _exchange_function(old_function, new_function) or changed
        getattr(former, "cache_clear", lambda: None)()
    return changed


def _exchange_function(old: FunctionType, new: FunctionType) -> bool:
    changed = False
    if _code(old) != _code(new):
        if old.__code__.co_freevars != new.__code__.co_freevars:
            return False
        old.__code__ = new.__code__
        changed = True
    for defaults in ("__defaults__", "__kwdefaults__"):
        before, after = getattr(old, defaults), getattr(new, defaults)
        if _plain(after) and _plain(before) and _differ(before, after):
            setattr(old, defaults, after)
            changed = True
    return changed


def _code(function: FunctionType) -> tuple[object, ...]:
    return _facts(function.__code__)


def _facts(code: Any) -> tuple[object, ...]:
    inner = tuple(
        _facts(one) if hasattr(one, "co_code") else (type(one), repr(one)) for one in code.co_consts
    )
    return code.co_code, code.co_names, code.co_varnames, inner


def _function(value: object) -> FunctionType | None:
    for attribute in ("fget", "__func__", "func", "__wrapped__"):
        inner = getattr(value, attribute, None)
        if isinstance(inner, FunctionType):
            return inner
    return value if isinstance(value, FunctionType) else None
