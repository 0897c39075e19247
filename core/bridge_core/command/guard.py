"""How a command ends: a failure that has a sentence is printed as one, never as a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from bridge_core.errors import BridgeError

T = TypeVar("T")


def guarded(work: Callable[[], T]) -> T:
    """The result of `work`; a BridgeError ends the process with status 1, an interrupt with 130."""
    called = Path(sys.argv[0]).name
    program = called if called.startswith("bridge") else "bridgectl"
    try:
        return work()
    except* BridgeError as faults:
        for fault in _leaves(faults):
            hint = f"  {fault.hint}\n" if fault.hint else ""
            sys.stderr.write(f"{program}: {fault.message}\n{hint}")
        code = 1
    except* KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        code = 130
    raise SystemExit(code)


def _leaves(group: BaseExceptionGroup[BridgeError]) -> list[BridgeError]:
    found: list[BridgeError] = []
    for fault in group.exceptions:
        found += _leaves(fault) if isinstance(fault, BaseExceptionGroup) else [fault]
    return found
