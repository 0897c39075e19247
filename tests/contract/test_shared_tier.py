"""Pulls that take what shared storage has: right bytes alone, never waiting for storage that is away."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.folder import FolderBlob
from bridge_agent.models.shared.patience import Patience, StorageHangs
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.storage import OpenBlob
from bridge_agent.models.shared.tier import SharedTier, TierFault, TierLacks
from bridge_core.names import ModelName
from bridge_core.snapshot import Instance, MemberModel
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, models_bed, offer, settled
from tests.shared_bed import Hanging, Share
from tests.support import eventually

SIZE = 9 * MIB + 12_345  # three pieces
BLOB = bytes_of(SIZE)
OTHER = bytes_of(SIZE, seed=2)
NAME = ModelName.parse("team/big:v1")


@pytest.fixture
def share(tmp_path: Path) -> Share:
    return Share(tmp_path / "share")


@pytest.fixture
async def models(tmp_path: Path, share: Share) -> AsyncIterator[ModelsBed]:
    section = ModelsSection(reserve=0, shared=SharedSection(str(share.root)))
    async with models_bed(tmp_path, "a", "b", section=section) as bed:
        yield bed


def shared(models: ModelsBed, node: str = "a") -> SharedTier:
    found = models.desks[node].shared
    assert found is not None
    return found


def has(models: ModelsBed, node: str, data: bytes = BLOB) -> bool:
    path = models.blob(node, digest_of(data))
    return path.exists() and path.read_bytes() == data


def offered(models: ModelsBed, share: Share, *blobs: bytes) -> bytes:
    """The same model at the registry and in the shared storage."""
    manifest = offer(models.registry, "team/big:v1", *blobs)
    share.put(models.name(), *blobs, config=json.dumps({"of": "team/big:v1"}).encode())
    path = share.manifest(models.name())
    path.write_bytes(manifest)
    return manifest


async def test_blobs_come_from_the_share_and_nothing_of_them_from_outside(
    models: ModelsBed, share: Share
) -> None:
    manifest, before = offered(models, share, BLOB), share.all()
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    assert models.manifest_path("a").read_bytes() == manifest
    assert models.registry.sent == 0
    said = shared(models).said()
    assert (said.counts.blobs, said.counts.wrong, said.counts.faults) == (2, 0, 0)
    assert said.counts.bytes >= SIZE
    assert share.all() == before
    assert list((models.root("a") / "bridge-partial").iterdir()) == []


async def test_nodes_come_before_the_share(models: ModelsBed, share: Share) -> None:
    offered(models, share, BLOB)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    read = shared(models, "a").said().counts.bytes + shared(models, "b").said().counts.bytes
    assert (await models.pull("b"))[-1] == {"status": "success"}
    assert has(models, "b")
    assert shared(models, "a").said().counts.bytes + shared(models, "b").said().counts.bytes == read


async def test_a_model_that_the_registry_does_not_know_is_the_shares(models: ModelsBed, share: Share) -> None:
    manifest = share.put(models.name(), BLOB)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    assert models.manifest_path("a").read_bytes() == manifest


async def test_a_name_is_compared_without_regard_to_case(models: ModelsBed, share: Share) -> None:
    share.put(models.name("Team/Big:V1"), BLOB)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")


async def test_what_the_mesh_means_by_a_name_is_not_replaced_by_what_lies_in_the_share(
    models: ModelsBed, share: Share
) -> None:
    share.put(models.name(), BLOB)
    meant = MemberModel(models.name(), "ab" * 32)
    models.bed.publish(instance__b=Instance("b/0", "b", models=(meant,)))
    records = await models.pull("a")
    assert "error" in records[-1]
    assert not models.manifest_path("a").exists()


async def test_wrong_bytes_in_the_share_are_fetched_from_the_registry_and_named(
    models: ModelsBed, share: Share
) -> None:
    offered(models, share, BLOB)
    bad = bytearray(BLOB)
    bad[5 * MIB] ^= 1
    share.blob(BLOB).write_bytes(bytes(bad))
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    assert models.registry.sent >= SIZE
    tier = shared(models)
    assert tier.said().counts.wrong == tier.said().counts.known_wrong == 1
    assert any("1 blobs that are wrong" in one for one in models.desks["a"].concerns())
    # Known to be wrong it is not read again; written anew it is believed again.
    with pytest.raises(TierLacks):
        tier.open(digest_of(BLOB)[7:], SIZE)
    replaced = share.root / "new"
    replaced.write_bytes(BLOB)
    replaced.replace(share.blob(BLOB))
    tier.look()
    assert tier.said().counts.known_wrong == 0
    assert models.desks["a"].concerns() == []
    tier.open(digest_of(BLOB)[7:], SIZE).close()


async def test_a_manifest_that_lies_about_a_size_makes_no_blob_of_the_share_wrong(
    models: ModelsBed, share: Share
) -> None:
    offered(models, share, BLOB)
    tier, hex_ = shared(models), digest_of(BLOB)[7:]
    with pytest.raises(TierLacks):  # whose registry anybody may have made
        tier.open(hex_, SIZE - 1)
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    assert models.registry.sent == 0
    assert tier.said().counts.known_wrong == 0
    assert models.desks["a"].concerns() == []


async def test_a_blob_that_was_cut_in_the_share_is_named(models: ModelsBed, share: Share) -> None:
    offered(models, share, BLOB)
    share.blob(BLOB).write_bytes(BLOB[:-1])
    assert (await models.pull("a"))[-1] == {"status": "success"}
    tier, hex_ = shared(models), digest_of(BLOB)[7:]
    with pytest.raises(TierLacks):
        tier.open(hex_, SIZE)
    assert tier.said().counts.known_wrong == tier.said().counts.wrong == 1
    assert any("1 blobs that are wrong" in one for one in models.desks["a"].concerns())


async def test_wrong_bytes_that_nobody_else_has_make_no_model(models: ModelsBed, share: Share) -> None:
    share.put(models.name(), BLOB)
    share.blob(BLOB).write_bytes(OTHER)
    records = await models.pull("a")
    assert "wrong" in records[-1]["error"]
    assert not models.manifest_path("a").exists()
    assert not models.blob("a", digest_of(BLOB)).exists()


def _link(path: Path, elsewhere: Path) -> None:
    elsewhere.write_bytes(BLOB)
    path.symlink_to(elsewhere)


def _sparse(path: Path, _: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 42)


HOSTILE: dict[str, Callable[[Path, Path], None]] = {
    "a link": _link,
    "a FIFO": lambda path, _: os.mkfifo(path),
    "a folder": lambda path, _: path.mkdir(),
    "a sparse giant": _sparse,
    "an empty file": lambda path, _: path.touch(),
    "one byte more": lambda path, _: path.write_bytes(BLOB + b"x") and None,
}


@pytest.mark.parametrize("what", HOSTILE)
def test_what_is_no_blob_counts_as_none(share: Share, tmp_path: Path, what: str) -> None:
    HOSTILE[what](share.blob(BLOB), tmp_path / "elsewhere")
    tier = SharedTier(SharedSection(str(share.root)))
    with pytest.raises(TierLacks):
        tier.open(digest_of(BLOB)[7:], SIZE)
    assert tier.said().fault == ""


async def test_what_is_no_blob_is_fetched_from_the_registry(models: ModelsBed, share: Share) -> None:
    offered(models, share, BLOB)
    share.blob(BLOB).unlink()
    os.mkfifo(share.blob(BLOB))
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    assert models.registry.sent >= SIZE


async def test_folders_that_are_links_lead_nowhere(share: Share, tmp_path: Path) -> None:
    share.put("team/big:v1", BLOB)
    tier = SharedTier(SharedSection(str(share.root)))
    assert tier.manifest(NAME) is not None
    host = share.root / "manifests" / NAME.host
    host.rename(tmp_path / "moved")
    host.symlink_to(tmp_path / "moved")
    assert tier.manifest(NAME) is None
    tier.look()
    assert tier.said().models == ()
    blobs = share.root / "blobs"
    blobs.rename(tmp_path / "blobs")
    blobs.symlink_to(tmp_path / "blobs")
    with pytest.raises(TierFault):
        tier.open(digest_of(BLOB)[7:], SIZE)


async def test_a_manifest_that_is_too_large_is_none(share: Share) -> None:
    share.put("team/big:v1", BLOB)
    with share.manifest("team/big:v1").open("ab") as file:
        file.truncate(1 << 40)
    assert SharedTier(SharedSection(str(share.root))).manifest(NAME) is None


async def test_a_folder_that_nothing_is_mounted_on_is_away_and_comes_back(
    models: ModelsBed, share: Share, tmp_path: Path
) -> None:
    offered(models, share, BLOB)
    share.root.rename(tmp_path / "later")
    share.root.mkdir()
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    (concern,) = models.desks["a"].concerns()
    assert "nothing is mounted there" in concern
    share.root.rmdir()
    (tmp_path / "later").rename(share.root)
    clock = [1000.0]
    tier = SharedTier(SharedSection(str(share.root)), lambda: clock[0])
    tier.look()
    assert tier.said().fault == ""
    assert tier.said().models == (ModelName.parse(models.name()).short(),)


async def test_a_pull_that_finds_nothing_says_that_the_share_is_away(models: ModelsBed, share: Share) -> None:
    (share.root / "manifests").rmdir()
    (record,) = (one for one in await models.pull("a") if "error" in one)
    assert "file does not exist; the shared storage is away: it has no folder manifests" in record["error"]


async def test_a_hung_share_is_left_after_its_time_and_its_file_closed_once_it_answers(share: Share) -> None:
    share.put("team/big:v1", BLOB)
    hanging, clock = Hanging(), [0.0]
    tier = SharedTier(SharedSection(str(share.root)), lambda: clock[0], hanging)
    blob = tier.open(digest_of(BLOB)[7:], SIZE)
    assert isinstance(blob.file, FolderBlob)
    file = blob.file.handle
    inode = os.fstat(file).st_ino
    assert blob.piece(0) == BLOB[: 4 * MIB]
    hanging.stop()
    with pytest.raises(TierFault, match="did not answer"):
        blob.piece(1)
    blob.close()
    assert tier.said().hanging == 1
    assert os.fstat(file).st_size == SIZE  # the thread that hangs on it still has it
    # While it rests nobody waits, and no further thread hangs.
    with pytest.raises(TierFault, match="is away"):
        tier.open(digest_of(BLOB)[7:], SIZE)
    assert tier.manifest(NAME) is None
    assert tier.said().hanging == 1
    hanging.go()
    await eventually(lambda: tier.said().hanging == 0)
    assert _is_another(file, inode)
    clock[0] += 5.0
    assert tier.manifest(NAME) is not None
    assert tier.said().fault == ""


def _is_another(file: int, inode: int) -> bool:
    """Whether a descriptor was closed, and may be something else's by now."""
    try:
        return os.fstat(file).st_ino != inode
    except OSError:
        return True


