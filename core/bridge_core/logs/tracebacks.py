"""What is written of an exception: where it was, never with what.

The values of local variables are clients' prompts and keys, and drawing them takes the event loop for a
minute where a recursion ran deep.
"""

from __future__ import annotations

import traceback
from types import TracebackType
from typing import Any, Final

from bridge_core.logs.cleaning_rules import message_of

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]

_FRAMES: Final = 12  # of each exception, the innermost
_MOST: Final = 6000  # characters of the whole
_CHAIN: Final = 6  # exceptions: causes and members of groups together

_CAUSE: Final = "\nThe above exception was the direct cause of the following exception:\n"
_CONTEXT: Final = "\nDuring handling of the above exception, another exception occurred:\n"


def short_traceback(exc_info: ExcInfo) -> str:
    """The traceback of an exception and of what caused it: bounded, without values of variables."""
    parts: list[str] = []
    _tell(exc_info[1], parts, set(), traced=exc_info[2])
    text = "\n".join(parts).rstrip()
    if len(text) <= _MOST:
        return text
    half = _MOST // 2
    return f"{text[:half]}\n... {len(text) - _MOST} characters left out ...\n{text[-half:]}"


def exception_info(value: Any) -> ExcInfo | None:
    """What structlog's `exc_info` means: True, an exception or its triple; None where there is none."""
    import sys

    if isinstance(value, BaseException):
        return type(value), value, value.__traceback__
    found = value if isinstance(value, tuple) else sys.exc_info() if value else (None, None, None)
    kind, fault, trace = found
    return None if kind is None or fault is None else (kind, fault, trace)


def type_of(fault: BaseException) -> str:
    """An exception's class as it is imported, without the module of built-in ones."""
    kind = type(fault)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _tell(fault: BaseException, parts: list[str], seen: set[int], traced: TracebackType | None) -> None:
    if id(fault) in seen or len(seen) >= _CHAIN:
        parts.append("(and others)")
        return
    seen.add(id(fault))
    before, says = fault.__cause__, _CAUSE
    if before is None and not fault.__suppress_context__:
        before, says = fault.__context__, _CONTEXT
    if before is not None:
        _tell(before, parts, seen, before.__traceback__)
        parts.append(says)
    if traced is not None:
        parts.append("Traceback (most recent call last):")
        # With -_FRAMES the frames nearest to the fault are taken, the ones that say most.
        parts += [one.rstrip() for one in traceback.format_tb(traced, limit=-_FRAMES)]
    parts.append(f"{type_of(fault)}: {message_of(fault)}")
    if isinstance(fault, BaseExceptionGroup):
        for one in fault.exceptions:
            if len(seen) >= _CHAIN:
                parts.append("(and others)")
                break
            parts.append("\nOne of its members:\n")
            _tell(one, parts, seen, one.__traceback__)
