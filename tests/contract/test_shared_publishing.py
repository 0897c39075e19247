"""Models written into shared storage: whole or not at all, by one writer at a time."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.models.section import ModelsSection
from bridge_agent.models.shared.fence_files import FENCES, IDENTITY
from bridge_agent.models.shared.hold import Hold, held
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.section import SharedSection
from bridge_agent.models.shared.storage import PublishFault
from bridge_agent.models.shared.tier_writes import PARTIAL, TierWriter
from bridge_cli.shared_commands import shared_lines
from bridge_core import model_answers
from bridge_core.clients import Admin
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.model_answers import ModelAsked
from bridge_core.names import ModelName
from bridge_core.snapshot import Node
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, manifest_of, models_bed, offer
from tests.contract.test_models_admin_commands import ask
from tests.shared_bed import Hanging, Leases, Share, forever, goes_on, pieces
from tests.support import eventually

SIZE = 5 * MIB + 321  # two pieces
BLOB = bytes_of(SIZE)
HEX = digest_of(BLOB)[7:]
NAME = ModelName.parse("team/big:v1")


def publish(writer: TierWriter) -> None:
    writer.claim(NAME, "mark", forever)
    writer.blob(HEX, SIZE, pieces(BLOB), goes_on=goes_on)
    writer.list_model(NAME, manifest_of(BLOB), "mark", forever)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "share").mkdir()
    return tmp_path / "share"


@pytest.fixture
def writer(root: Path) -> TierWriter:
    made = TierWriter(root, Patience(30.0))
    made.tidy()
    return made


def blob_in(root: Path) -> Path:
    return root / "blobs" / f"sha256-{HEX}"


def manifest_in(root: Path) -> Path:
    return root / "manifests" / NAME.host / NAME.namespace / NAME.model / NAME.tag


def left_over(root: Path) -> list[str]:
    return sorted(one.name for one in (root / PARTIAL).iterdir())


def test_a_tier_has_one_identity_wherever_it_is_asked(root: Path) -> None:
    first = TierWriter(root, Patience(30.0)).identity()
    assert TierWriter(root, Patience(30.0)).identity() == first
    assert len(first) == 32
    assert [one.name for one in root.iterdir()] == [IDENTITY]
    (root / IDENTITY).write_text("something else")
    with pytest.raises(PublishFault, match="not what makes a tier"):
        TierWriter(root, Patience(30.0)).identity()


def test_a_model_is_there_whole_and_readable_for_all(root: Path, writer: TierWriter) -> None:
    through: list[int] = []
    mask = os.umask(0o077)
    try:
        writer.claim(NAME, "mark", forever)
        writer.blob(HEX, SIZE, pieces(BLOB), goes_on=through.append)
        writer.list_model(NAME, manifest_of(BLOB), "mark", forever)
    finally:
        os.umask(mask)
    assert blob_in(root).read_bytes() == BLOB
    assert manifest_in(root).read_bytes() == manifest_of(BLOB)
    assert blob_in(root).stat().st_mode & 0o777 == manifest_in(root).stat().st_mode & 0o777 == 0o644
    assert {path.stat().st_mode & 0o777 for path in (root / "manifests").rglob("*") if path.is_dir()} == {
        0o755
    }
    assert through == [4 * MIB, SIZE]
    assert left_over(root) == []


def test_what_is_there_and_right_is_not_written_again(root: Path, writer: TierWriter) -> None:
    writer.blob(HEX, SIZE, pieces(BLOB), goes_on=goes_on)
    inode = blob_in(root).stat().st_ino
    writer.blob(HEX, SIZE, pieces(BLOB), goes_on=goes_on)
    assert blob_in(root).stat().st_ino == inode
    # What is wrong there is put right, whatever its size.
    for wrong in (bytes_of(SIZE, seed=9), BLOB[:-1]):
        blob_in(root).write_bytes(wrong)
        writer.blob(HEX, SIZE, pieces(BLOB), goes_on=goes_on)
        assert blob_in(root).read_bytes() == BLOB


def test_bytes_with_another_digest_are_not_kept(root: Path, writer: TierWriter) -> None:
    with pytest.raises(PublishFault, match="does not have its digest"):
        writer.blob(HEX, SIZE, pieces(BLOB[:-1] + b"\0"), goes_on=goes_on)
    assert not blob_in(root).exists()
    assert left_over(root) == []


def test_who_leaves_midway_leaves_nothing(root: Path, writer: TierWriter) -> None:
    def leave(_: int) -> None:
        raise PublishFault("nobody waits")

    with pytest.raises(PublishFault, match="nobody waits"):
        writer.blob(HEX, SIZE, pieces(BLOB), goes_on=leave)
    assert not blob_in(root).exists()
    assert left_over(root) == []


def test_what_writers_left_that_died_goes_after_a_day(root: Path, writer: TierWriter) -> None:
    old, young = root / PARTIAL / "old", root / PARTIAL / "young"
    old.touch()
    young.touch()
    os.utime(old, (time.time() - 2 * 86_400,) * 2)
    writer.tidy()
    assert left_over(root) == ["young"]


FULL = """
import resource, signal, sys
from pathlib import Path
from bridge_agent.models.shared.storage import PublishFault
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.tier_writes import TierWriter
from tests.contract.test_shared_publishing import BLOB, HEX, SIZE, goes_on, pieces
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
try:
    TierWriter(Path(sys.argv[1]), Patience(60.0)).blob(HEX, SIZE, pieces(BLOB), goes_on=goes_on)
