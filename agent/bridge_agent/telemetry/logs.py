"""The agent's own log."""

from __future__ import annotations

from bridge_core.logs.setup import ProgramLog, log_of_program


def configure_logs(level: str) -> ProgramLog | None:
    """Sets this process's log up; None on a terminal, where nobody collects lines.

    Raises:
        Fatal: `level` is none of debug, info, warning, error, or the log cannot be written.
    """
    return log_of_program("bridge-agent", level=level)
