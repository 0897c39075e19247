"""What the audit costs a record, and that every single-byte edit of a log of 10,000 records is found."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import msgspec

from bench import results
from bridge_agent.audit.input_keys import InputKeys
from bridge_agent.audit.rendering import Rendering
from bridge_agent.gateway.config import Caller, ListenerKind, Outcome, RequestRecord
from bridge_cli.audit_parts import Part
from bridge_cli.audit_verifying import Verdict, _Verification, verify
from bridge_core.audit.entries import AuditRecord, BegunRecord, encode
from bridge_core.audit.notes import BadNote, Checkpoint, PublicKey, Signer, read_note, with_signatures
from bridge_core.audit.queue import AuditLog
from bridge_core.audit.stored import COSIGNED
from bridge_core.audit.tiles import CHECKPOINT, WIDTH
from bridge_core.audit.writing import LogWriter
from bridge_core.identity.principal import local
from bridge_core.sealing import Sealer
from bridge_core.sealing.keyring import DataKey, Keyring
from bridge_core.snapshot import EMPTY

RECORDS = 10_000
_ORIGIN = "bench.local/node/a"
_WITNESS = Signer("bench.local/node/b", bytes(32))
_RING = Keyring((DataKey(b"benchkey", bytes(32), 0.0),))
_SEALED_FILES = (
    ("sealed bundles of records", "tile/entries/**/*.sealed"),
    ("the sealed tail's records", "tail/*.sealed"),
)
_FILES = (
    ("the tail's records", "tail/*.entries"),
    ("the tail's hashes", "tail/*.hashes"),
    ("the signed head", CHECKPOINT),
    ("the cosigned head", COSIGNED),
    ("the public key", "key.pub"),
    ("bundles of records", "tile/entries/**/*.zst"),
    ("tiles of hashes", "tile/[0-9]/**/*"),
)


def cost(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `audit`."""
    rows = [_written(folder / str(size), size) for size in (600, 64 << 10, 1 << 20)]
    head = ("body", "µs to queue a record", "µs in the writer's thread a record", "bytes on disk a record")
    text = (
        f"{RECORDS:,} records (1,000 of bodies of 1 MiB) queued at once and written by the thread: rendered, "
        "the body hashed, appended, packed, signed and synced at the end.\n\n"
    )
    results.record(
        "audit", "What a record of the audit costs", command, versions, text + results.table(head, rows)
    )


def _written(folder: Path, size: int) -> tuple[str, str, str, str]:
    many = RECORDS if size < 1 << 20 else 1000
    rendering = Rendering("a", InputKeys(folder / "keys"), lambda: EMPTY)
    audit = AuditLog(folder / "log", _ORIGIN, rendering, together=rendering.together, most_held=1 << 40)
    caller, body, now = Caller(local("a"), ListenerKind.LOCAL), b"x" * size, time.monotonic()
    record = RequestRecord(
        "f00dfeed00000001", caller, "POST", "/api/chat", "registry.ollama.ai/library/m:latest", 200,
        Outcome.OK, now, now, now, now, None, "a/0", (), size, 400, tokens=12, remote=("127.0.0.1", 4711),
    )  # fmt: skip
    began = time.perf_counter()
    for _ in range(many):
        audit.put(record, body)
    queued = time.perf_counter() - began
    began = time.process_time()
    asyncio.run(_drained(audit))
    wrote = time.process_time() - began
    stored = sum(path.stat().st_size for path in (folder / "log").rglob("*") if path.is_file())
    return (
        f"{size:,} bytes",
        f"{queued / many * 1e6:.2f}",
        f"{wrote / many * 1e6:.1f}",
        f"{stored / many:.0f}",
    )


async def _drained(audit: AuditLog) -> None:
    task = asyncio.create_task(audit.run())
    while not audit.written:
        await asyncio.sleep(0.01)
    task.cancel()
    await asyncio.wait([task])


class _Edited(_Verification):
    """A verification that reads anew only the edited file; all else is known from the whole log's.

    The checks are the very ones of `verify`: what is left out is reading again what did not change.
    """

    def __init__(self, folder: Path, whole: _Edited | None, edited: Path, sealer: Sealer | None) -> None:
        super().__init__(folder, None if whole is None else whole.key, [_WITNESS.public], {}, sealer)
        self._whole = whole
        self._edited = edited
        self._number = _part_of(edited)
        self.head: Checkpoint | None = None

    @property
    def key(self) -> PublicKey:
        """The log's."""
        return self._key

    def part(self, index: int) -> Part:
        """As it was read."""
        return self._parts[index]

    def _head(self) -> Checkpoint | None:
        if self._whole is None or self._number is None:
            self.head = super()._head()
        else:
            self.head = self._whole.head
        return self.head

    def _read_cosigned(self) -> None:
        if self._whole is None or self._number is None:
            super()._read_cosigned()

    def _part(self, index: int, width: int) -> Part:
        if self._whole is None:
            return super()._part(index, width)
        known = self._whole.part(index)
        if index != self._number:
            return known
        if self._edited.parts[0] == "tile" and self._edited.parts[1] == "0":
            part = Part(index, width)
            part.said, part.had, part.times = self._stored.tile(0, index), known.had, known.times
            part._roots[False] = known.root(said=False)  # noqa: SLF001 - the records' are the same
            return part
        part = super()._part(index, width)
        part.times = known.times
        return part

    def _look_at(self, part: Part, entries: Sequence[bytes]) -> None:
        if self._whole is None:
            super()._look_at(part, entries)

    def _check_tail(self, size: int) -> None:
        if self._whole is None or self._number is None or self._edited.parts[0] == "tail":
            super()._check_tail(size)


