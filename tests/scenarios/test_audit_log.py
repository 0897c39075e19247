"""The audit never holds up serving, says by count what it lost, and is a log that verifies."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import threading
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import msgspec
import pytest
from structlog.testing import capture_logs

from bridge_core.audit.entries import AuditRecord, ContentRecord, Entry
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.writing import LogWriter
from bridge_core.security_settings import AuditSettings
from tests import independent_log
from tests.support import eventually

ORIGIN = "m.local/node/a"


def record(number: int) -> AuditRecord:
    return AuditRecord(
        at=1.5,
        request_id=f"r{number}",
        principal="local",
        listener="local",
        method="POST",
        path="/api/chat",
        status=200,
        outcome="ok",
        duration_ms=2.5,
        bytes_in=3,
        bytes_out=4,
    )


def as_it_is(one: Entry, _: bytes | None) -> Sequence[Entry]:
    return (one,)


@contextlib.asynccontextmanager
async def running(audit: AuditLog) -> AsyncIterator[AuditLog]:
    task = asyncio.create_task(audit.run())
    try:
        yield audit
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def told(folder: Path) -> list[dict[str, object]]:
    return [json.loads(entry) for entry in independent_log.entries_of(folder)]


def ids(folder: Path) -> list[object]:
    return [one["request_id"] for one in told(folder) if one["kind"] == "request"]


def checked(folder: Path) -> list[bytes]:
    """The entries, after a look at the signature and the root by other code."""
    data, key = (folder / "checkpoint").read_bytes(), (folder / "key.pub").read_text().strip()
    origin, size, root = independent_log.checkpoint_of(data, key)
    entries = independent_log.entries_of(folder)
    assert origin == ORIGIN
    assert size == len(entries)
    assert independent_log.tree(list(map(independent_log.leaf, entries))) == root
    return entries


async def test_one_entry_a_request_private_in_order_and_signed(tmp_path: Path) -> None:
    folder = tmp_path / "audit" / "log"
    async with running(AuditLog(folder, ORIGIN, as_it_is)) as audit:
        audit.put(record(1))
        await eventually(lambda: ids(folder) == ["r1"])
        await eventually(lambda: len(checked(folder)) == 2)  # the beginning, too
        for number in range(2, 800):
            audit.put(record(number))
    assert ids(folder) == [f"r{number}" for number in range(1, 800)]
    assert (audit.written, audit.lost) == (799, 0)
    assert len(checked(folder)) == 800
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert {path.stat().st_mode & 0o077 for path in (folder, *files)} == {0}


async def test_more_than_it_can_hold_is_lost_oldest_first_counted_and_recorded(tmp_path: Path) -> None:
    audit = AuditLog(tmp_path, ORIGIN, as_it_is, capacity=10)
    for number in range(25):
        audit.put(record(number))
    async with running(audit):
        await eventually(lambda: audit.written == 10)
    assert ids(tmp_path) == [f"r{number}" for number in range(15, 25)]
    assert audit.lost == 15
    (lost,) = (one for one in told(tmp_path) if one["kind"] == "lost")
    assert (lost["count"], lost["why"]) == (15, "more at once than can wait")


async def test_a_disk_that_fails_costs_its_records_and_nothing_else(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.write_text("in the way")
    settings = AuditSettings(on_full_disk="refuse")
    async with running(AuditLog(folder, ORIGIN, as_it_is, settings=lambda: settings)) as audit:
        audit.put(record(1))
        await eventually(lambda: audit.lost == 1)
        assert "nothing is served unrecorded" in audit.refusal
        assert "lost 1 records, and it cannot be written now" in audit.concerns()[0]
        folder.unlink()
        await eventually(lambda: not audit.refusal)  # found out without a request, which would be refused
        audit.put(record(2))
        await eventually(lambda: ids(folder) == ["r2"])
    assert (audit.written, audit.lost) == (1, 1)
    assert [one["kind"] for one in told(folder)] == ["begun", "lost", "request"]


async def test_a_record_that_cannot_be_rendered_costs_itself_alone(tmp_path: Path) -> None:
    def read(number: int, _: bytes | None) -> Sequence[Entry]:
        if number == 2:
            raise KeyError(number)
        return (msgspec.structs.replace(record(number), path="/\udcff" if number == 3 else "/api/chat"),)

    audit = AuditLog(tmp_path, ORIGIN, read)
    for number in range(1, 5):
        audit.put(number)
    async with running(audit):
        await eventually(lambda: audit.written == 2)
        audit.put(5)
        await eventually(lambda: audit.written == 3)
    assert ids(tmp_path) == ["r1", "r4", "r5"]
    assert audit.lost == 2
    checked(tmp_path)


async def test_records_that_cannot_be_rendered_together_are_each_by_itself(tmp_path: Path) -> None:
    asked: list[int] = []

    def read(number: int, _: bytes | None) -> Sequence[Entry]:
        asked.append(number)
        if number == 2:
            raise KeyError(number)
        return (record(number),)

    def together(batch: list[tuple[int, bytes | None]]) -> list[Entry] | None:
        numbers = [number for number, _ in batch]
        if 9 in numbers:
            return None
        if 2 in numbers:
            raise OSError(errno.ENOSPC, "No space left on device")
        return [record(number) for number in numbers]

    audit = AuditLog(tmp_path, ORIGIN, read, together=together)
    written = 0
    async with running(audit):
        for batch in ([1, 2, 3], [4, 5], [9]):
            for number in batch:
                audit.put(number)
            written += len(batch)
            await eventually(lambda so_far=written: audit.written + audit.lost == so_far)
    assert ids(tmp_path) == ["r1", "r3", "r4", "r5", "r9"]
    assert asked == [1, 2, 3, 9]
    assert audit.lost == 1


async def test_what_keeps_batches_from_being_rendered_at_once_is_said_once(tmp_path: Path) -> None:
    def together(_: list[tuple[Entry, bytes | None]]) -> list[Entry] | None:
        raise KeyError("a fault of ours")

    audit = AuditLog(tmp_path, ORIGIN, as_it_is, together=together)
    with capture_logs() as logs:
        async with running(audit):
            for number in (1, 2):
                audit.put(record(number))
                await eventually(lambda so_far=number: audit.written == so_far)
    assert [one["event"] for one in logs] == ["audit_batch_not_rendered"]
    assert audit.lost == 0


async def test_a_record_too_long_for_an_entry_is_cut_and_says_so(tmp_path: Path) -> None:
    async with running(AuditLog(tmp_path, ORIGIN, as_it_is)) as audit:
        audit.put(msgspec.structs.replace(record(1), model="m" * 100_000))
        await eventually(lambda: audit.written == 1)
    (one,) = (one for one in told(tmp_path) if one["kind"] == "request")
    assert one["clipped"] is True
    assert one["model"] == "m" * 1000


async def test_bytes_of_requests_that_are_too_many_do_not_wait(tmp_path: Path) -> None:
    seen: list[int | None] = []

    def read(one: Entry, data: bytes | None) -> Sequence[Entry]:
        seen.append(None if data is None else len(data))
        return (one,)

    audit = AuditLog(tmp_path, ORIGIN, read, most_held=1000)
    for number in range(4):
        audit.put(record(number), b"x" * 400)
    async with running(audit):
        await eventually(lambda: audit.written == 4)
        audit.put(record(5), b"x" * 400)
        await eventually(lambda: audit.written == 5)
    assert seen == [400, 400, None, None, 400]
    assert audit.unhashed == 2


async def test_the_last_records_wait_for_the_thread_that_writes(tmp_path: Path) -> None:
    within, go = threading.Event(), threading.Event()
    threads: list[int] = []

    def read(one: AuditRecord, _: bytes | None) -> Sequence[Entry]:
        threads.append(threading.get_ident())
        if one.request_id == "r1":
            within.set()
            assert go.wait(20)
        return (one,)

    audit = AuditLog(tmp_path, ORIGIN, read)
    task = asyncio.create_task(audit.run())
    audit.put(record(1))
    await eventually(within.is_set)
    audit.put(record(2))
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(threads) == 1, "two threads were in the files"
    go.set()
    await asyncio.gather(task, return_exceptions=True)
    assert ids(tmp_path) == ["r1", "r2"]
    checked(tmp_path)


async def test_what_is_too_old_goes_and_the_rest_is_still_proved(tmp_path: Path) -> None:
    settings = AuditSettings(retention_s=1000.0)
    forgotten: list[float] = []
    audit = AuditLog(tmp_path, ORIGIN, as_it_is, settings=lambda: settings, tidied=forgotten.append)
    for number in range(600):  # all of 1970
        audit.put(record(number))
    async with running(audit):
        await eventually(lambda: audit.written == 600)
        await eventually(lambda: bool(forgotten))
    bundles = sorted(path.name for path in (tmp_path / "tile/entries").iterdir())
    assert bundles == []
    entries = independent_log.entries_of(tmp_path)
    assert not entries  # of the tail alone there is more
    tail = independent_log._framed((tmp_path / "tail/2.entries").read_bytes())
    assert json.loads(tail[-1]) == {"kind": "removed", "at": json.loads(tail[-1])["at"], "before": 512}
    again = LogWriter(tmp_path, ORIGIN, lambda _: b"")
    assert (again.size, again.oldest) == (602, 2)


@pytest.mark.parametrize("failing", [1, 2, 3, 5, 8])
def test_a_disk_that_fills_up_at_any_point_leaves_a_log_that_goes_on(
    tmp_path: Path, failing: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever write it is that finds no room: what was taken is whole, and what comes later follows it."""
    import os

    log = LogWriter(tmp_path, ORIGIN, lambda _: b"begun")
    log.append([b"%d" % number for number in range(250)])
    log.checkpoint()
    real, calls = os.write, 0

    def full(handle: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls >= failing:
            if len(data) > 10 and calls == failing:
                return real(handle, data[: len(data) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real(handle, data)

    with monkeypatch.context() as disk:
        disk.setattr(os, "write", full)
        for batch in range(3):
            with contextlib.suppress(OSError):
                log.append([b"%d/%d" % (batch, number) for number in range(200)])
    size = log.size
    log.append([b"after"])
    log.checkpoint()
    assert len(checked(tmp_path)) == size + 1
    again = LogWriter(tmp_path, ORIGIN, lambda _: b"never")
    assert (again.size, again.root()) == (log.size, log.root())


async def test_what_a_busy_moment_leaves_over_goes_with_the_next_ones_and_none_is_lost(
    tmp_path: Path,
) -> None:
    async with running(AuditLog(tmp_path, ORIGIN, as_it_is)) as audit:
        await eventually(lambda: audit.head is not None)  # the next is a second away
        for number in range(600):
            audit.put(record(number))
        await eventually(lambda: audit.written == 600)  # also what was left over, though nothing came
        assert not audit.lost
    assert ids(tmp_path) == [f"r{number}" for number in range(600)]
    checked(tmp_path)


async def test_content_is_written_in_parts_that_fit(tmp_path: Path) -> None:
    body = bytes(range(256)) * 1000

    def read(one: AuditRecord, data: bytes | None) -> Sequence[Entry]:
        parts = [body[at : at + 45_000] for at in range(0, len(body), 45_000)]
        return (one, *(ContentRecord(1.0, "r1", at, len(parts), part) for at, part in enumerate(parts)))

    async with running(AuditLog(tmp_path, ORIGIN, read)) as audit:
        audit.put(record(1), body)
        await eventually(lambda: audit.written == 7)
    import base64

    parts = [base64.b64decode(str(one["data"])) for one in told(tmp_path) if one["kind"] == "content"]
    assert b"".join(parts) == body


async def test_a_record_whose_hash_has_no_key_is_written_without_it(tmp_path: Path) -> None:
    def without_a_key(one: Entry, data: bytes | None) -> Sequence[Entry]:
        if data is not None:
            raise OSError(errno.ENOSPC, "No space left on device")
        return (one,)

    audit = AuditLog(tmp_path, ORIGIN, without_a_key)
    async with running(audit):
        audit.put(record(1), b"asked")
        await eventually(lambda: audit.written == 1)
    assert (audit.unhashed, audit.lost) == (1, 0)
    assert "r1" in ids(tmp_path)
