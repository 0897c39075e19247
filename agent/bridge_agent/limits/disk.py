"""What of the machine's disk an engine behind the wall "mount" can see.

Rules:
1. Of the folders in / only the system's own stay; whatever else there is (homes, /root, /var, /run
   with its sockets, disks mounted somewhere) looks empty but for what the engine needs.
2. Of /etc it sees what every user may read: not shadow, host keys, sudoers or private keys; of files
   in / neither (a swap file). That holds also where the engine's user is root, who owns those files
   and needs no right to read them.
3. Devices are those of any container (null, zero, random, …) and the GPUs: root could read a disk.
4. Kernel interfaces that tell of, or reach, others are empty: debugfs, tracing, other groups.
"""

from __future__ import annotations

import os
import site
import stat
import sys
from collections.abc import Iterable, Iterator
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import bridge_core
import bridge_wire

# Software lies in these; everything else in / is somebody's data.
SYSTEM: Final = frozenset(
    "bin sbin lib lib32 lib64 libx32 usr etc opt nix gnu snap proc sys dev tmp".split()  # noqa: SIM905 - a list to read
)
KERNEL: Final = (
    "/sys/fs/cgroup",
    "/sys/fs/bpf",
    "/sys/fs/pstore",
    "/sys/firmware",
    "/sys/kernel/debug",
    "/sys/kernel/security",
    "/sys/kernel/tracing",
)
_DEVICES: Final = ("null", "zero", "full", "random", "urandom", "tty")
_GPUS: Final = ("nvidia*", "dri", "kfd", "dxg", "nvhost*", "nvmap")
_ETC_DEPTH: Final = 3
_RESOLVER: Final = "/etc/resolv.conf"


def hidden() -> tuple[str, ...]:
    """Folders that are to look empty."""
    with os.scandir("/") as entries:
        others = sorted(
            entry.path
            for entry in entries
            if entry.name not in SYSTEM and entry.is_dir(follow_symlinks=False)
        )
    secrets = (path for path, mode in _secrets() if stat.S_ISDIR(mode))
    return (*others, *secrets, *(path for path in KERNEL if Path(path).is_dir()))


def masked() -> tuple[str, ...]:
    """Files that are to look empty."""
    with os.scandir("/") as entries:
        top = [one for one in entries if one.is_file(follow_symlinks=False)]
    swap = [one.path for one in top if not one.stat(follow_symlinks=False).st_mode & stat.S_IROTH]
    return (*swap, *(path for path, mode in _secrets() if stat.S_ISREG(mode)))


def devices() -> tuple[str, ...]:
    """What of /dev stays, as far as it is there."""
    root = Path("/dev")
    found = [root / name for name in _DEVICES if (root / name).exists()]
    found += [path for pattern in _GPUS for path in sorted(root.glob(pattern))]
    return tuple(map(str, found))


def software(argv: Iterable[str]) -> tuple[str, ...]:
    """What a program of ours executes and imports, with the libraries beside binaries that it names."""
    argv = tuple(argv)
    paths = [sys.prefix, sys.base_prefix, *bridge_core.__path__, *bridge_wire.__path__, *_packages(argv[:1])]
    if site.ENABLE_USER_SITE:
        paths.append(site.getusersitepackages())
    binaries = [Path(one) for one in argv if one.startswith("/")][:1]
    return _there((*paths, *with_libraries(binaries)))


def closed(argv: Iterable[str]) -> str:
    """The first of what a program executes and imports that another user may not; empty: nothing."""
    for path in software(argv):
        mode = os.stat(path).st_mode  # noqa: PTH116 - as _there
        wanted = stat.S_IROTH | stat.S_IXOTH if stat.S_ISDIR(mode) else stat.S_IROTH
        if mode & wanted != wanted:
            return path
    return ""


def _packages(programs: Iterable[str]) -> Iterator[str]:
    """The folders of the packages that these commands of ours begin in, wherever they were installed."""
    for program in programs:
        for entry in entry_points(group="console_scripts", name=Path(program).name):
            found = find_spec(entry.module.partition(".")[0])
            yield from (found.submodule_search_locations or ()) if found is not None else ()


def with_libraries(binaries: Iterable[Path]) -> tuple[str, ...]:
    """Binaries, what they link to, and the shared libraries that lie beside them."""
    found: list[str] = []
    for named in binaries:
        for binary in dict.fromkeys((named, named.resolve())):
            found.append(str(binary))
            if not os.path.isfile(binary):  # noqa: PTH113 - see _there
                continue
            if any(binary.parent.glob("*.so*")):
                found.append(str(binary.parent))
            found.append(str(binary.parent.parent / "lib" / "ollama"))
    return _there(found)


def resolver() -> tuple[str, ...]:
    """What names are looked up by, where the network is the host's: it often lies in /run."""
    return _there([str(Path(_RESOLVER).resolve())])


def below(path: str, folders: Iterable[str]) -> bool:
    """Whether a path is one of the folders or lies in one."""
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)


def _there(paths: Iterable[str]) -> tuple[str, ...]:
    found = (str(Path(path).absolute()) for path in paths if path)
    # os.path's, for pathlib's raises where the way there is closed to this user.
    return tuple(dict.fromkeys(path for path in found if path != "/" and os.path.exists(path)))  # noqa: PTH110


def _secrets() -> Iterator[tuple[str, int]]:
    """What of /etc not every user may read; nothing below a folder that is one itself."""
    pending = [("/etc", 0)]
    while pending:
        folder, depth = pending.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            mode = entry.stat(follow_symlinks=False).st_mode
            if stat.S_ISREG(mode) and not mode & stat.S_IROTH:
                yield entry.path, mode
            elif stat.S_ISDIR(mode):
                if mode & (stat.S_IROTH | stat.S_IXOTH) != stat.S_IROTH | stat.S_IXOTH:
                    yield entry.path, mode
                elif depth < _ETC_DEPTH:
                    pending.append((entry.path, depth + 1))
