"""What the requests of an instance, and its place in its life, say of it. Pure.

Only marks that hold for every model and load are here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import msgspec

from bridge_agent.health.verdict_rules import Finding
from bridge_core.counts import Counts

ERRORS: Final = 0.05
ERRORS_BAD: Final = 0.5
_FEWEST: Final = 20  # requests that a share of errors is taken of
_FEWEST_BAD: Final = 4
QUEUE_FULL: Final = 4  # times as many wait as it can decode at once


class Service(msgspec.Struct, frozen=True):
    """An instance as it serves.

    Attributes:
        state: Its place in its life.
        reason: Why it last failed.
        slots: Requests that it decodes at a time.
        waiting: Requests that wait for one.
        lately: What it did in the last half minute.
        ejected_s: For how long this node still passes it over.
        fault: Why it is kept out of the ring.
        silent_s: For how long its engine has neither answered nor computed, where that is said of it.
        served: Requests that it has.
    """

    state: str
    slots: int
    waiting: int
    reason: str = ""
    lately: Counts = Counts()
    ejected_s: float = 0.0
    fault: str = ""
    silent_s: float = 0.0
    served: int = 0


def service_findings(service: Service) -> Iterator[Finding]:
    """What is wrong with it."""
    if service.state in {"starting", "stopped"} and service.reason:
        yield Finding("service", "engine", "failing", f"its engine is {service.state}: {service.reason}")
    if service.fault:
        yield Finding("service", "kept-out", "failing", service.fault, sudden=True)
    if service.silent_s > 0.0:
        text = (
            f"its engine has neither answered nor computed for {service.silent_s:.1f} s, "
            f"with {service.served} requests at it: it hangs"
        )
        yield Finding("service", "silent", "failing", text, sudden=True)
    lately = service.lately
    bad = lately.failed
    said = f"{bad} of its last {lately.requests} requests failed"
    if lately.requests >= _FEWEST_BAD and bad >= ERRORS_BAD * lately.requests:
        yield Finding("service", "errors", "failing", said)
    elif lately.requests >= _FEWEST and bad >= ERRORS * lately.requests:
        yield Finding("service", "errors", "degraded", said)
    if service.ejected_s > 0.0:
        yield Finding("service", "ejected", "degraded", "requests pass it over after failures")
    if service.waiting >= QUEUE_FULL * max(1, service.slots):
        text = f"{service.waiting} requests wait for {service.slots} slots"
        yield Finding("service", "queue", "degraded", text)
