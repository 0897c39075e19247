"""Sets a program's logs up: JSON lines for a collector, readable ones on a terminal.

What Python and its libraries say by themselves (uncaught exceptions, asyncio's complaints, `logging`,
warnings) goes the same way: a collector is not to read tracebacks line by line.
"""

from __future__ import annotations

import atexit
import logging
import os
import sys
import threading
import time
import warnings
from collections.abc import Mapping, MutableMapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import msgspec

from bridge_core.command.logs import clean_values, readable_lines
from bridge_core.errors import Fatal
from bridge_core.lean_logging import structlog
from bridge_core.logs.ecs_rules import Document, Source, dropped_document, event_document, line_of
from bridge_core.logs.files import FILE, file_wanted
from bridge_core.logs.overload_rules import CLASSES, DEBUG, ERROR, INFO, REQUEST, WARNING, Throttle
from bridge_core.logs.sink import LogSink

_LEVELS: Final = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
}


class ProgramLog:
    """One process's log: what makes lines of events, and where they go.

    Args:
        source: Whose it is.
        sink: Where lines go.
    """

    def __init__(self, source: Source, sink: LogSink) -> None:
        self.source = source
        self.sink = sink
        self._throttle = Throttle()

    def known_as(self, node: str) -> None:
        """Lines name this node, or registry, from now on."""
        self.source = msgspec.structs.replace(self.source, node=node)

    def write(self, kind: str, document: Document) -> None:
        """Writes a line that is no program event. From any thread."""
        self.sink.put(kind, line_of(document))

    # -- as structlog's last processor, and as what it gives lines to

    def render(self, _logger: Any, method: str, event: MutableMapping[str, Any]) -> bytes:
        """Makes an event a line, or drops it where it was told too often."""
        level = _level_of(method)
        if not self._throttle.admits(str(event.get("event", ""))[:100], time.monotonic()):
            self.sink.left_out(level)
            raise structlog.DropEvent
        if method == "exception" and "exc_info" not in event:
            event["exc_info"] = True
        return line_of(event_document(event, level=level, at=time.time(), source=self.source))


class _Lines:
    """What structlog hands lines to: the name of the method is the line's class."""

    def __init__(self, sink: LogSink) -> None:
        self._sink = sink

    def debug(self, line: bytes) -> None:
        self._sink.put(DEBUG, line)

    def info(self, line: bytes) -> None:
        self._sink.put(INFO, line)

    def warning(self, line: bytes) -> None:
        self._sink.put(WARNING, line)

    def error(self, line: bytes) -> None:
        self._sink.put(ERROR, line)

    msg = info
    warn = warning
    exception = critical = fatal = error


def log_of_program(service: str, *, level: str = "info", node: str = "") -> ProgramLog | None:
    """Sets up the log of a program that runs for long.

    Args:
        service: The program's name.
        level: The least that is told.
        node: The node's name, or the registry's, where it is known already.

    Returns:
        The log; None on a terminal, where lines are for people and nobody collects them.

    Raises:
        Fatal: `level` or what the environment says of a file is of no use.
    """
    if level not in _LEVELS:
        raise Fatal(f"--log-level {level!r} is not known", hint=", ".join(_LEVELS))
    file = file_wanted(os.environ)
    if file is None and sys.stderr.isatty():
        log_for_people(level)
        return None
    source = Source(service, node, _version(), os.getpid())
    made: ProgramLog | None = None

    def told(dropped: Mapping[str, int]) -> bytes:
        return line_of(dropped_document(dropped, time.time(), source if made is None else made.source))

    sink = LogSink(told=told, file=file)
    try:
        sink.start()
    except OSError as fault:
        raise Fatal(
            f"cannot write the log to {file.path if file else 'standard error'}: {fault.strerror}",
            hint=f"{FILE} names a file that this user can make",
        ) from fault
    atexit.register(sink.close)
    made = ProgramLog(source, sink)
    log_into(made, level)
    _take_over()
    return made


def log_into(log: ProgramLog, level: str) -> None:
    """Has structlog make lines for `log`."""
    structlog.configure(
        processors=[structlog.contextvars.merge_contextvars, log.render],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=lambda *_: _Lines(log.sink),
        cache_logger_on_first_use=True,
    )


def log_for_people(level: str) -> None:
    """Has structlog write readable lines to standard error."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.StackInfoRenderer(),
            clean_values,
            readable_lines(colors=True),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def _version() -> str:
    try:
        return version("deepseek-ollama-bridge")
    except PackageNotFoundError:  # run from sources that nobody installed
        return ""


def _level_of(method: str) -> str:
    return method if method in CLASSES and method != REQUEST else ERROR if method != "msg" else INFO


# -- what others say by themselves

_log = structlog.get_logger()


class _FromLogging(logging.Handler):
    """Python's `logging`: asyncio's complaints above all."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception:  # noqa: BLE001 - a format that does not fit: the library's fault, and told
            text = str(record.msg)
        tell = _log.error if record.levelno >= logging.ERROR else _log.warning
        tell("library_message", library=record.name, said=text, exc_info=record.exc_info or None)


def _take_over() -> None:
    root = logging.getLogger()
    root.handlers[:] = [_FromLogging(logging.WARNING)]
    sys.excepthook = lambda kind, fault, trace: _uncaught(kind, fault, trace, "")
    threading.excepthook = lambda it: _uncaught(
        it.exc_type, it.exc_value, it.exc_traceback, "" if it.thread is None else it.thread.name
    )
    warnings.showwarning = lambda message, category, filename, lineno, *_: _log.warning(
        "python_warning", category=category.__name__, said=str(message), where=f"{filename}:{lineno}"
    )


def _uncaught(kind: type[BaseException], fault: BaseException | None, trace: Any, thread: str) -> None:
    if fault is None or issubclass(kind, (SystemExit, KeyboardInterrupt)):
        return
    _log.error("uncaught_exception", thread=thread or None, exc_info=(kind, fault, trace))
