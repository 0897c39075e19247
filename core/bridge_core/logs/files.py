"""A log that goes to a file of its own: which, how long it grows, how many older ones stay."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.errors import Fatal

FILE: Final = "BRIDGE_LOG_FILE"
FILE_SIZE: Final = "BRIDGE_LOG_FILE_MIB"
FILES_KEPT: Final = "BRIDGE_LOG_FILES_KEPT"

_MIB, _KEPT = 32, 4
_MOST_MIB: Final = 1 << 20
_MOST_KEPT: Final = 1000


class LogFile(msgspec.Struct, frozen=True):
    """A file to write to in place of standard error.

    Attributes:
        path: Its name; older ones are `path.1` (the newest) to `path.<kept>`.
        most: Bytes after which it is put aside.
        kept: How many older ones stay.
    """

    path: Path
    most: int = _MIB << 20
    kept: int = _KEPT

    def older(self, index: int) -> Path:
        """The name of an older one; 0: of the file itself."""
        return self.path.with_name(f"{self.path.name}.{index}") if index else self.path


def file_wanted(environment: Mapping[str, str]) -> LogFile | None:
    """The file that the environment names; None: none.

    Raises:
        Fatal: a size or number in it is none.
    """
    path = environment.get(FILE, "")
    if not path:
        return None
    mib = _number(environment, FILE_SIZE, _MIB, 1, _MOST_MIB)
    return LogFile(Path(path), mib << 20, _number(environment, FILES_KEPT, _KEPT, 0, _MOST_KEPT))


def _number(environment: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = environment.get(name, "")
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and len(text) < 10 and least <= int(text) <= most):
        raise Fatal(f"{name} is {text[:20]!r}", hint=f"a whole number from {least} to {most}")
    return int(text)