async def test_a_pull_from_a_share_that_hangs_midway_is_finished_from_the_registry(
    tmp_path: Path, models: ModelsBed, share: Share
) -> None:
    offered(models, share, BLOB)
    hanging = Hanging()
    tier = SharedTier(SharedSection(str(share.root)), patience=hanging)
    models.desks["a"].pulls._shared = tier
    read = tier.read

    def then_stop(file: OpenBlob, offset: int, length: int) -> bytes:
        data = read(file, offset, length)
        hanging.stop()
        return data

    tier.read = then_stop  # type: ignore[method-assign]
    try:
        assert (await models.pull("a"))[-1] == {"status": "success"}
        assert has(models, "a")
        assert SIZE - 4 * MIB <= models.registry.sent <= SIZE + MIB
        assert tier.said().hanging >= 1  # on a slow machine its rest is over meanwhile, and it is tried again
    finally:
        hanging.go()
    await eventually(lambda: tier.said().hanging == 0)


def test_threads_that_hang_are_few_and_then_work_is_refused() -> None:
    patience, going, late = Patience(0.05, most=2), threading.Event(), []
    for _ in range(2):
        with pytest.raises(StorageHangs) as fault:
            patience.call(lambda: going.wait() and "late", late=late.append)
        assert fault.value.abandoned
    for _ in range(5):
        with pytest.raises(StorageHangs, match="2 reads and writes hang") as fault:
            patience.call(lambda: "never begun", late=late.append)
        assert not fault.value.abandoned
    assert patience.hanging == 2
    going.set()
    until = time.monotonic() + 30.0
    while patience.hanging and time.monotonic() < until:
        threading.Event().wait(0.005)
    assert late == ["late", "late"]
    assert Patience(30.0).call(lambda: 7) == 7


