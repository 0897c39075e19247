"""A log whose writer is killed, or whose disk fills up, goes on whole."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_cli.audit_verifying import verify
from bridge_core.audit.entries import LostRecord
from bridge_core.audit.notes import open_checkpoint
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.writing import LogWriter
from bridge_core.security_settings import AuditSettings
from tests import independent_log
from tests.support import eventually

ORIGIN = "m.local/node/a"
_WRITES = f"""
import sys
from pathlib import Path
from bridge_core.audit.writing import LogWriter
log = LogWriter(Path(sys.argv[1]), {ORIGIN!r}, lambda former: b'begun ' + former.encode())
print(log.size, flush=True)
number = 0
while True:
    log.append([b'%d %d' % (log.size, number) * (1 + number % 40) for number in range(number, number + 7)])
    number += 7
    if number % 5 == 0:
        head = log.checkpoint()
        print(head.size, flush=True)
"""


def test_a_writer_killed_at_any_moment_loses_nothing_that_was_signed(tmp_path: Path) -> None:
    folder, rng = tmp_path / "log", random.Random(3)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-c", _WRITES, str(folder)], stdout=subprocess.PIPE, text=True
        ) as writer:
            assert writer.stdout is not None
            lines = [writer.stdout.readline()]  # it runs
            lines += [writer.stdout.readline() for _ in range(rng.randrange(1, 30))]
            until = time.monotonic() + rng.random() * 0.02
            while time.monotonic() < until:  # somewhere in the middle of a write
                pass
            writer.send_signal(signal.SIGKILL)
            lines += writer.stdout.read().splitlines(keepends=True)
        signed = max(int(line) for line in lines if line.endswith("\n"))
        assert verify(folder).size >= signed
        assert [one.what for one in verify(folder).faults] == []
        again = LogWriter(folder, ORIGIN, lambda former: b"begun anew " + former.encode())
        assert again.size >= signed
        again.checkpoint()
        assert again.signed is not None
        entries = independent_log.entries_of(folder)
        assert entries[0] == b"begun "
        assert independent_log.tree(list(map(independent_log.leaf, entries))) == again.root()
    assert not list(tmp_path.glob("log-until-*")), "a log was given up"


@pytest.mark.parametrize("cut", ["bundle", "tile", "tail", "hashes"])
def test_what_a_power_cut_tears_behind_the_signed_head_is_cut(tmp_path: Path, cut: str) -> None:
    log = LogWriter(tmp_path / "log", ORIGIN, lambda _: b"begun")
    log.append([b"signed %d" % number for number in range(200)])
    log.checkpoint()
    log.append([b"not signed %d" % number for number in range(400)])
    torn = {
        "bundle": "tile/entries/001.zst",
        "tile": "tile/0/001",
        "tail": "tail/2.entries",
        "hashes": "tail/2.hashes",
    }
    path = tmp_path / "log" / torn[cut]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    if cut == "bundle":
        (tmp_path / "log/tail/1.entries").write_bytes(b"")  # neither was on the disk yet
    again = LogWriter(tmp_path / "log", ORIGIN, lambda _: b"begun anew")
    assert again.size >= {"bundle": 256, "tail": 540}.get(cut, 601)
    assert again.size < 601 or cut in {"tile", "hashes"}
    again.append([b"goes on"] * 600)
    again.checkpoint()
    assert verify(tmp_path / "log").faults == ()
    assert independent_log.entries_of(tmp_path / "log")[-1] == b"goes on"
    third = LogWriter(tmp_path / "log", ORIGIN, lambda _: b"begun anew")
    assert (third.size, third.root()) == (again.size, again.root())


def test_a_bundle_takes_the_place_of_a_tail_that_was_signed_for_and_falls_back_to_it(tmp_path: Path) -> None:
    folder, at_cut = tmp_path / "log", tmp_path / "cut"
    log = LogWriter(folder, ORIGIN, lambda _: b"begun")
    log.append([b"signed %d" % number for number in range(299)])
    log.checkpoint()
    log.append([b"not signed %d" % number for number in range(400)])
    assert sorted(path.name for path in (folder / "tail").iterdir()) == [
        *("1.entries", "1.hashes"),  # as far as a head speaks for it
        *("2.entries", "2.hashes"),
    ]
    assert (verify(folder).faults, verify(folder).unsigned) == ((), 400)
    shutil.copytree(folder, at_cut)
    assert LogWriter(folder, ORIGIN, lambda _: b"never").size == 700  # killed: all is in the files
    bundle = at_cut / "tile/entries/001.zst"
    bundle.write_bytes(bundle.read_bytes()[:20])  # the power was cut: it was never synced
    again = LogWriter(at_cut, ORIGIN, lambda _: b"never")
    assert again.size == 300
    again.append([b"goes on"] * 300)
    again.checkpoint()
    assert [path.name for path in sorted((at_cut / "tail").iterdir())] == ["2.entries", "2.hashes"]
    assert verify(at_cut).faults == ()


@pytest.mark.parametrize("harm", ["key", "checkpoint", "record", "dropped", "another name"])
def test_a_log_that_contradicts_its_head_is_put_aside_and_another_begun(tmp_path: Path, harm: str) -> None:
    folder = tmp_path / "log"
    log = LogWriter(folder, ORIGIN, lambda _: b"begun")
    log.append([b"%d" % number for number in range(300)])
    log.checkpoint()
    if harm == "key":
        (folder / "key").unlink()
    elif harm == "checkpoint":
        data = (folder / "checkpoint").read_bytes()
        (folder / "checkpoint").write_bytes(data.replace(b"\n301\n", b"\n300\n"))
    elif harm == "record":
        tail = folder / "tail/1.entries"
        tail.write_bytes(tail.read_bytes().replace(b"299", b"298"))
    elif harm == "dropped":
        (folder / "tail/1.entries").unlink()
    origin = "m.local/node/b" if harm == "another name" else ORIGIN
    again = LogWriter(folder, origin, lambda former: b"begun: " + former.encode())
    (aside,) = tmp_path.glob("log-until-*")
    assert (aside / "tile/entries/000.zst").exists()
    assert again.size == 1
    (first,) = independent_log.entries_of(folder)
    assert f"it is kept as {aside.name}" in first.decode()
    assert again.signer.public != log.signer.public
    open_checkpoint((folder / "checkpoint").read_bytes(), again.signer.public)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs root, to mount a small one")
    where = tmp_path / "disk"
    where.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(where)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("a full disk needs the right to mount")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


async def test_a_disk_that_fills_up_is_said_counted_and_got_over(small_disk: Path) -> None:
    settings = AuditSettings(on_full_disk="refuse")
    audit = AuditLog(small_disk / "log", ORIGIN, lambda one, _: (one,), settings=lambda: settings)
    task = asyncio.create_task(audit.run())
    put = 0
    try:
        filler = small_disk / "filler"
        filler.write_bytes(b"x" * (300 << 10))
        while not audit.refusal:
            for _ in range(200):
                audit.put(LostRecord(1e9, put, 0.0, os.urandom(200).hex()))
                put += 1
            await asyncio.sleep(0.05)
            assert put < 50_000
        assert "No space left on device" in audit.refusal
        await eventually(lambda: audit.written + audit.lost == put)
        assert audit.lost > 0
        filler.unlink()
        await eventually(lambda: not audit.refusal)
        audit.put(LostRecord(1e9, 0, 0.0, "after"))
        await eventually(lambda: audit.written + audit.lost == put + 1)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    entries = independent_log.entries_of(small_disk / "log")
    said = [one for one in entries if b"No space left on device" in one]
    assert len(said) >= 1
    assert len(entries) == audit.written + 1 + len(said)
    assert verify(small_disk / "log").faults == ()
