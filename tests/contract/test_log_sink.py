"""The log's thread against real pipes, full disks and files: nobody waits for it, nothing is lost unsaid."""

from __future__ import annotations

import json
import os
import select
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from bridge_core.errors import Fatal
from bridge_core.logs.files import LogFile, file_wanted
from bridge_core.logs.sink import LogSink
from tests.support import eventually

SMALL = {"info": 4000, "error": 4000}
Made = Callable[..., LogSink]


@pytest.fixture
def made() -> Iterator[Made]:
    sinks: list[LogSink] = []

    def make(fd: int, file: LogFile | None = None, shares: Mapping[str, int] = SMALL) -> LogSink:
        sink = LogSink(told=_told, fd=fd, file=file, shares=shares, retry_s=0.01, tell_s=0.02)
        sink.start()
        sinks.append(sink)
        return sink

    yield make
    for sink in sinks:
        sink.close()


def _told(dropped: Mapping[str, int]) -> bytes:
    return json.dumps({"dropped": dict(dropped)}).encode() + b"\n"


def _there(reader: int) -> bytes:
    """What can be read now."""
    text = b""
    while select.select([reader], [], [], 0)[0]:
        text += os.read(reader, 1 << 16)
    return text


def _lost(text: bytes) -> dict[str, int]:
    """What lines in `text` say was dropped."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith(b'{"dropped"'):
            for kind, count in json.loads(line)["dropped"].items():
                found[kind] = found.get(kind, 0) + count
    return found


async def test_a_reader_that_stopped_costs_lines_and_no_time(made: Made) -> None:
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    line = b"x" * 99 + b"\n"
    try:
        sink = made(writer)
        for _ in range(3000):  # far beyond the pipe's 64 KiB and the share
            sink.put("info", line)
        sink.put("error", b"an error\n")  # its class has room of its own
        dropped = sink.dropped
        assert dropped["info"] > 2000
        assert "error" not in dropped
        text = b""

        def read() -> bool:
            nonlocal text
            text += _there(reader)
            return sum(_lost(text).values()) == dropped["info"]

        await eventually(read)
        assert b"an error\n" in text
        assert text.count(line) == 3000 - dropped["info"]
    finally:
        os.close(reader)  # before the writer: a thread may still be in its write
        sink.close()
        os.close(writer)


async def test_a_full_disk_is_counted_and_told_once_there_is_room(made: Made, tmp_path: Path) -> None:
    handle = os.open("/dev/full", os.O_WRONLY)
    try:
        sink = made(handle)
        for _ in range(5):
            sink.put("info", b"lost\n")
        await eventually(lambda: sink.dropped.get("info") == 5)
        path = tmp_path / "log"
        roomy = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(roomy, handle)  # as if the disk had room again
        os.close(roomy)
        sink.put("info", b"kept\n")
        await eventually(lambda: _lost(path.read_bytes()) == {"info": 5})
        await eventually(lambda: b"kept\n" in path.read_bytes())  # by a write of its own
        assert sink.written >= 1
    finally:
        sink.close()
        os.close(handle)


async def test_a_pipe_that_somebody_made_nonblocking_still_gets_all(made: Made) -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    os.set_blocking(reader, False)
    try:
        sink = made(writer, shares={"info": 1 << 20})
        for number in range(3000):
            sink.put("info", b"%0.99d\n" % number)
        text = b""

        def read() -> bool:
            nonlocal text
            text += _there(reader)
            return text.count(b"\n") == 3000

        await eventually(read)
        assert [int(line) for line in text.splitlines()] == list(range(3000))
    finally:
        os.close(reader)
        sink.close()
        os.close(writer)


async def test_a_long_file_is_put_aside_and_so_many_older_ones_stay(made: Made, tmp_path: Path) -> None:
    handle = os.open("/dev/null", os.O_WRONLY)
    path = tmp_path / "logs" / "agent.log"
    try:
        sink = made(handle, LogFile(path, most=1000, kept=2), {"info": 1 << 20})
        for number in range(100):
            sink.put("info", b"%0.99d\n" % number)
            await eventually(lambda many=number + 1: sink.written == many)
        files = sorted(one.name for one in path.parent.iterdir())
        assert files == ["agent.log", "agent.log.1", "agent.log.2"]
        assert path.stat().st_mode & 0o777 == 0o600
        text = b"".join((path.parent / name).read_bytes() for name in reversed(files))
        assert [int(line) for line in text.splitlines()] == list(range(100 - len(text) // 100, 100))
        assert all((path.parent / name).stat().st_size <= 1000 for name in files)
        os.write(
            handle, b"a library's own words\n"
        )  # what writes to the descriptor itself is beside the rest
        assert path.read_bytes().endswith(b"words\n")
    finally:
        sink.close()
        os.close(handle)


async def test_what_waits_at_the_end_is_written_and_the_end_is_not_held_up(
    made: Made, tmp_path: Path
) -> None:
    path = tmp_path / "log"
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        sink = made(handle)
        for _ in range(10):
            sink.put("info", b"last\n")
        sink.left_out("request")
        sink.close(60.0)  # longer than any stall
        assert path.read_bytes().count(b"last\n") == 10
        assert _lost(path.read_bytes()) == {"request": 1}
    finally:
        os.close(handle)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BRIDGE_LOG_FILE_MIB", "0"),
        ("BRIDGE_LOG_FILE_MIB", "ten"),
        ("BRIDGE_LOG_FILES_KEPT", "-1"),
        ("BRIDGE_LOG_FILES_KEPT", "1" * 99),
    ],
)
def test_a_size_that_is_none_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(Fatal, match=name):
        file_wanted({"BRIDGE_LOG_FILE": "/x", name: value})


def test_a_file_that_is_not_asked_for() -> None:
    assert file_wanted({"BRIDGE_LOG_FILE_MIB": "ten"}) is None
    assert file_wanted(
        {"BRIDGE_LOG_FILE": "/x", "BRIDGE_LOG_FILE_MIB": "1", "BRIDGE_LOG_FILES_KEPT": "0"}
    ) == LogFile(Path("/x"), 1 << 20, 0)
