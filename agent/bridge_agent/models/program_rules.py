"""Which files an engine's program is made of, from what the kernel says that its processes have mapped. Pure.

A load reads the engine's own program and libraries, too (CUDA's alone have hundreds of MB), and they leave
the page cache like any file: after a reboot, or where memory was short. So they are read ahead beside the
models (`warming`).

Rules:
1. A file counts that a process has mapped as code: its program, and the libraries that it loaded. Data is
   left out: a model that is mapped is the models' own business.
2. What has no name in the file system any more is left out, and so is what lies in memory or in a device.
3. No number of processes or files makes the list longer than `MOST_FILES`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

MOST_FILES: Final = 512
MOST_PATH: Final = 4096

# Address, rights, offset, device, inode, path: proc_pid_maps(5).
_MAPPED: Final = re.compile(
    r"^[0-9a-f]+-[0-9a-f]+ ..x. [0-9a-f]+ [0-9a-f]+:[0-9a-f]+ [1-9]\d* +(/.*)$", re.MULTILINE
)
_GONE: Final = " (deleted)"
_NO_FILES: Final = ("/dev/", "/proc/", "/memfd:", "/SYSV")


def code_of(maps: str) -> list[str]:
    """The files that are mapped as code, each once, in the order of `/proc/PID/maps`."""
    found = dict.fromkeys(str(path) for path in _MAPPED.findall(maps))
    return [path for path in found if _counts(path)]


def _counts(path: str) -> bool:
    # The kernel writes a newline in a name as \012: such a name is left out.
    plain = "\\" not in path and not path.endswith(_GONE) and len(path) <= MOST_PATH
    return plain and not path.startswith(_NO_FILES)


def together(known: Iterable[str], seen: Iterable[str]) -> tuple[str, ...]:
    """What is kept of earlier files and of those seen now, which go first (rule 3)."""
    return tuple(dict.fromkeys((*seen, *known)))[:MOST_FILES]
