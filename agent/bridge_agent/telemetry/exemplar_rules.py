"""Which request a bucket of a histogram names, as OpenMetrics 1.0 has it: one a bucket, the newest. Pure.

A request is named by its id, and by its trace where it is part of one. Names and values of an exemplar's
labels are 128 characters together at most; an id that a client made longer than that is left out.
"""

from __future__ import annotations

from typing import Final

from prometheus_client.samples import Exemplar

from bridge_agent.gateway.config import RequestRecord
from bridge_agent.gateway.counters import Histogram

MOST: Final = 128


def exemplars_of(histogram: Histogram, *, ahead: float) -> dict[int, Exemplar]:
    """By bucket; `ahead` is the Unix time at zero of the clock of the records."""
    found = {}
    for at, (value, record) in histogram.newest.items():
        labels = labels_of(record)
        if labels:
            found[at] = Exemplar(labels, value, round(record.ended + ahead, 3))
    return found


def labels_of(record: RequestRecord) -> dict[str, str]:
    """What names a request within `MOST` characters; nothing where nothing does."""
    found, left = dict[str, str](), MOST
    trace = record.trace.trace_id.decode() if record.trace is not None else ""
    for name, value in (("trace_id", trace), ("request_id", record.request_id)):
        if value and len(name) + len(value) <= left:
            found[name] = value
            left -= len(name) + len(value)
    return found
