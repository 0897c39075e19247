"""What is counted of requests that are over: each once, whenever somebody looks."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_agent.gateway.counters import OVERHEAD_S, SECONDS, GatewayCounters, Histogram
from bridge_core.identity.principal import local

_CALLERS = [Caller(local("n"), listener) for listener in ListenerKind]
# In quarters of a second, of which sums are exact in any order.
_TIMES = st.integers(min_value=0, max_value=40).map(lambda quarters: quarters / 4)


@st.composite
def records(draw: st.DrawFn) -> RequestRecord:
    began = draw(_TIMES)
    waited = draw(_TIMES)
    sent = began + waited + draw(_TIMES)
    head = sent + draw(_TIMES) if draw(st.booleans()) else 0.0
    return RequestRecord(
        "id",
        draw(st.sampled_from(_CALLERS)),
        "POST",
        draw(st.sampled_from(["/api/chat", "/api/generate"])),
        "m",
        draw(st.sampled_from([200, 499, 503])),
        draw(st.sampled_from(list(Outcome))),
        began,
        sent,
        head,
        max(sent, head) + draw(_TIMES),
        None,
        "n/0",
        (),
        0,
        0,
        waited,
        shadowed=draw(st.sampled_from([(), ("later",), ("later", "too")])),
        loading=min(waited, draw(_TIMES)),
    )


def one_by_one(bounds: tuple[float, ...], values: list[float]) -> tuple[list[int], float]:
    counts = [0] * (len(bounds) + 1)
    for value in values:
        counts[bisect_left(bounds, value)] += 1
    return counts, sum(values)


def of(histogram: Histogram) -> tuple[list[int], float]:
    return histogram.counts, histogram.total


@given(st.lists(st.tuples(records(), st.booleans()), max_size=70))
def test_each_is_counted_once_whenever_somebody_looks(steps: list[tuple[RequestRecord, bool]]) -> None:
    counters = GatewayCounters()
    for number, (record, looks) in enumerate(steps, 1):
        counters.settled(record)
        if looks:
            assert counters.ended.requests.total() == number
    over = [record for record, _ in steps]
    ended = counters.ended
    assert ended.requests == Counter((one.path, one.status, one.caller.listener.value) for one in over)
    assert ended.outcomes == Counter(one.outcome.value for one in over)
    assert ended.shadowed == Counter(name for one in over for name in one.shadowed)
    assert of(ended.duration) == one_by_one(SECONDS, [one.ended - one.began for one in over])
    newest = {bisect_left(SECONDS, one.ended - one.began): (one.ended - one.began, one) for one in over}
    assert ended.duration.newest == newest
    answered = [one for one in over if one.head]
    assert of(ended.first_byte) == one_by_one(SECONDS, [one.head - one.began for one in answered])
    added = [one.sent - one.began - one.waited for one in answered]
    assert of(ended.overhead) == one_by_one(OVERHEAD_S, added)
    queued = [one.waited - one.loading for one in over if one.waited > one.loading]
    assert of(ended.wait) == one_by_one(SECONDS, queued)
    assert of(ended.load_wait) == one_by_one(SECONDS, [one.loading for one in over if one.loading])