def test_what_work_raises_reaches_who_waits() -> None:
    with pytest.raises(ZeroDivisionError):
        Patience(30.0).call(lambda: 1 // 0)


async def test_removal_and_eviction_leave_the_share_as_it_is(tmp_path: Path, share: Share) -> None:
    section = ModelsSection(
        reserve=0, disk_budget=SIZE + 8 * MIB, shared=SharedSection(str(share.root), publish=True)
    )
    async with models_bed(tmp_path, "a", section=section) as models:
        share.put(models.name("team/one:v1"), BLOB)
        share.put(models.name("team/two:v1"), OTHER)
        before = share.all()
        assert (await models.pull("a", models.name("team/one:v1")))[-1] == {"status": "success"}
        records = await models.pull("a", models.name("team/two:v1"))
        assert (
            "disk_budget" in records[-1]["error"]
        )  # the only copy in the mesh stays, whatever the share has
        removals = models.desks["a"].removals
        await removals.remove(ModelName.parse(models.name("team/one:v1")), by="a test")
        assert not models.blob("a", digest_of(BLOB)).exists()
        assert (await models.pull("a", models.name("team/two:v1")))[-1] == {"status": "success"}
        assert share.all() == before


async def test_a_node_that_seals_seals_what_comes_from_the_share(tmp_path: Path, share: Share) -> None:
    section = ModelsSection(reserve=0, shared=SharedSection(str(share.root)))
    async with models_bed(tmp_path, "a", section=section, sealing=frozenset({"a"})) as models:
        share.put(models.name(), BLOB)
        assert (await models.pull("a"))[-1] == {"status": "success"}
        assert models.blob("a", digest_of(BLOB)).read_bytes()[:6] == b"BRBLOB"
        await eventually(lambda: settled(models))
