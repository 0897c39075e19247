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
    """What an agent says of its node: instances, gauges, and what others' instances answered it."""

    instances: tuple[InstanceHealth, ...] = ()
    gauges: tuple[Gauge, ...] = ()
    golden: tuple[GoldenAnswer, ...] = ()