def edits(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `audit-edits`."""
    began, rows = time.perf_counter(), []
    for sealer, kinds in ((Sealer(_RING), _SEALED_FILES), (None, _FILES)):
        log = folder / "log"
        whole = _written_log(log, sealer)
        with ProcessPoolExecutor(
            mp_context=multiprocessing.get_context("fork"),  # what is known of the whole log is not copied
            initializer=_Editor.begin,
            initargs=(log, whole, sealer),
        ) as editors:
            for kind, pattern in kinds:
                files = sorted(one.relative_to(log) for one in log.glob(pattern) if one.is_file())
                found = list(editors.map(_Editor.edit, files))
                done, unseen, exact = (sum(one[at] for one in found) for at in range(3))
                rows.append((kind, len(files), f"{done:,}", f"{unseen:,}", f"{exact:,}"))
                print(rows[-1], f"{time.perf_counter() - began:.0f} s", flush=True)
                _record_edits(rows, versions, command)  # also of a run that is broken off
        shutil.rmtree(log)


class _Editor:
    """One of the processes that edit, in a copy of its own, so that none reads another's edit."""

    log: Path
    whole: _Edited
    sealer: Sealer | None

    @classmethod
    def begin(cls, log: Path, whole: _Edited, sealer: Sealer | None) -> None:
        """Takes the copy."""
        cls.log, cls.whole, cls.sealer = log.with_name(f"{log.name}-{os.getpid()}"), whole, sealer
        shutil.copytree(log, cls.log)

    @classmethod
    def edit(cls, name: Path) -> tuple[int, int, int]:
        """How many edits of a file were made, not found, and named to the record."""
        return _edit_all(cls.log, cls.log / name, cls.whole, cls.sealer)


def _record_edits(rows: list[tuple[str, int, str, str, str]], versions: list[str], command: str) -> None:
    head = ("file", "files", "edits", "not found", "of them named to the record")
    text = (
        f"A log of {RECORDS:,} records, in the clear and sealed; every byte of every file but the secret "
        "key, one at a time, with one bit turned (another one at each place). Every edit has to be found; "
        "one in a bundle, tile or tail has to name records of that file and no others; one in a cosignature "
        "is found as a fault or as that of nobody who is known. Named to the record: one alone, else the "
        "file's up to 256 (a compressed or sealed file that cannot be read any more says nothing of the "
        "single ones).\n\n"
    )
    results.record(
        "audit-edits", "Every single-byte edit of a log", command, versions, text + results.table(head, rows)
    )


def _written_log(log: Path, sealer: Sealer | None) -> _Edited:
    """A log, cosigned, and what comes of verifying it as it is."""
    made = LogWriter(
        log, _ORIGIN, lambda _: encode(BegunRecord(1e9, _ORIGIN)), sealer=sealer, wanted=lambda: True
    )
    made.append(list(_entries()))
    made.checkpoint()
    note = read_note((log / CHECKPOINT).read_bytes())
    signature = _WITNESS.cosign(note.text, 1_800_000_000)
    (log / COSIGNED).write_bytes(with_signatures(note, [signature]).data)
    whole = _Edited(log, None, Path(CHECKPOINT), sealer)
    verdict = whole.run()
    if verdict.faults or not verdict.cosigned or verify(log, sealer=sealer).faults:
        raise RuntimeError("the log has faults before any edit")
    return whole


def _entries() -> Iterator[bytes]:
    one = AuditRecord(
        1e9, "", "local", "local", "POST", "/api/chat", 200, "ok", 1.0, 600, 400, "library/m:latest", "a/0"
    )
    for number in range(1, RECORDS):
        yield encode(
            msgspec.structs.replace(
                one, at=1e9 + number, request_id=f"f00d{number:012x}", input=f"{number * 7919:064x}"
            )
        )


def _edit_all(log: Path, path: Path, whole: _Edited, sealer: Sealer | None) -> tuple[int, int, int]:
    """How many edits of a file were made, not found, and named to the record."""
    data, name = path.read_bytes(), path.relative_to(log)
    own = _part_of(name)
    handle, unseen, exact = path.open("r+b", buffering=0), 0, 0
    with handle:
        for at, byte in enumerate(data):
            handle.seek(at)
            handle.write(bytes([byte ^ 1 << at % 8]))
            verdict = _verdict(log, whole, name, sealer)
            faults = () if verdict is None else verdict.faults
            if verdict is not None and not faults and verdict.cosigned:
                unseen += 1
                print(f"not found: byte {at} of {name}", flush=True)
            elif own is not None and {one.first // WIDTH for one in faults} != {own}:
                unseen += 1
                print(f"not named: byte {at} of {name}: {faults[:2]}", flush=True)
            exact += any(one.first == one.last >= 0 for one in faults)
            handle.seek(at)
            handle.write(bytes([byte]))
    return len(data), unseen, exact


def _verdict(log: Path, whole: _Edited, edited: Path, sealer: Sealer | None) -> Verdict | None:
    try:
        if edited.name == "key.pub":
            return verify(log, sealer=sealer, witnesses=[_WITNESS.public])
        return _Edited(log, whole, edited, sealer).run()
    except BadNote:
        return None  # the public key does not read any more: it is said


def _part_of(name: Path) -> int | None:
    if name.parts[0] == "tail" or name.parts[:2] == ("tile", "0") or name.parts[:2] == ("tile", "entries"):
        return int(name.name.partition(".")[0])
    return None