except PublishFault as fault:
    print(fault)
"""


def test_a_share_that_takes_no_more_says_so_and_keeps_no_part(root: Path, writer: TierWriter) -> None:
    """In a process of its own: the limit that stands for a full disk is a process's."""
    done = subprocess.run([sys.executable, "-c", FULL, str(root)], capture_output=True, text=True, check=True)
    assert "cannot write the shared storage" in done.stdout
    assert not blob_in(root).exists()
    assert left_over(root) == []


@pytest.mark.parametrize("name", ["blobs", "manifests", PARTIAL, FENCES])
def test_folders_that_are_links_are_not_written_through(
    root: Path, writer: TierWriter, tmp_path: Path, name: str
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (root / name).rmdir()
    (root / name).symlink_to(elsewhere)
    with pytest.raises(PublishFault, match="cannot"):
        publish(writer)
    assert list(elsewhere.iterdir()) == []


def test_a_fence_that_is_a_link_or_a_fifo_is_refused(root: Path, writer: TierWriter, tmp_path: Path) -> None:
    writer.claim(NAME, "mark", forever)
    (fence,) = (root / FENCES).iterdir()
    target = tmp_path / "target"
    target.write_text("mine")
    fence.unlink()
    fence.symlink_to(target)
    with pytest.raises(PublishFault):
        writer.claim(NAME, "mark", forever)
    assert target.read_text() == "mine"
    fence.unlink()
    os.mkfifo(fence)
    with pytest.raises(PublishFault, match="is no file"):
        writer.claim(NAME, "mark", forever)


def test_a_writer_that_stood_still_replaces_nothing(root: Path, writer: TierWriter) -> None:
    old, new = manifest_of(BLOB), manifest_of(BLOB, config=b'{"new": 1}')
    later = TierWriter(root, Patience(30.0))
    writer.claim(NAME, "first", forever)
    # The first one stands still, its lease runs out, and a second one publishes.
    later.claim(NAME, "second", forever)
    later.list_model(NAME, new, "second", forever)
    with pytest.raises(PublishFault, match="another writer began"):
        writer.list_model(NAME, old, "first", forever)
    with pytest.raises(PublishFault, match=r"lease .* is over"):
        later.list_model(NAME, old, "second", lambda: False)
    with pytest.raises(PublishFault, match=r"lease .* is over"):
        writer.claim(NAME, "first again", lambda: False)
    later.list_model(NAME, new, "second", forever)  # the late claim left the mark as it was
    assert manifest_in(root).read_bytes() == new
    assert left_over(root) == []


def test_a_fence_is_one_writers_at_a_time(root: Path, writer: TierWriter) -> None:
    one_at_a_time(writer, TierWriter(root, Patience(30.0)))


def one_at_a_time(writer: TierWriter, later: TierWriter) -> None:
    seen = []

    def meanwhile() -> bool:
        with pytest.raises(PublishFault, match="at this moment"):
            later.claim(NAME, "second", forever)
        later.claim(ModelName.parse("another:v1"), "second", forever)
        seen.append(True)
        return True

    writer.claim(NAME, "first", meanwhile)
    writer.list_model(NAME, manifest_of(BLOB), "first", meanwhile)
    assert len(seen) == 2


async def test_a_share_that_hangs_ends_the_writing(root: Path) -> None:
    hanging = Hanging()
    writer = TierWriter(root, hanging)
    writer.tidy()

    def stop(_: int) -> None:
        hanging.stop()

    with pytest.raises(PublishFault, match="is away"):
        writer.blob(HEX, SIZE, pieces(BLOB), goes_on=stop)
    hanging.go()
    await eventually(lambda: hanging.hanging == 0)
    assert not blob_in(root).exists()
    writer.blob(HEX, SIZE, pieces(BLOB), goes_on=goes_on)
    assert blob_in(root).read_bytes() == BLOB


# -- leases, as their holder sees them


async def test_a_hold_is_good_for_what_was_answered_from_when_it_was_asked() -> None:
    clock, leases = [100.0], Leases()
    async with held([leases], "t", "m", lambda: clock[0]) as hold:
        clock[0] = 109.999
        assert hold.valid()
        clock[0] = 110.0
        assert not hold.valid()
        clock[0] = 100.0
        assert hold.valid()
    assert not hold.valid()  # given back
    assert leases.holders == {}


async def test_a_second_holder_is_refused_by_the_first_ones_name() -> None:
    leases = Leases("a")
    async with held([leases], "t", "m"):
        with pytest.raises(BridgeError, match="node a is publishing m"):
            async with held([Leases("b", of=leases)], "t", "m"):
                raise AssertionError
        async with held([Leases("b", of=leases)], "t", "another"):
            pass


async def test_a_registry_that_is_down_is_passed_over() -> None:
    down, up = Leases(), Leases()
    down.down = True
    async with held([down, up], "t", "m"):
        assert up.holders == {("t", "m"): "a"}
    with pytest.raises(Unavailable, match="no registry gives the lease"):
        async with held([down], "t", "m"):
            raise AssertionError
    with pytest.raises(Unavailable, match="none is known"):
        async with held([], "t", "m"):
            raise AssertionError


async def test_a_hold_that_is_not_renewed_says_why_and_runs_out() -> None:
    clock = [0.0]
    hold, beats = Hold(1, 0.5, lambda: clock[0]), []

    async def beat() -> Any:
        beats.append(clock[0])
        raise Unavailable("it is down")

    await hold.keep(beat, 0.3)
    assert (len(beats), hold.lost) == (1, "it is down")
    assert hold.valid()
    clock[0] = 0.5
    assert not hold.valid()


async def everything(records: AsyncIterator[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record async for record in records]


# -- the whole way, from a node's store to another's


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[ModelsBed]:
    share = tmp_path / "share"
    share.mkdir()
    section = ModelsSection(reserve=0, shared=SharedSection(str(share), publish=True))
    async with models_bed(tmp_path, "a", "b", section=section, registries=(Leases(),)) as bed:
        bed.bed.publish(
            admin__op=Admin("op", "operator"),
            admin__eye=Admin("eye", "viewer"),
            node__b=Node("b", f"127.0.0.1:{bed.bed['b'].peer.port}"),
        )
        yield bed


async def test_what_one_node_published_another_one_pulls(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    assert (await models.pull("b"))[-1] == {"status": "success"}
    (said,), _ = await ask(models, model_answers.PUBLISH, ModelAsked(models.name()), "b", who="eye")
    assert "operator" in said.fault
    tier = models.desks["b"].shared
    assert tier is not None
    tier.look()
    assert tier.said().fault  # nothing was published there yet, and it rests
    (said,), shown = await ask(models, model_answers.PUBLISH, ModelAsked(models.name()), "b")
    assert (tier.said().fault, tier.said().models) == ("", (models.name(),))
    assert (said.done, said.fault) == ("published", "")
    assert shown[-1] == ("b", {"status": "success"})
    assert {"status": "writing manifest"} in [record for _, record in shown]
    # The mesh forgets it, and so does its registry: what is left is what was published.
    await models.desks["b"].removals.remove(ModelName.parse(models.name()), by="a test")
    models.registry.manifests.clear()
    models.registry.blobs.clear()
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert models.blob("a", digest_of(BLOB)).read_bytes() == BLOB

    for desk in models.desks.values():
        assert desk.shared is not None
        desk.shared.look()
    outcomes, _ = await ask(models, model_answers.SHARED, ModelAsked(), who="eye")
    lines = shared_lines(outcomes)
    assert lines[1].split()[:4] == ["a", str(models.folder / "share"), "ok", "yes"]
    assert lines[-1].split() == [models.name(), "a,", "b"]


async def test_two_nodes_that_publish_a_model_at_once_one_is_refused(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await asyncio.gather(models.pull("a"), models.pull("b"))
    first, second = (models.desks[node]._admin._publishing for node in "ab")
    assert first is not None
    assert second is not None
    name = ModelName.parse(models.name())
    async with contextlib.aclosing(first.records(name)) as records:
        async for record in records:
            if "digest" in record:
                break
        with pytest.raises(BridgeError, match="node a is publishing"):
            await everything(second.records(name))
    assert not (models.folder / "share" / "manifests" / name.host).exists()
    assert (await everything(second.records(name)))[-1] == {"status": "success"}


async def test_what_is_not_whole_or_sealed_or_not_allowed_is_not_published(tmp_path: Path) -> None:
    share = Share(tmp_path / "share")
    section = ModelsSection(reserve=0, shared=SharedSection(str(share.root), publish=True))
    sealing = frozenset({"b"})
    async with models_bed(
        tmp_path, "a", "b", section=section, registries=(Leases(),), sealing=sealing
    ) as models:
        offer(models.registry, "team/big:v1", BLOB)
        await models.pull("a")
        await models.pull("b")
        name = ModelName.parse(models.name())
        models.blob("a", digest_of(BLOB)).write_bytes(BLOB[:-1])
        for node, why in (("a", "is not whole here"), ("b", "lies sealed here")):
            publishing = models.desks[node]._admin._publishing
            assert publishing is not None
            with pytest.raises(PublishFault, match=why):
                await everything(publishing.records(name))
        publishing._tier.section = SharedSection(str(share.root))  # type: ignore[misc]
        with pytest.raises(PublishFault, match="may not write"):
            await everything(publishing.records(name))
        assert share.all() == {}


@pytest.mark.skipif(
    "BRIDGE_TEST_CEPHFS" not in os.environ, reason="no BRIDGE_TEST_CEPHFS: bench/ceph_one_node.sh"
)
async def test_on_a_real_cephfs(tmp_path: Path) -> None:
    """Writers and a pull on the CephFS that is mounted at one place or two, A:B, as at two machines."""
    first, *others = os.environ["BRIDGE_TEST_CEPHFS"].split(":")
    name = f"test-{secrets.token_hex(4)}"
    roots = [Path(one) / name for one in (first, *others[:1])]
    roots[0].mkdir()
    await eventually(roots[-1].is_dir)
    here, there = TierWriter(roots[0], Patience(60.0)), TierWriter(roots[-1], Patience(60.0))
    here.tidy()
    assert here.identity() == there.identity()
    one_at_a_time(here, there)
    one_at_a_time(there, here)
    test_what_is_there_and_right_is_not_written_again(roots[0], here)
    section = ModelsSection(reserve=0, shared=SharedSection(str(roots[-1])))
    async with models_bed(tmp_path, "a", section=section) as models:
        model = ModelName.parse(models.name())
        here.claim(model, "mark", forever)
        here.blob(digest_of(b"{}")[7:], 2, pieces(b"{}"), goes_on=goes_on)
        here.list_model(model, manifest_of(BLOB), "mark", forever)
        assert (await models.pull("a"))[-1] == {"status": "success"}
        assert models.blob("a", digest_of(BLOB)).read_bytes() == BLOB
