"""How much memory this process may use at most: the machine's, and its cgroup's and all those above."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

_ROOT: Final = Path("/sys/fs/cgroup")
_V2: Final = re.compile(r"^0::(/.*)$", re.MULTILINE)
_V1: Final = re.compile(r"^\d+:(?:[\w=,]+,)?memory(?:,[\w=,]+)?:(/.*)$", re.MULTILINE)
_CACHED: Final = re.compile(r"^(?:total_)?(?:inactive|active)_file (\d+)$", re.MULTILINE)


def available(root: Path = _ROOT, own: Path = Path("/proc/self/cgroup")) -> int:
    """Bytes that are free, or that the kernel can make so by dropping file pages, for this process."""
    import psutil  # an engine asks only where a model lies sealed

    rooms = [int(psutil.virtual_memory().available)]
    try:
        text = own.read_text()
    except OSError:
        return rooms[0]
    for found, folder, limit, used in (
        (_V2.search(text), root, "memory.max", "memory.current"),
        (_V1.search(text), root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ):
        if found is not None:
            group = folder / found[1].lstrip("/")
            while group.is_relative_to(folder):
                rooms += _room_of(group, limit, used)
                if group == folder:
                    break
                group = group.parent
    return max(0, min(rooms))


def _room_of(group: Path, limit: str, used: str) -> list[int]:
    """What is left in one group; empty where it has no limit, or cannot be read."""
    try:
        most = (group / limit).read_text().strip()
        if not most.isdecimal():
            return []
        now = int((group / used).read_text())
        text = (group / "memory.stat").read_text()
    except (OSError, ValueError):
        return []
    # In v1 the figures with "total_" are of the whole tree, and so is the usage.
    lines = [line for line in text.splitlines() if line.startswith("total_")] or text.splitlines()
    cached = sum(int(found) for found in _CACHED.findall("\n".join(lines)))
    return [int(most) - now + cached]
