"""A source that dies, a disk that fills up, a node that is revoked, in the middle of a blob."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_agent.models.blob_files import BlobBusy, BlobFault, PartialBlob
from bridge_agent.models.origin import PIECE_S, Download, OriginFault
from bridge_agent.models.piece_rules import SMALLEST, piece_count, span
from bridge_core.snapshot import Node
from tests.contract.models_bed import MIB, bytes_of, digest_of, models_bed, offer
from tests.support import eventually

BLOB = bytes_of(18 * MIB)
HEX = digest_of(BLOB)[7:]


async def test_a_source_that_dies_is_made_up_for_by_the_others(tmp_path: Path) -> None:
    async with models_bed(tmp_path, "a", "b", "c") as models:
        offer(models.registry, "team/big:v1", BLOB)
        models.put("a", BLOB)
        models.put("b", BLOB)
        pulling = asyncio.create_task(models.pull("c"))
        await eventually(lambda: models.desks["a"].pages.sent or pulling.done())
        await models.bed["a"].peer.close(0.0)
        assert (await pulling)[-1] == {"status": "success"}
        assert models.blob("c", digest_of(BLOB)).read_bytes() == BLOB


async def test_a_node_that_is_revoked_gets_and_gives_nothing(tmp_path: Path) -> None:
    async with models_bed(tmp_path, "a", "c") as models:
        offer(models.registry, "team/big:v1", BLOB)
        models.put("a", BLOB)
        models.bed.publish(node__a=Node("a", f"127.0.0.1:{models.bed['a'].peer.port}", state="revoked"))
        assert (await models.pull("c"))[-1] == {"status": "success"}
        assert models.desks["a"].pages.sent == 0
        assert models.registry.sent >= len(BLOB)
        # The other way: c refuses the links of the one that is revoked, which has to ask outside.
        before = models.registry.sent
        other = bytes_of(5 * MIB, 2)
        offer(models.registry, "team/other:v1", other)
        models.put("c", other)
        records = await models.pull("a", models.name("team/other:v1"))
        assert records[-1] == {"status": "success"}
        assert models.registry.sent >= before + len(other)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0:
        pytest.skip("mounting takes root")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "none", str(folder)], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"cannot mount: {mounted.stderr.decode().strip()}")
    (folder / "blobs").mkdir()
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def piece_of(piece: int) -> tuple[bytes, str]:
    begin, length = span(len(BLOB), piece)
    data = BLOB[begin : begin + length]
    return data, hashlib.sha256(data).hexdigest()


def write_all(partial: PartialBlob) -> None:
    for piece in set(range(piece_count(len(BLOB)))) - set(partial.hashes):
        partial.write(piece, *piece_of(piece))


def write_first(root: Path) -> None:
    """A blob of one piece."""
    with contextlib.closing(PartialBlob(root, HEX, SMALLEST)) as partial:
        partial.write(0, BLOB[:SMALLEST], hashlib.sha256(BLOB[:SMALLEST]).hexdigest())
        partial.commit()


@pytest.mark.root
def test_a_disk_that_fills_up_keeps_what_came(small_disk: Path) -> None:
    filler = small_disk / "filler"
    with contextlib.closing(PartialBlob(small_disk, HEX, len(BLOB))) as partial:
        partial.write(0, *piece_of(0))
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while file.write(bytes(MIB)):
                pass
        with pytest.raises(BlobFault, match="no space left on device") as full:
            write_all(partial)
        assert "free some space" in str(full.value)
    with pytest.raises(BlobFault, match="are free"):
        PartialBlob(small_disk, HEX, len(BLOB))
    filler.unlink()
    with contextlib.closing(PartialBlob(small_disk, HEX, len(BLOB))) as partial:
        assert 0 in partial.hashes
        write_all(partial)
        assert partial.digest(lambda: False) == HEX
        partial.commit()
    assert (small_disk / "blobs" / f"sha256-{HEX}").read_bytes() == BLOB


def test_two_processes_do_not_write_one_blob(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    first = PartialBlob(tmp_path, HEX, len(BLOB))
    try:
        with pytest.raises(BlobBusy):
            PartialBlob(tmp_path, HEX, len(BLOB))
    finally:
        first.close()
    PartialBlob(tmp_path, HEX, len(BLOB)).close()


@pytest.mark.parametrize("link", ["bridge-partial", f"bridge-partial/{HEX}", "blobs"])
def test_no_link_that_an_engine_left_is_written_through(tmp_path: Path, link: str) -> None:
    root, victim = tmp_path / "models", tmp_path / "victim"
    (root / "blobs").mkdir(parents=True)
    if link == "blobs":
        (root / "blobs").rmdir()
    (root / link).parent.mkdir(exist_ok=True)
    if link.endswith(HEX):
        victim.write_bytes(b"precious")
    else:
        victim.mkdir()
    (root / link).symlink_to(victim)
    with pytest.raises(BlobFault):
        write_first(root)
    assert victim.read_bytes() == b"precious" if victim.is_file() else not list(victim.iterdir())


class Dripping:
    """A registry that answers at once and then sends a byte each second, by a clock of its own."""

    base = "http://registry/v2/team/big"
    status = 200

    def __init__(self) -> None:
        self.now = 0.0
        self.closed = False

    def open(self, *_: object, **__: object) -> Dripping:
        return self

    def read1(self, _most: int) -> bytes:
        self.now += 1.0
        return b"x"

    def close(self) -> None:
        self.closed = True


def test_a_registry_that_sends_next_to_nothing_is_given_up() -> None:
    registry = Dripping()
    download = Download(registry, "sha256:" + HEX, SMALLEST, 0, now=lambda: registry.now)
    with pytest.raises(OriginFault, match="too few"):
        download.read(0)
    assert registry.now == PIECE_S


def test_a_slow_registry_that_brings_a_piece_in_time_is_not() -> None:
    registry = Dripping()
    assert Download(registry, "sha256:" + HEX, 200, 0, now=lambda: registry.now).read(0) == b"x" * 200


def test_reading_what_is_there_of_a_blob_ends_when_nobody_waits_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    with contextlib.closing(PartialBlob(tmp_path, HEX, len(BLOB))) as partial:
        piece = BLOB[: span(len(BLOB), 0)[1]]
        partial.write(0, piece, hashlib.sha256(piece).hexdigest())
    with pytest.raises(BlobFault, match="nobody waits"):
        PartialBlob(tmp_path, HEX, len(BLOB), stopped=lambda: True)
    with contextlib.closing(PartialBlob(tmp_path, HEX, len(BLOB))) as partial:
        assert set(partial.hashes) == {0}
