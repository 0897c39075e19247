"""W3C Trace Context: what counts as a parent, what is passed on, and what is not."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.tracing.context_rules import Parent, Trace, begun, parent_of, picked, state_of
from bridge_agent.tracing.tracer import Tracer
from bridge_core.http1 import Headers, Request

TRACE, SPAN = b"4bf92f3577b34da6a3ce929d0e0e4736", b"00f067aa0ba902b7"
PLAIN = b"00-%b-%b-01" % (TRACE, SPAN)
_LINE = re.compile(
    rb"traceparent: 00-([0-9a-f]{32})-([0-9a-f]{16})-0[01]\r\n(tracestate: [!-~ ]{1,512}\r\n)?"
)

ids = st.integers(1, (1 << 128) - 1)
spans = st.integers(1, (1 << 64) - 1)


@pytest.mark.parametrize(
    ("value", "sampled"),
    [
        (PLAIN, True),
        (b"00-%b-%b-00" % (TRACE, SPAN), False),
        (b"00-%b-%b-ff" % (TRACE, SPAN), True),  # flags that are not known are not regarded
        (b"00-%b-%b-02" % (TRACE, SPAN), False),
        (b"01-%b-%b-01" % (TRACE, SPAN), True),  # a version to come, with and without more
        (b"cc-%b-%b-01-what-the-future-holds" % (TRACE, SPAN), True),
        (b"cc-%b-%b-01-" % (TRACE, SPAN), True),
    ],
)
def test_a_parent_that_counts(value: bytes, sampled: bool) -> None:
    assert parent_of([value]) == Parent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [b""],
        [PLAIN, PLAIN],
        [PLAIN.upper()],
        [PLAIN + b"-"],
        [PLAIN + b"-more"],
        [PLAIN + b","],
        [PLAIN[:-1]],
        [PLAIN + b"0"],
        [b" " + PLAIN],
        [b"ff" + PLAIN[2:]],
        [b"cc" + PLAIN[2:] + b".more"],
        [b"0x" + PLAIN[2:]],
        [PLAIN[1:]],
        [b"00-%b-%b-01" % (b"0" * 32, SPAN)],
        [b"00-%b-%b-01" % (TRACE, b"0" * 16)],
        [b"00-%b-%b-01" % (TRACE[1:], SPAN)],
        [b"00-%b-%b-01" % (TRACE, SPAN + b"a")],
        [b"00-%b-%b-0g" % (TRACE, SPAN)],
        [b"00-%b.%b-01" % (TRACE, SPAN)],
        [PLAIN.replace(b"4", "４".encode(), 1)],
    ],
)
def test_a_parent_that_is_none(values: list[bytes]) -> None:
    assert parent_of(values) is None


@given(st.binary(max_size=80))
def test_whatever_comes_either_is_a_parent_or_is_not(value: bytes) -> None:
    found = parent_of([value])
    if found is not None:
        assert value[3:35] == found.trace_id
        assert value[36:52] == found.span_id


@given(ids, spans, st.booleans(), st.integers(0, 254), st.binary(max_size=20))
def test_what_is_written_by_the_rules_is_read(
    trace: int, span: int, sampled: bool, version: int, more: bytes
) -> None:
    value = b"%02x-%032x-%016x-%02x" % (version, trace, span, sampled)
    assert parent_of([value]) == Parent(b"%032x" % trace, b"%016x" % span, sampled)
    longer = parent_of([value + b"-" + more])
    assert (longer is None) == (version == 0)


@pytest.mark.parametrize(
    ("values", "passed"),
    [
        ([b"a=1"], b"a=1"),
        ([b"a=1,b=2"], b"a=1,b=2"),
        ([b"a=1", b"b=2"], b"a=1,b=2"),
        ([b"a=1 , \tb=2,,"], b"a=1,b=2"),
        ([b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"], b"rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ([b"0tenant-1@sys*/_=x y:z!~"], b"0tenant-1@sys*/_=x y:z!~"),
        ([], b""),
        ([b""], b""),
        ([b"a"], b""),
        ([b"a="], b""),
        ([b"=1"], b""),
        ([b"A=1"], b""),
        ([b"1a=1"], b""),
        ([b"a b=1"], b""),
        ([b"a=b=c"], b""),
        ([b"a=\x7f"], b""),
        ([b"a=\xe4"], b""),
        ([b"a=1\x00"], b""),
        ([b"a@b@c=1"], b""),
        ([b"a@15-characters-x=1"], b""),
        ([b"a@14-characters=1"], b""),  # the system begins with a letter
        ([b"a@fourteen-chars=1"], b"a@fourteen-chars=1"),
        ([b"a=1,b=2,a=3"], b""),
        ([b"a=1,what"], b""),
        ([b"a" * 256 + b"=1"], b"a" * 256 + b"=1"),
        ([b"a" * 257 + b"=1"], b""),
        ([b"a=" + b"1" * 256], b"a=" + b"1" * 256),
        ([b"a=" + b"1" * 257], b""),
        ([b",".join(b"k%d=1" % one for one in range(32))], b",".join(b"k%d=1" % one for one in range(32))),
        ([b",".join(b"k%d=1" % one for one in range(33))], b""),
        ([b"a=1" + b"," * 63], b"a=1"),
        ([b"a=1" + b"," * 64], b""),
    ],
)
def test_a_state_is_passed_whole_or_dropped(values: list[bytes], passed: bytes) -> None:
    assert state_of(values) == passed


def test_of_a_long_state_the_long_members_go_first_and_then_the_oldest() -> None:
    long, short = b"long=" + b"x" * 124, [b"k%02d=" % one + b"y" * 56 for one in range(9)]
    assert len(long) == 129
    assert state_of([b",".join([long, *short[:6]])]) == b",".join([long, *short[:6]])  # 502: it fits
    assert state_of([b",".join([long, *short[:8]])]) == b",".join(short[:8])
    assert state_of([b",".join([*short[:4], long[:-1], *short[4:8]])]) == b",".join(
        [*short[:4], long[:-1], *short[4:6]]
    )
    assert state_of([b",".join(short)]) == b",".join(short[:8])


def test_what_has_just_room_stays_and_what_has_not_goes() -> None:
    most = [b"a=" + b"1" * 126, b"b=" + b"1" * 126, b"c=" + b"1" * 126, b"d=" + b"1" * 123]
    assert len(b",".join(most)) == 512
    assert state_of(most) == b",".join(most)
    assert state_of([*most[:3], most[3] + b"1"]) == b",".join(most[:3])


@given(st.lists(st.binary(max_size=300), max_size=6))
def test_a_state_is_never_longer_than_all_pass_on_nor_able_to_break_a_head(values: list[bytes]) -> None:
    found = state_of(values)
    assert len(found) <= 512
    assert not set(found) & set(b"\r\n\0")
    assert state_of([found]) == found


@given(ids, spans, st.booleans(), st.booleans(), st.sampled_from([b"", b"a=1"]))
def test_what_is_passed_on_has_ours_as_the_parent(
    trace: int, span: int, sampled: bool, with_parent: bool, state: bytes
) -> None:
    parent = Parent(TRACE, SPAN, sampled) if with_parent else None
    ours = begun(trace, span, parent=parent, state=state if with_parent else b"", sampled=sampled)
    assert ours.parent_id == (SPAN if with_parent else b"")
    assert ours.trace_id == (TRACE if with_parent else b"%032x" % trace)
    lines = ours.lines()
    assert _LINE.fullmatch(lines)
    read = parent_of([lines.split(b"\r\n")[0].removeprefix(b"traceparent: ")])
    assert read == Parent(ours.trace_id, ours.span_id, sampled)
    assert (b"tracestate" in lines) == bool(ours.state)


def test_ids_of_zeros_alone_are_never_made() -> None:
    assert begun(0, 0, parent=None, state=b"", sampled=False) == Trace(
        b"0" * 31 + b"1", b"0" * 15 + b"1", False
    )


@given(ids, st.floats(0.0, 1.0), st.floats(0.0, 1.0))
def test_a_larger_share_keeps_all_that_a_smaller_one_does(trace: int, one: float, other: float) -> None:
    small, large = sorted((one, other))
    assert picked(trace, large) or not picked(trace, small)
    assert picked(trace, 1.0)
    assert not picked(trace, 0.0)


def test_the_last_56_bits_decide() -> None:
    half = 1 << 55
    assert picked(half, 0.5)
    assert not picked(half - 1, 0.5)
    assert picked((1 << 127) | half, 0.5)
    assert not picked(((1 << 72) - 1) << 56, 0.5)


# -- the edge: one node's


def _request(*pairs: tuple[bytes, bytes]) -> Request:
    return Request("POST", b"/api/chat", Headers(list(pairs)))


def _tracer(ratio: float = 0.0, flagged: float = 10.0) -> Tracer:
    return Tracer(ratio, flagged, draw=lambda bits: (1 << bits) - 1, now=lambda: 0.0)


def test_a_client_s_trace_goes_on() -> None:
    ours = _tracer().begin(_request((b"traceparent", PLAIN), (b"tracestate", b"a=1")), 0.0)
    assert ours == Trace(TRACE, b"f" * 16, True, SPAN, b"a=1")


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_without_a_parent_the_share_decides_and_no_state_is_kept(ratio: float) -> None:
    for pairs in [
        (),
        ((b"tracestate", b"a=1"),),
        ((b"traceparent", b"bad"), (b"tracestate", b"a=1")),
        ((b"traceparent", PLAIN), (b"traceparent", PLAIN)),
    ]:
        assert _tracer(ratio).begin(_request(*pairs), 0.0) == Trace(b"f" * 32, b"f" * 16, bool(ratio))


def test_who_did_not_mark_its_trace_has_it_not_kept_whatever_the_share() -> None:
    given = b"00-%b-%b-00" % (TRACE, SPAN)
    assert not _tracer(1.0).begin(_request((b"traceparent", given)), 0.0).sampled


def test_so_many_marked_ones_a_second_are_kept_of_clients_and_all_of_nodes() -> None:
    tracer = _tracer(1.0, flagged=2.0)
    request = _request((b"traceparent", PLAIN))
    assert [tracer.begin(request, 0.0).sampled for _ in range(6)] == [True] * 4 + [False] * 2
    assert tracer.begin(request, 0.0, trusted=True).sampled
    assert [tracer.begin(request, 0.5).sampled for _ in range(2)] == [True, False]
    assert not _tracer(1.0, flagged=0.0).begin(request, 0.0).sampled


def test_what_a_head_has_is_looked_for_once_and_its_values_each_time() -> None:
    tracer, headers = _tracer(), Headers([(b"traceparent", PLAIN), (b"content-length", b"1")])
    first = Request("POST", b"/api/chat", headers)
    assert tracer.begin(first, 0.0).trace_id == TRACE
    other = headers.changed({b"traceparent": PLAIN.replace(b"4bf9", b"5bf9")}, frozenset({b"traceparent"}))
    assert tracer.begin(first.again(other, b""), 0.0).trace_id == TRACE.replace(b"4bf9", b"5bf9")
