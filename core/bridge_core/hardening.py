"""What keeps the keys in a process's memory from others of the same user."""

from __future__ import annotations

import ctypes
import resource
from typing import Final

_PR_SET_DUMPABLE: Final = 4


def keep_memory_private() -> None:
    """No core file, and no other process of this user may read or trace this one (root may).

    A program that is executed from here starts dumpable again, but leaves no core either.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    # With a core_pattern that pipes, the kernel asks no limit: it does ask this.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
