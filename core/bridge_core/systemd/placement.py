"""Where the program lies, what a service may see of that, and the commands on everybody's PATH."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bridge_core.errors import Fatal

COMMANDS: Final = ("bridgectl", "bridge-agent", "bridge-registry", "bridge-engine")
BIN_FOLDER: Final = Path("/usr/local/bin")
PACKAGED_FOLDER: Final = Path("/usr/bin")
_HOMES = ("/home", "/root", "/run/user")
_FLEETING = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108 - named to be refused


def program(name: str) -> Path:
    """The path of one of our commands beside this interpreter.

    Raises:
        Fatal: it is not installed there.
    """
    found = Path(sys.executable).with_name(name)
    if not found.exists():
        raise Fatal(f"{found} is not there", hint="install the package whole, then run this again")
    return found


def put_on_path(folder: Path = BIN_FOLDER, *, packaged: Path = PACKAGED_FOLDER) -> list[str]:
    """Links every command into a folder that is on everybody's PATH, and on systemd's.

    Args:
        folder: Where the links go.
        packaged: Where a package of the system's has linked them.

    Returns:
        What was done, a sentence each; nothing where the commands lie there or are linked already.

    Raises:
        Fatal: one of our names is somebody else's program there, or the folder cannot be written.
    """
    done = []
    for name in COMMANDS:
        ours, link = program(name), folder / name
        if ours in (link, _target(link), _target(packaged / name)):
            continue
        if link.exists() and not link.is_symlink():
            raise Fatal(f"{link} is there and not a link of ours", hint="move it away, then run this again")
        try:
            folder.mkdir(parents=True, exist_ok=True)
            link.unlink(missing_ok=True)
            link.symlink_to(ours)
        except OSError as fault:
            raise Fatal(f"cannot link {link}: {fault.strerror}") from fault
        done.append(f"linked {link} to {ours}")
    return done


def take_off_path(folder: Path = BIN_FOLDER) -> list[str]:
    """Removes the links that `put_on_path` made; returns what was done, a sentence each. Raises Fatal."""
    done = []
    for name in COMMANDS:
        link = folder / name
        if _target(link) == Path(sys.executable).with_name(name):
            try:
                link.unlink()
            except OSError as fault:
                raise Fatal(f"cannot remove {link}: {fault.strerror}") from fault
            done.append(f"removed the link {link}")
    return done


def _target(link: Path) -> Path | None:
    return link.parent / link.readlink() if link.is_symlink() else None


def program_folders() -> list[str]:
    """Where interpreter, libraries and our own code lie."""
    return list(dict.fromkeys([sys.prefix, sys.base_prefix, str(Path(__file__).parents[2])]))


def protect_home(paths: Iterable[str]) -> str:
    """The value of ProtectHome= that leaves these paths to be seen."""
    return "read-only" if any(_below(path, _HOMES) for path in paths) else "yes"


def home_settings(paths: Iterable[str]) -> list[str]:
    """The lines of a drop-in that leave these paths to be seen; the units themselves hide all homes."""
    value = protect_home(paths)
    return [] if value == "yes" else [f"ProtectHome={value}"]


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
