"""Which form of the hot path runs, and that it is never some of each."""

from __future__ import annotations

import json
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

from bridge_core.errors import Fatal
from bridge_core.form import form

SUFFIX = EXTENSION_SUFFIXES[0]


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A folder of bridge_core, with one compiled module below it."""
    folder = tmp_path / "bridge_core"
    (folder / "some").mkdir(parents=True)
    (folder / "some" / f"where{SUFFIX}").touch()
    return folder


def state(folder: Path, *modules: str, suffix: str = SUFFIX) -> None:
    said = {"mypyc": "1.2.3", "suffix": suffix, "modules": modules}
    (folder / "compiled.json").write_text(json.dumps(said))


def test_compiled_modules_are_counted(installed: Path) -> None:
    state(installed, "bridge_core.some.where")
    assert form(installed, {}).words == "1 modules compiled by mypyc 1.2.3"


def test_without_a_word_of_compiled_modules_it_is_pure(tmp_path: Path) -> None:
    assert form(tmp_path, {"bridge_core.errors": "/x/bridge_core/errors.py"}).words == "pure Python"


def test_a_compiled_module_that_is_missing_is_told(installed: Path) -> None:
    state(installed, "bridge_core.some.where", "bridge_core.some.other")
    with pytest.raises(Fatal, match=r"1 of its 2 compiled modules are missing: bridge_core\.some\.other"):
        form(installed, {})


def test_what_was_compiled_for_another_python_is_told(installed: Path) -> None:
    state(installed, "bridge_core.some.where", suffix=".cpython-27.so")
    with pytest.raises(Fatal, match=r"it was compiled for \.cpython-27\.so"):
        form(installed, {})


@pytest.mark.parametrize(
    ("name", "came"),
    [
        ("bridge_core.some.where", "/x/where.py"),  # stated, and its source is what was loaded
        ("bridge_agent.stray", f"/x/stray{SUFFIX}"),  # compiled by somebody, and not stated
    ],
)
def test_a_module_in_the_wrong_form_is_told(installed: Path, name: str, came: str) -> None:
    state(installed, "bridge_core.some.where")
    with pytest.raises(Fatal, match=f"{name} is loaded from"):
        form(installed, {name: came, "json": f"/x/json{SUFFIX}", "bridge_core.errors": "/x/errors.py"})


def test_what_runs_these_tests_is_of_one_form() -> None:
    form()
