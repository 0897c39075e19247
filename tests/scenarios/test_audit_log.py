"""The audit never holds up serving, and says by count what it lost."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec

from bridge_agent.telemetry.audit import AuditLog, AuditRecord
from tests.support import eventually


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


@contextlib.asynccontextmanager
async def running(audit: AuditLog) -> AsyncIterator[AuditLog]:
    task = asyncio.create_task(audit.run())
    try:
        yield audit
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def lines(path: Path) -> list[str]:
    return [json.loads(line)["request_id"] for line in path.read_text().splitlines()] if path.exists() else []


async def test_one_line_a_request_private_and_in_order(tmp_path: Path) -> None:
    path = tmp_path / "audit" / "audit.jsonl"
    async with running(AuditLog(path)) as audit:
        audit.put(record(1))
        await eventually(lambda: lines(path) == ["r1"])
        for number in range(2, 200):
            audit.put(record(number))
    assert lines(path) == [f"r{number}" for number in range(1, 200)]
    assert (audit.written, audit.lost) == (199, 0)
    assert path.stat().st_mode & 0o777 == 0o600


async def test_more_than_it_can_hold_is_lost_oldest_first_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, capacity=10)
    for number in range(25):
        audit.put(record(number))
    async with running(audit):
        await eventually(lambda: audit.written == 10)
    assert lines(path) == [f"r{number}" for number in range(15, 25)]
    assert audit.lost == 15


async def test_a_sink_that_fails_costs_its_records_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    path.mkdir()
    async with running(AuditLog(path)) as audit:
        audit.put(record(1))
        await eventually(lambda: audit.lost == 1)
        path.rmdir()
        audit.put(record(2))
        await eventually(lambda: lines(path) == ["r2"])
    assert (audit.written, audit.lost) == (1, 1)


async def test_a_full_file_is_put_aside_and_old_ones_go(tmp_path: Path) -> None:
    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, rotate_bytes=1, keep=2)
    for number in range(5):
        audit.put(record(number))
        audit._append(audit._taken())
    assert {entry.name: lines(entry) for entry in tmp_path.iterdir()} == {
        "audit.jsonl": ["r4"],
        "audit.jsonl.1": ["r3"],
        "audit.jsonl.2": ["r2"],
    }


async def test_a_record_that_cannot_be_rendered_costs_itself_alone(tmp_path: Path) -> None:
    def read(number: int) -> AuditRecord:
        if number == 2:
            raise KeyError(number)
        return msgspec.structs.replace(record(number), path="/\udcff" if number == 3 else "/api/chat")

    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, read)
    for number in range(1, 5):
        audit.put(number)
    async with running(audit):
        await eventually(lambda: audit.written == 2)
        audit.put(5)
        await eventually(lambda: audit.written == 3)
    assert lines(path) == ["r1", "r4", "r5"]
    assert audit.lost == 2


async def test_the_last_records_wait_for_the_thread_that_writes(tmp_path: Path) -> None:
    within, go = threading.Event(), threading.Event()
    threads: list[int] = []

    def read(one: AuditRecord) -> AuditRecord:
        threads.append(threading.get_ident())
        if one.request_id == "r1":
            within.set()
            assert go.wait(20)
        return one

    path = tmp_path / "audit.jsonl"
    audit = AuditLog(path, read)
    task = asyncio.create_task(audit.run())
    audit.put(record(1))
    await eventually(within.is_set)
    audit.put(record(2))
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert len(threads) == 1, "two threads were in the file"
    go.set()
    await asyncio.gather(task, return_exceptions=True)
    assert lines(path) == ["r1", "r2"]
