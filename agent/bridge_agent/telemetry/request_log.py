"""A line for each request that is over, made where the audit makes its record: not in the request's way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from time import monotonic
from typing import Final

from bridge_agent.gateway.config import RequestRecord
from bridge_agent.telemetry.request_log_rules import outcome_of, request_document
from bridge_core.audit.entries import AuditRecord
from bridge_core.errors import Fatal
from bridge_core.logs.overload_rules import REQUEST
from bridge_core.logs.setup import ProgramLog
from bridge_core.token_bucket import TokenBucket

WHICH: Final = "BRIDGE_LOG_REQUESTS"

_BURST, _RATE = 1000.0, 200.0
_FAILED_BURST, _FAILED_RATE = 500.0, 100.0


class RequestLog:
    """Writes requests into the agent's log. Lives in the thread that writes the audit.

    Args:
        log: The agent's.
        now: Monotonic seconds.
    """

    def __init__(self, log: ProgramLog, *, failed_only: bool, now: Callable[[], float] = monotonic) -> None:
        self._log = log
        self._failed_only = failed_only
        self._now = now
        at = now()
        # Apart, so that what goes well never crowds out what fails.
        self._any = TokenBucket(_BURST, _RATE, at)
        self._failed = TokenBucket(_FAILED_BURST, _FAILED_RATE, at)

    def take(self, record: RequestRecord, audited: AuditRecord) -> None:
        """A request is over."""
        failed = outcome_of(audited) == "failure"
        if self._failed_only and not failed:
            return
        if not (self._failed if failed else self._any).take(self._now()):
            self._log.sink.left_out(REQUEST)
            return
        self._log.write(REQUEST, request_document(record, audited, self._log.source))


def request_log(log: ProgramLog | None, environment: Mapping[str, str]) -> RequestLog | None:
    """Who writes requests; None: nobody, since they are not wanted or nobody collects lines.

    Raises:
        Fatal: what is wanted is not known.
    """
    wanted = environment.get(WHICH, "") or "all"
    if wanted not in ("all", "failed", "none"):
        raise Fatal(f"{WHICH} is {wanted[:20]!r}", hint="all, failed or none")
    if log is None or wanted == "none":
        return None
    return RequestLog(log, failed_only=wanted == "failed")
