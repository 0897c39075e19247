"""How commands write their logs: readable lines, for who typed the command."""

from __future__ import annotations

import sys
from collections.abc import MutableMapping
from typing import Any, TextIO

from bridge_core.lean_logging import structlog
from bridge_core.logs.cleaning_rules import cleaned
from bridge_core.logs.tracebacks import ExcInfo, short_traceback

_MOST = 4000  # characters of a value: a terminal has room, and hints are long


class _StandardError:
    """Standard error as it is at each line: who exchanged it for a command closes theirs afterwards."""

    def write(self, text: str) -> int:
        return sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def readable_lines(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """Renderer for logs that people read."""
    return structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=_write)


def clean_values(_logger: Any, _method: str, event: MutableMapping[str, Any]) -> dict[str, Any]:
    """Processor: texts that may stand on a terminal. Others' names hold escape sequences, too."""
    return {key: cleaned(value, _MOST) if isinstance(value, str) else value for key, value in event.items()}


def log_readably() -> None:
    """Sets structlog up for a command: readable lines on standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.StackInfoRenderer(),
            structlog.processors.TimeStamper(fmt="%Y-%m-%d %H:%M:%S", utc=False),
            clean_values,
            readable_lines(colors=sys.stderr.isatty()),
        ],
        logger_factory=structlog.PrintLoggerFactory(_StandardError()),  # type: ignore[arg-type]  # it prints
    )


def _write(file: TextIO, exc_info: ExcInfo) -> None:
    file.write("\n" + short_traceback(exc_info))
