"""What it costs that blobs lie sealed: in memory, while they come to the disk, when they are loaded."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from bench.results import record, table
from bridge_agent.models.blob_files import PartialBlob
from bridge_agent.models.blob_keys import BlobKeys
from bridge_agent.models.blob_sealing import How, bring_up
from bridge_agent.models.piece_rules import piece_count, span
from bridge_core.model_store.open_blob import OpenBlob
from bridge_core.sealing import open_sealer
from bridge_core.sealing.blobs import SEGMENT_BYTES, seal_segment
from bridge_core.sealing.framing import open_sealed
from bridge_core.sealing.sealer import SealFolder
from bridge_engine.runner.plaintext import opened
from tests.runner_bed import runner_spec

SIZE, ROUNDS = 512 << 20, 3
_PART = 64 << 20  # of it, in memory


def sealing(folder: Path, _seconds: float, versions: Sequence[str], command: str) -> None:
    """Measures, and writes it down."""
    data = os.urandom(_PART) * (SIZE // _PART)
    hex_ = hashlib.sha256(data).hexdigest()
    where = SealFolder(folder / "seal")
    open_sealer(where)
    keys = BlobKeys(lambda: where)
    rows = _in_memory(data[:_PART])
    for label, with_ in (("in the clear", None), ("sealed", keys)):
        rows.append((f"to disk, {label}: written, hashed, synced", *_best(_fetch(folder, data, hex_, with_))))
    sealed = folder / "models-sealed" / "blobs" / f"sha256-{hex_}"
    rows.append(("into memory for a runner, the file in the page cache", *_best(_load(sealed, keys))))
    rows.append(("read through, sealed, in the page cache", *_best(_read(sealed, keys))))
    rows.append(
        (
            "what lay there in the clear: read, hashed, sealed, synced",
            *_best(*_bring_up(folder, data, hex_, keys)),
        )
    )
    head = ("what, one thread", "GB/s of processor time", "GB/s of wall time")
    note = (
        f"A blob of {SIZE >> 20} MiB of random bytes, {_PART >> 20} MiB of it in memory; the best of "
        f"{ROUNDS} rounds. Sealed: AES-256-GCM in segments of 1 MiB. SHA-256 is a part of what is hashed."
    )
    record("sealing", "Blobs sealed at rest", command, versions, f"{table(head, rows)}\n\n{note}")


def _in_memory(data: bytes) -> list[tuple[str, str, str]]:
    secret, view = os.urandom(32), memoryview(data)
    parts = [view[at : at + SEGMENT_BYTES] for at in range(0, len(data), SEGMENT_BYTES)]
    segments = [seal_segment(secret, at, os.urandom(24), part) for at, part in enumerate(parts)]
    contexts = [b"model blob segment " + at.to_bytes(8, "big") for at in range(len(parts))]

    def seal() -> int:
        for at, part in enumerate(parts):
            seal_segment(secret, at, os.urandom(24), part)
        return len(data)

    def open_() -> int:
        for context, segment in zip(contexts, segments, strict=True):
            open_sealed(secret, context, segment)
        return len(data)

    def hash_() -> int:
        hashlib.sha256(data).digest()
        return len(data)

    works = {"sealed in memory": seal, "opened in memory": open_, "SHA-256 in memory": hash_}
    return [(what, *_best(work)) for what, work in works.items()]


def _fetch(folder: Path, data: bytes, hex_: str, keys: BlobKeys | None) -> Callable[[], int]:
    root = folder / ("models-plain" if keys is None else "models-sealed")
    (root / "blobs").mkdir(parents=True)

    def fetch() -> int:
        with contextlib.closing(PartialBlob(root, hex_, len(data), keys=keys)) as partial:
            for piece in range(piece_count(len(data))):
                begin, length = span(len(data), piece)
                part = data[begin : begin + length]
                partial.write(piece, part, hashlib.sha256(part).hexdigest())
            if partial.digest(lambda: False) != hex_:
                raise RuntimeError("what was written is not what is read")
            partial.commit()
        return len(data)

    return fetch


def _load(path: Path, keys: BlobKeys) -> Callable[[], int]:
    async def load() -> int:
        async with opened(runner_spec(path), keys.unseal):
            return SIZE

    return lambda: asyncio.run(load())


def _read(path: Path, keys: BlobKeys) -> Callable[[], int]:
    def read() -> int:
        with OpenBlob.at(path, path.name.removeprefix("sha256-"), keys.unseal) as blob:
            for at in range(0, blob.size, 4 << 20):
                blob.read(at, 4 << 20)
            return blob.size

    return read


def _bring_up(
    folder: Path, data: bytes, hex_: str, keys: BlobKeys
) -> tuple[Callable[[], int], Callable[[], object]]:
    """The work, and what it needs before each time."""
    root = folder / "models-before"
    (root / "blobs").mkdir(parents=True)
    path = root / "blobs" / f"sha256-{hex_}"
    how = How(root, keys, contextlib.nullcontext())

    def put() -> None:
        path.unlink(missing_ok=True)
        path.write_bytes(data)

    def seal() -> int:
        bring_up(hex_, how)
        return len(data)

    return seal, put


def _best(work: Callable[[], int], prepare: Callable[[], object] = lambda: None) -> tuple[str, str]:
    """The best rates of several rounds, by processor time and by wall time."""
    rates = []
    for _ in range(ROUNDS):
        prepare()
        cpu, wall = time.process_time(), time.monotonic()
        size = work()
        cpu, wall = time.process_time() - cpu, time.monotonic() - wall
        rates.append((size / cpu / 1e9, size / wall / 1e9))
    return f"{max(rate for rate, _ in rates):.2f}", f"{max(rate for _, rate in rates):.2f}"
