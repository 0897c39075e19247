"""What an agent reports of health, once it was read."""

from __future__ import annotations

import msgspec

from bridge_core.counts import Counts
from bridge_core.gauges import Gauge
from bridge_core.golden import GoldenAnswer
from bridge_core.verdicts import Reason


class InstanceHealth(msgspec.Struct, frozen=True):
    """What an agent says of one of its own instances."""

    instance: str
    reasons: tuple[Reason, ...] = ()
    counts: Counts = Counts()


class NodeHealthReport(msgspec.Struct, frozen=True):
    """What an agent says of its node: instances, gauges, and what others' instances answered it.

    Attributes:
        instances: Its own.
        gauges: What it measured.
        golden: What others' instances answered it.
        lead: By how many seconds its clock is ahead of this registry's; None: it does not tell.
        silent: Nodes that leave it without an answer.
    """

    instances: tuple[InstanceHealth, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    golden: tuple[GoldenAnswer, ...] = ()
    lead: float | None = None
    silent: frozenset[str] = frozenset()
