"""Which form of the hot path runs: sources, or what mypyc compiled of them, never some of each.

A compiled wheel has `compiled.json` beside this file, which names what must be found compiled. Where it is
missing, all must be found as sources.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Final, NamedTuple

from bridge_core.errors import Fatal

_HERE: Final = Path(__file__).resolve().parent
_STATED: Final = "compiled.json"
_OURS: Final = ("bridge_agent.", "bridge_core.")


class Form(NamedTuple):
    """What runs.

    Attributes:
        mypyc: The version of mypyc that compiled the hot path; empty where it is interpreted.
        modules: How many modules are compiled.
    """

    mypyc: str = ""
    modules: int = 0

    @property
    def words(self) -> str:
        """For people: `pure Python`, or what was compiled by what."""
        return f"{self.modules} modules compiled by mypyc {self.mypyc}" if self.modules else "pure Python"


def form(folder: Path = _HERE, loaded: Mapping[str, str] | None = None) -> Form:
    """What runs.

    Args:
        folder: Of bridge_core, as it is installed.
        loaded: Modules and the files that they came from; None: those of this process.

    Raises:
        Fatal: some modules are compiled and others not that should be, or the other way round.
    """
    stated: frozenset[str] = frozenset()
    found = Form()
    try:
        said = json.loads((folder / _STATED).read_text())
    except FileNotFoundError:
        pass
    else:
        stated = frozenset(said["modules"])
        if said["suffix"] not in EXTENSION_SUFFIXES:
            raise _mixed(f"it was compiled for {said['suffix']}, and this is {EXTENSION_SUFFIXES[0]}")
        absent = [name for name in stated if not _file(folder, name, said["suffix"]).exists()]
        if absent:
            raise _mixed(f"{len(absent)} of its {len(stated)} compiled modules are missing: {min(absent)}")
        found = Form(said["mypyc"], len(stated))
    for name, came in sorted((_loaded() if loaded is None else loaded).items()):
        if name.startswith(_OURS) and came.endswith(tuple(EXTENSION_SUFFIXES)) is not (name in stated):
            raise _mixed(f"{name} is loaded from {came}")
    return found


def _loaded() -> dict[str, str]:
    files = {name: getattr(module, "__file__", None) for name, module in list(sys.modules.items())}
    return {name: file for name, file in files.items() if file}


def _file(folder: Path, name: str, suffix: str) -> Path:
    *packages, module = name.split(".")
    return folder.parent.joinpath(*packages, module + suffix)


def _mixed(what: str) -> Fatal:
    return Fatal(
        f"this installation is partly compiled: {what}",
        hint="install the wheel anew into an empty environment, or one made for this Python",
    )
