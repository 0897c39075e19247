"""Spans on their way to a collector: what it is sent, with which secrets, and what becomes of them."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import random
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
import trustme

from bridge_agent.tracing.delivery_rules import KEEP_S, Answer, Drop
from bridge_agent.tracing.exporter import BATCH, COLLECT_S, Exporter
from bridge_agent.tracing.posting import Collector, header_lines
from bridge_agent.tracing.section import TracesSection
from bridge_agent.tracing.span_queue import SpanQueue
from bridge_core.errors import BridgeError, Unavailable
from tests.fakes.collector import AUTHORITY, collecting
from tests.support import eventually

RESOURCE: dict[str, Any] = {"attributes": []}


class Clock:
    """Time that passes while somebody sleeps, and in no other way."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class Receiver:
    """Says what a test tells it to."""

    def __init__(self, answer: Callable[[], Answer]) -> None:
        self.answer = answer
        self.bodies: list[bytes] = []
        self.closed = False

    async def post(self, body: bytes) -> Answer:
        self.bodies.append(body)
        return self.answer()

    async def close(self) -> None:
        self.closed = True


@contextlib.asynccontextmanager
async def exporting(
    queue: SpanQueue, receiver: Receiver | Collector, clock: Clock | None = None
) -> AsyncIterator[Exporter]:
    clock = clock or Clock()
    made = Exporter(queue, receiver, RESOURCE, "1", rng=random.Random(1), now=clock, sleep=clock.sleep)
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()


def _span(number: int) -> bytes:
    return json.dumps({"spanId": f"{number:016x}"}).encode()


# -- what is sent


async def test_spans_come_gzipped_in_one_message_with_the_secret_over_tls(tmp_path: Path) -> None:
    secret, ca, queue = tmp_path / "headers", tmp_path / "ca.pem", SpanQueue()
    secret.write_text("# for the tenant\nAuthorization: Bearer s3cret\n\nX-Scope-OrgID:a \n")
    secret.chmod(0o600)
    ca.write_bytes(AUTHORITY.cert_pem.bytes())
    async with collecting(secure=True) as bed:
        section = TracesSection(endpoint=f"{bed.url}?a=b", ca=str(ca), headers=str(secret))
        for number in range(3):
            queue.put(_span(number))
        async with exporting(queue, Collector(section)):
            await eventually(lambda: queue.sent == 3)
            secret.write_text("Authorization: Bearer another\n")  # it is renewed
            queue.put(_span(3))
            await eventually(lambda: queue.sent == 4)
    assert [[one["spanId"][-1] for one in batch] for batch in bed.batches] == [["0", "1", "2"], ["3"]]
    assert bed.targets == [b"/v1/traces?a=b"] * 2
    first, second = bed.asked
    assert first[b"authorization"] == b"Bearer s3cret"
    assert first[b"x-scope-orgid"] == b"a"
    assert first[b"content-type"] == b"application/json"
    assert first[b"content-encoding"] == b"gzip"
    assert second[b"authorization"] == b"Bearer another"


