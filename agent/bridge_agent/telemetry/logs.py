"""Logs: JSON lines on standard error, or readable ones on a terminal."""

from __future__ import annotations

import logging
import sys

import msgspec
import structlog

from bridge_core.command.logs import exception_renderer, readable_lines
from bridge_core.errors import Fatal

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


def configure_logs(level: str) -> None:
    """Sets structlog up for this process.

    Raises:
        Fatal: `level` is none of debug, info, warning, error.
    """
    if level not in _LEVELS:
        raise Fatal(f"--log-level {level!r} is not known", hint=", ".join(_LEVELS))
    terminal = sys.stderr.isatty()
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    if terminal:
        shared.append(readable_lines(colors=True))
    else:
        shared += [
            exception_renderer,
            structlog.processors.JSONRenderer(serializer=_to_json),
        ]
    structlog.configure(
        processors=shared,
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr)
        if terminal
        else structlog.BytesLoggerFactory(file=sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )


def _to_json(event: object, **_: object) -> bytes:
    return msgspec.json.encode(event, enc_hook=repr)
