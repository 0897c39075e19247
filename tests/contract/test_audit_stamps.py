"""A log's heads are stamped by an authority, beside the work, and what the stamps say is checked."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge_cli.audit_stamps import roots_in
from bridge_cli.audit_verifying import verify
from bridge_core.audit import stamps
from bridge_core.audit.anchoring import Anchoring, ask_over_http
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.stamps import BadStamp
from bridge_core.audit.writing import LogWriter
from bridge_core.security_settings import AuditSettings
from tests.fakes.timestamp_authority import TimestampAuthority
from tests.scenarios.test_audit_log import as_it_is, record
from tests.support import eventually

ORIGIN = "m.local/node/a"
pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="OpenSSL answers as the authority")


class Clock:
    def __init__(self) -> None:
        self.now = 1.8e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> TimestampAuthority:
    return TimestampAuthority(tmp_path_factory.mktemp("authority") / "tsa")


@contextlib.asynccontextmanager
async def anchored(folder: Path, url: str, clock: Clock) -> AsyncIterator[tuple[AuditLog, Anchoring]]:
    settings = AuditSettings(timestamp_authority=url)
    audit = AuditLog(folder, ORIGIN, as_it_is, settings=lambda: settings)
    task = asyncio.create_task(audit.run())
    try:
        audit.put(record(1))
        await eventually(lambda: audit.head is not None and audit.head.size >= 2)
        yield audit, Anchoring(audit, lambda: settings, now=clock, jitter=lambda: 1.0)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_head_is_stamped_and_a_stranger_checks_it_with_openssl(
    tmp_path: Path, authority: TimestampAuthority
) -> None:
    log, clock = tmp_path / "log", Clock()
    with authority.listening() as url:
        async with anchored(log, url, clock) as (audit, anchoring):
            await anchoring.look()
            assert audit.head is not None
            assert (anchoring.state.size, anchoring.state.at) == (audit.head.size, clock.now)
            asked = len(authority.asked)
            await anchoring.look()
            assert len(authority.asked) == asked  # an hour has not passed
    (size,) = stamps.sizes(log)
    (tmp_path / "root.pem").write_bytes(authority.root)
    head, answer = (str(log / path) for path in stamps.paths(size))
    command = [
        "openssl",
        "ts",
        "-verify",
        "-data",
        head,
        "-in",
        answer,
        "-CAfile",
        str(tmp_path / "root.pem"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    verdict = verify(log, stamp_roots=roots_in(tmp_path / "root.pem"))
    assert verdict.faults == ()
    assert (verdict.stamped_size, verdict.stamped_by) == (size, "by an authority that you trust")
    assert verdict.stamped_at[:2] == "20"
    other = TimestampAuthority(tmp_path / "other")
    (tmp_path / "root.pem").write_bytes(other.root)
    (fault,) = verify(log, stamp_roots=roots_in(tmp_path / "root.pem")).faults
    assert "not signed by an authority that you trust" in fault.detail


async def test_an_authority_that_is_away_or_lies_is_asked_again_later_and_said_when_it_is_late(
    tmp_path: Path, authority: TimestampAuthority
) -> None:
    clock = Clock()
    nonsense = [(503, b""), (302, b""), (200, b"nonsense"), (200, b"x" * 100_000)]
    with authority.listening() as url:
        other, _ = stamps.request(b"another head")
        authority.answers = [*nonsense, (200, authority.answer(other))]
        async with anchored(tmp_path / "log", url, clock) as (_, anchoring):
            for failures in range(1, 6):
                await anchoring.look()
                assert (anchoring.state.failures, anchoring.state.size) == (failures, 0)
                await anchoring.look()
                assert anchoring.state.failures == failures  # not before its time
                clock.now = anchoring.state.due
            assert "the stamp of something else" in anchoring.state.reason
            assert anchoring.concerns() == []
            clock.now += 4 * 3600
            (concern,) = anchoring.concerns()
            assert f"has no time stamp of {url} for hours: it is the stamp of something else" in concern
            await anchoring.look()
            assert (anchoring.state.size > 0, anchoring.concerns()) == (True, [])
    with pytest.raises(OSError, match="refused"):
        ask_over_http(url, b"")
    with pytest.raises(BadStamp, match="begins with http"):
        ask_over_http("file:///etc/passwd", b"")


@contextlib.contextmanager
def saying(told: bytes, *, drips: bytes = b"") -> Iterator[str]:
    """The place of one that says this to whoever calls, then drop after drop, and hangs up after the last."""
    listening, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def serve() -> None:
        with contextlib.suppress(OSError):
            connected, _ = listening.accept()
            with connected:
                connected.sendall(told)
                for drop in drips:
                    if ended.wait(0.05):
                        break
                    connected.sendall(bytes([drop]))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{listening.getsockname()[1]}"
    finally:
        ended.set()
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()
        thread.join(10.0)


@pytest.mark.parametrize("told", [b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 200 OK\r\n" + b"a: b\r\n" * 200])
def test_what_is_no_http_is_no_stamp(told: bytes) -> None:
    with saying(told) as at, pytest.raises(BadStamp, match="answers no HTTP"):
        ask_over_http(f"http://{at}/", b"")


@pytest.mark.parametrize("url", ["http://localhost:port/", "http://a b/", f"http://{'x' * 70}.example/"])
def test_an_address_that_is_none_is_no_stamp(url: str) -> None:
    with pytest.raises(BadStamp, match="cannot be asked"):
        ask_over_http(url, b"")


_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/timestamp-reply\r\n"


@pytest.mark.parametrize(
    ("scheme", "told"),
    [("http", _HEAD), ("http", _HEAD + b"\r\n"), ("https", b"\x16\x03\x03\x3f\xff\x0b\x00\x3f\x00")],
)
def test_an_authority_that_drips_is_left_when_its_time_is_up(scheme: str, told: bytes) -> None:
    eight_seconds = b"x" * 160
    with saying(told, drips=eight_seconds) as at, pytest.raises(BadStamp, match="not answered within"):
        ask_over_http(f"{scheme}://{at}/", b"", within_s=0.5)


def stamped_log(folder: Path, authority: TimestampAuthority, many: int = 300) -> Path:
    """A log with a stamp over its first `many` records and the one that was begun."""
    made = LogWriter(folder, ORIGIN, lambda _: b"begun")
    made.append([b"%d" % number for number in range(many)])
    made.checkpoint()
    head = (folder / "checkpoint").read_bytes()
    (folder / stamps.FOLDER).mkdir()
    paths = stamps.paths(many + 1)
    (folder / paths[0]).write_bytes(head)
    (folder / paths[1]).write_bytes(authority.answer(stamps.request(head)[0]))
    made.append([b"more"] * 300)
    made.checkpoint()
    return folder


def test_a_history_that_was_rewritten_contradicts_its_stamp(
    tmp_path: Path, authority: TimestampAuthority
) -> None:
    log = stamped_log(tmp_path / "log", authority)
    verdict = verify(log)
    assert (verdict.faults, verdict.stamped_size) == ((), 301)
    kept = {name: (log / name).read_bytes() for name in ("key", "key.pub", *stamps.paths(301))}
    for entries, what in (([b"other"] * 700, "forked"), ([b"other"] * 20, "truncated")):
        shutil.rmtree(log)
        (log / stamps.FOLDER).mkdir(parents=True, mode=0o700)
        for name, data in kept.items():
            (log / name).write_bytes(data)
        made = LogWriter(log, ORIGIN, lambda _: b"begun")
        made.append(entries)
        made.checkpoint()
        assert what in {one.what for one in verify(log).faults}


def test_every_byte_of_a_stamped_head_and_many_of_its_stamp_count(
    tmp_path: Path, authority: TimestampAuthority
) -> None:
    log = stamped_log(tmp_path / "log", authority, many=5)
    (tmp_path / "root.pem").write_bytes(authority.root)
    roots = roots_in(tmp_path / "root.pem")
    for path, step in zip(stamps.paths(6), (7, 61), strict=True):
        data = (log / path).read_bytes()
        for at in range(0, len(data), step):
            edited = bytearray(data)
            edited[at] ^= 1 << at % 8
            (log / path).write_bytes(edited)
            verdict = verify(log, stamp_roots=roots)
            assert verdict.faults or verdict.stamped_size == 6
            assert path.endswith("tsr") or verdict.faults, f"byte {at} of {path} was edited unseen"
        (log / path).write_bytes(data)
