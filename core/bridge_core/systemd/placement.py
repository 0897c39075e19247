"""What a service may see, judged by where the program and its files lie."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from bridge_core.errors import Fatal

_HOMES = ("/home", "/root", "/run/user")
_FLEETING = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - named to be refused


def program(name: str) -> str:
    """The path of one of our commands beside this interpreter.

    Raises:
        Fatal: it is not installed there.
    """
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        raise Fatal(f"{found} is not there", hint="install the package whole, then run this again")
    return str(found)


def program_folders() -> list[str]:
    """Where interpreter, libraries and our own code lie."""
    return list(dict.fromkeys([sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])]))


def protect_home(paths: Iterable[str]) -> str:
    """The value of ProtectHome= that leaves these paths to be seen."""
    return "read-only" if any(_below(path, _HOMES) for path in paths) else "yes"


def check_lasting(paths: Iterable[str]) -> None:
    """Raises Fatal for a path that a reboot empties, or that the service sees another folder in place of."""
    for path in paths:
        if _below(path, _FLEETING):
            raise Fatal(f"{path} does not outlive a reboot", hint="a service needs lasting folders")


def check_open_to_all(paths: Iterable[str]) -> None:
    """Raises Fatal for a path that a user of the service's own could not read."""
    for path in paths:
        for folder in (Path(path), *Path(path).parents):
            if folder.is_dir() and folder.stat().st_mode & 0o005 != 0o005:
                raise Fatal(
                    f"{path} cannot be read by the service's user: {folder} is closed to others",
                    hint="install the program where all may read it, for example in /opt/bridge",
                )


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
