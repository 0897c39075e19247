"""The unit files of the folder `systemd/`, and what a machine adds to them: drop-ins and variables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import msgspec

from bridge_core.errors import Fatal

_HERE: Final = Path(__file__).parent
_WHEEL: Final = _HERE / "unit_files"  # where a wheel has the folder
_CHECKOUT: Final = _HERE.parents[2] / "systemd"
DROP_IN: Final = "10-bridge.conf"


class Unit(msgspec.Struct, frozen=True):
    """A unit file, as it lies in `systemd/`.

    Attributes:
        name: The unit's.
        text: The file's.
        drop_in: What differs on this machine, for `<name>.d/10-bridge.conf`; empty: nothing.
        enabled: To be started at boot; the others are pulled in by those.
    """

    name: str
    text: str
    drop_in: str = ""
    enabled: bool = True


class Service(msgspec.Struct, frozen=True):
    """What an install puts in place.

    Attributes:
        units: In the order in which they are to be started.
        variables: Files of variables in /etc/bridge, name to text.
        gone: Units that an earlier install may have left and this one does without.
    """

    units: tuple[Unit, ...]
    variables: dict[str, str]
    gone: tuple[str, ...] = ()


def unit_folder() -> Path:
    """Where the unit files lie: beside this module in a wheel, `systemd/` in a checkout."""
    return _WHEEL if _WHEEL.is_dir() else _CHECKOUT


def unit(name: str, drop_in: Mapping[str, Iterable[str]] | None = None, *, enabled: bool = True) -> Unit:
    """The unit of that name, byte for byte.

    Args:
        name: A file in `systemd/`.
        drop_in: Lines by section, for what differs here; sections without lines are left out.
        enabled: See `Unit`.

    Raises:
        Fatal: the program was installed without it.
    """
    try:
        said = (unit_folder() / name).read_text("utf-8")
    except OSError as fault:
        raise Fatal(
            f"cannot read {fault.filename}: {fault.strerror}", hint="install the package whole"
        ) from fault
    sections = {section: tuple(lines) for section, lines in (drop_in or {}).items()}
    text = "\n".join(
        "\n".join([f"[{section}]", *lines]) + "\n" for section, lines in sections.items() if lines
    )
    return Unit(name, said, text, enabled)


def variables(words: Mapping[str, str], *, says: str) -> str:
    """A file for EnvironmentFile=: a comment, then a variable a line."""
    return f"# {says}\n" + "".join(variable(name, value) for name, value in words.items())


def variable(name: str, value: str) -> str:
    """A line of such a file; the value means itself."""
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./\[\]-]*", value):
        return f"{name}={value}\n"
    escaped = re.sub(r'(["\\$`])', r"\\\1", value)
    return f'{name}="{escaped}"\n'


def quoted(words: Iterable[str]) -> str:
    """Words as systemd reads them on one line: spaces, quotes, specifiers and variables mean themselves."""
    return " ".join(_quoted(word) for word in words)


def _quoted(word: str) -> str:
    word = word.replace("%", "%%").replace("$", "$$")
    if re.fullmatch(r"[A-Za-z0-9_@%+=:,./$-]+", word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n").replace("\t", "\\t")
    return f'"{escaped}"'


def quoted_path(path: str) -> str:
    """A path for a setting that takes one or several; those know no variables, and $ is itself."""
    return _quoted(path).replace("$$", "$")
