"""How the programs write their logs, and what of an exception they write.

A traceback shows where, never with what: the values of local variables are clients' prompts and keys,
and drawing them takes the event loop for a minute where a recursion ran deep.
"""

from __future__ import annotations

import sys
import traceback
from types import TracebackType
from typing import Final, TextIO

from bridge_core.lean_logging import structlog

_FRAMES: Final = 12  # of each exception, the innermost
_MOST: Final = 6000  # characters of the whole, for messages can quote what was sent

ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None]


def short_traceback(exc_info: ExcInfo) -> str:
    """The traceback of an exception and of what caused it: bounded, without values of variables."""
    lines = traceback.TracebackException(
        exc_info[0], exc_info[1], exc_info[2], limit=-_FRAMES, capture_locals=False
    ).format()
    text = "".join(lines).rstrip()
    if len(text) <= _MOST:
        return text
    half = _MOST // 2
    return f"{text[:half]}\n... {len(text) - _MOST} characters left out ...\n{text[-half:]}"


exception_renderer: Final = structlog.processors.ExceptionRenderer(short_traceback)
"""Processor for logs in JSON: `exc_info` becomes the text `exception`."""


def readable_lines(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """Renderer for logs that people read."""
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write)


def log_readably() -> None:
    """Sets structlog up for a command: readable lines on standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            readable_lines(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def _write(file: TextIO, exc_info: ExcInfo) -> None:
    file.write("\n" + short_traceback(exc_info))
