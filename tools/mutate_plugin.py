"""pytest's side of `mutate.py`: records which tests call which functions, or puts a change in force."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any

import hypothesis
import pytest

ROOT = str(Path(__file__).resolve().parents[1])
_DECIDING = ("/bridge_agent/routing/", "/bridge_core/policy/")  # beside the `*_rules.py`
_record: Path | None = None
_changed: tuple[str, Path] | None = None
_codes: dict[CodeType, str | None] = {}
_calls: dict[str, set[str]] = {}
_times: dict[str, float] = {}
_running: set[str] | None = None


class _Loader(importlib.machinery.SourceFileLoader):
    """Loads the changed module in place of the one on disk."""

    def get_code(self, fullname: str) -> CodeType:
        assert _changed is not None
        return compile(_changed[1].read_text(), self.path, "exec")


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if not fullname.startswith("bridge_"):
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is not None and _changed is not None and spec.origin == _changed[0]:
            return importlib.util.spec_from_loader(fullname, _Loader(fullname, _changed[0]))
        return None


def put_in_force(path: str, source: Path) -> None:
    """Has a module, not imported yet, come from another source than its own."""
    global _changed  # noqa: PLW0603 - a finder is asked by the import system alone
    _changed = path, source
    sys.meta_path.insert(0, _Finder())


def _profile(frame: FrameType, event: str, _argument: Any) -> None:
    if event != "call" or _running is None:
        return
    code = frame.f_code
    if code not in _codes:
        name = code.co_filename
        rules = name.endswith("_rules.py") or any(folder in name for folder in _DECIDING)
        inside = name.startswith(ROOT) and rules
        _codes[code] = f"{os.path.relpath(name, ROOT)}:{code.co_firstlineno}" if inside else None
    where = _codes[code]
    if where is not None:
        _running.add(where)


@contextmanager
def recording(note: Path) -> Iterator[None]:
    """Writes down which tests call which functions of the rules, run within."""
    global _record  # noqa: PLW0603 - a profile function has nowhere else to look
    _record = note
    yield
    callers: dict[str, list[tuple[float, str]]] = {}
    for test, places in _calls.items():
        for place in {*places, *(f"{place.rpartition(':')[0]}:0" for place in places)}:
            callers.setdefault(place, []).append((_times.get(test, 0.0), test))
    note.write_text(json.dumps({place: sorted(tests) for place, tests in callers.items()}))


@pytest.hookimpl(trylast=True)
def pytest_configure() -> None:
    """Finding that a test fails is enough: nobody reads how small the example could be made."""
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.reuse, hypothesis.Phase.generate]
    hypothesis.settings.register_profile(
        "mutate",
        deadline=None,
        phases=phases,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),  # it is slower while it is watched
    )
    hypothesis.settings.load_profile("mutate")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Notes what a test calls."""
    global _running  # noqa: PLW0603 - a profile function has nowhere else to look
    if _record is not None:
        _running = _calls.setdefault(item.nodeid, set())
        sys.setprofile(_profile)
    yield
    if _record is not None:
        sys.setprofile(None)
        _running = None


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Notes how long a test takes."""
    _times[report.nodeid] = _times.get(report.nodeid, 0.0) + report.duration