async def test_a_collector_of_another_authority_is_told_nothing(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.write_bytes(trustme.CA().cert_pem.bytes())
    async with collecting(secure=True) as bed:
        for section in (TracesSection(endpoint=bed.url), TracesSection(endpoint=bed.url, ca=str(ca))):
            collector = Collector(section)
            with pytest.raises(BridgeError, match="certificate verify failed"):
                await collector.post(b"")
            await collector.close()
    assert not bed.asked


async def test_what_it_redirects_to_is_not_followed(tmp_path: Path) -> None:
    async with collecting() as bed, collecting() as other:
        bed.status, bed.fields = 307, [(b"location", other.url.encode())]
        collector = Collector(TracesSection(endpoint=bed.url))
        assert (await collector.post(gzip.compress(_message()))).status == 307
        await collector.close()
    assert not other.asked


def _message() -> bytes:
    return json.dumps({"resourceSpans": [{"scopeSpans": [{"spans": []}]}]}).encode()


async def test_one_that_says_nothing_is_waited_for_in_bounds() -> None:
    async with collecting() as bed:
        bed.silent = True
        collector = Collector(TracesSection(endpoint=bed.url), timeout_s=0.05)
        with pytest.raises(Unavailable, match=r"did not answer within 0\.05 s"):
            await collector.post(gzip.compress(_message()))


async def test_an_answer_without_end_is_read_in_bounds() -> None:
    async with collecting() as bed:
        bed.body = b"x" * (1 << 20)
        collector = Collector(TracesSection(endpoint=bed.url))
        assert await collector.post(gzip.compress(_message())) == Answer(200)
        await collector.close()


@pytest.mark.parametrize(
    "text",
    [
        "Authorization",
        "Authorization:",
        ": Bearer s3cret",
        "Author ization: s3cret",
        "Authorization: s3\x01cret",
        "Authorization: s3crét",
        "Content-Length: 5s3cret",
        "Host: s3cret",
    ],
)
def test_what_is_no_header_line_is_refused_without_being_quoted(tmp_path: Path, text: str) -> None:
    path = tmp_path / "headers"
    path.write_text(f"A: b\n{text}\n")
    path.chmod(0o600)
    with pytest.raises(BridgeError, match="line 2 of") as caught:
        header_lines(str(path))
    assert "s3cr" not in str(caught.value)


def test_secrets_that_others_can_read_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "headers"
    path.write_text("A: b\n")
    path.chmod(0o644)
    with pytest.raises(BridgeError, match="open to other users"):
        header_lines(str(path))
    with pytest.raises(BridgeError, match="cannot be read: No such file"):
        header_lines(str(tmp_path / "none"))
    assert header_lines("") == []


# -- what becomes of a batch


async def test_a_batch_is_sent_again_until_it_is_taken_and_nothing_is_lost() -> None:
    answers = [Answer(503), Answer(429, b"7"), Answer(200)]
    queue, clock = SpanQueue(), Clock()
    receiver = Receiver(lambda: answers.pop(0))
    async with exporting(queue, receiver, clock) as exporter:
        queue.put(_span(1))
        await eventually(lambda: queue.sent == 1)
        assert not list(exporter.concerns())
    assert len(set(receiver.bodies)) == 1
    assert len(receiver.bodies) == 3
    collect, first, second = clock.slept
    assert collect == COLLECT_S
    assert 0.5 <= first <= 1.0
    assert second == 7.0
    assert not any(queue.dropped.values())
    assert receiver.closed


async def test_a_collector_that_is_away_costs_spans_and_is_told_of() -> None:
    def away() -> Answer:
        raise Unavailable("nobody answers")

    queue, clock = SpanQueue(), Clock()
    receiver = Receiver(away)
    async with exporting(queue, receiver, clock) as exporter:
        queue.put(_span(1))
        queue.put(_span(2))
        await eventually(lambda: queue.dropped.get(Drop.GIVEN_UP) == 2)
        assert clock.now <= COLLECT_S + KEEP_S + 60.0
        assert 5 < len(receiver.bodies) < 20  # pauses grow
        (said,) = exporter.concerns()
        assert "takes no traces" in said
        assert "nobody answers" in said
        receiver.answer = lambda: Answer(200)
        queue.put(_span(3))
        await eventually(lambda: queue.sent == 1)
        assert not list(exporter.concerns())


async def test_what_is_refused_is_not_sent_again_and_what_is_rejected_counted() -> None:
    partial = b'{"partialSuccess":{"rejectedSpans":"1"}}'
    answers = [Answer(400, body=b"bad"), Answer(200, body=partial)]
    queue = SpanQueue()
    async with exporting(queue, Receiver(lambda: answers.pop(0))):
        queue.put(_span(1))
        await eventually(lambda: queue.dropped.get(Drop.REFUSED) == 1)
        queue.put(_span(2))
        queue.put(_span(3))
        await eventually(lambda: queue.sent == 1)
    assert queue.dropped[Drop.REJECTED] == 1
    assert queue.sent == 1


async def test_batches_are_bounded() -> None:
    queue, receiver = SpanQueue(), Receiver(lambda: Answer(200))
    for number in range(BATCH + 5):
        queue.put(_span(number))
    async with exporting(queue, receiver):
        await eventually(lambda: queue.sent == BATCH + 5)
    assert [gzip.decompress(body).count(b"spanId") for body in receiver.bodies] == [BATCH, 5]


class Asleep(Clock):
    """Nobody who sleeps ever wakes."""

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.Event().wait()


async def test_what_waits_goes_at_the_end_once() -> None:
    queue, clock, receiver = SpanQueue(), Asleep(), Receiver(lambda: Answer(503))
    async with exporting(queue, receiver, clock):
        queue.put(_span(1))
        await eventually(lambda: clock.slept)
        receiver.answer = lambda: Answer(200)
    assert (queue.sent, len(receiver.bodies)) == (1, 1)


async def test_at_the_end_a_collector_that_is_away_is_not_waited_for() -> None:
    def away() -> Answer:
        raise Unavailable("nobody answers")

    queue, clock, receiver = SpanQueue(), Asleep(), Receiver(away)
    async with exporting(queue, receiver, clock):
        queue.put(_span(1))
        await eventually(lambda: clock.slept)
    assert queue.dropped[Drop.GIVEN_UP] == 1
    assert len(receiver.bodies) == 1


# -- the queue


def test_what_has_no_room_is_counted_and_room_comes_back() -> None:
    queue, told = SpanQueue(most_bytes=10), list[int]()
    queue.on_filled(lambda: told.append(queue.waiting))
    for _ in range(4):
        queue.put(b"12345")
    assert (queue.waiting, queue.dropped) == (2, {Drop.QUEUE: 2})
    assert queue.take(1) == [b"12345"]
    queue.put(b"123456")
    queue.put(b"54321")
    assert queue.take(9) == [b"12345", b"54321"]
    assert queue.take(9) == []
    queue.put(b"1")
    assert told == [1, 1]


async def test_threads_that_put_and_one_that_takes_lose_nothing() -> None:
    queue, taken = SpanQueue(), 0
    threads = [threading.Thread(target=lambda: [queue.put(b"x") for _ in range(2000)]) for _ in range(4)]
    for one in threads:
        one.start()
    while any(one.is_alive() for one in threads) or queue.waiting:
        taken += len(queue.take(100))
        await asyncio.sleep(0)
    assert taken == 8000
    assert not queue.dropped
