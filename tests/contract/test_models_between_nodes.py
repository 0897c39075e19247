"""Pulls at nodes of a mesh: each byte from outside once, whatever breaks, and nothing wrong kept."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.gateway.config import Outcome
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.origin import Origin
from bridge_agent.models.peer_client import PeerClient
from bridge_agent.models.pulling import ModelPulls
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, models_bed, offer, settled
from tests.support import eventually

SIZE = 9 * MIB + 12_345  # three pieces
BLOB = bytes_of(SIZE)


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[ModelsBed]:
    async with models_bed(tmp_path, "a", "b", "c") as bed:
        yield bed


def has(models: ModelsBed, node: str, data: bytes = BLOB) -> bool:
    path = models.blob(node, digest_of(data))
    return path.exists() and path.read_bytes() == data


def inside(models: ModelsBed) -> int:
    return sum(desk.fetcher.inside for desk in models.desks.values())


async def test_a_pull_has_ollamas_records_and_the_registrys_bytes(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    records = await models.pull("a")
    assert records[0] == {"status": "pulling manifest"}
    assert [record["status"] for record in records[-3:]] == [
        "verifying sha256 digest",
        "writing manifest",
        "success",
    ]
    of_blob = [record for record in records if record.get("digest") == digest_of(BLOB)]
    assert {record["status"] for record in of_blob} == {f"pulling {digest_of(BLOB)[7:19]}"}
    assert of_blob[-1]["completed"] == of_blob[-1]["total"] == SIZE
    assert has(models, "a")
    assert models.manifest_path("a").read_bytes() == manifest
    assert models.blob("a", digest_of(BLOB)).stat().st_mode & 0o777 == 0o644
    assert list((models.root("a") / "bridge-partial").iterdir()) == []


async def test_what_a_node_has_comes_from_there(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    before = models.registry.sent
    assert (await models.pull("b"))[-1] == {"status": "success"}
    assert has(models, "b")
    # The config is small, and a piece of its own.
    assert models.registry.sent == before
    assert inside(models) >= SIZE


async def test_one_download_for_all_who_pull_at_once(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    answers = await asyncio.gather(*(models.pull(node) for node in ("a", "b", "c", "a", "b")))
    assert all(records[-1] == {"status": "success"} for records in answers)
    assert all(has(models, node) for node in "abc")
    # On a busy machine a claim may pass on once; by themselves they would fetch it three times.
    assert SIZE <= models.registry.sent < 2 * SIZE
    assert inside(models) > SIZE


async def test_a_registry_without_ranges_serves_too(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.ranges = False
    models.registry.cut_after = 5 * MIB
    records = await models.pull("a")
    # It sends the same beginning again and again: what it never sends cannot be had.
    assert "error" in records[-1]
    models.registry.cut_after = None
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")


async def test_a_registry_that_breaks_off_is_asked_for_the_rest(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.cut_after = 5 * MIB
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")
    assert models.registry.sent < 2 * SIZE


async def test_a_pull_goes_on_where_the_last_one_ended(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.cut_after = 5 * MIB
    models.registry.ranges = False
    assert "error" in (await models.pull("a"))[-1]
    await eventually(lambda: settled(models))
    models.registry.cut_after, models.registry.ranges, models.registry.sent = None, True, 0
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert models.registry.sent <= SIZE - 3 * MIB
    assert has(models, "a")


async def test_who_leaves_last_ends_the_pull_and_who_comes_next_begins_one(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.sends.clear()
    left = asyncio.create_task(models.pull("a"))
    stays = asyncio.create_task(models.pull("a"))
    desk = models.desks["a"]
    await eventually(lambda: desk.fetcher.under_way)
    (pull,) = desk.pulls._pulls.values()
    await eventually(lambda: pull.followers == 2)
    left.cancel()
    await eventually(lambda: pull.followers == 1)
    assert not pull.done
    stays.cancel()
    await eventually(lambda: pull.done)
    assert not desk.pulls.under_way
    models.registry.sends.set()
    await eventually(lambda: settled(models))
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("fields", [{}, {"X-Bridge-Node": "all"}], ids=["here", "everywhere"])
async def test_who_leaves_is_on_record(models: ModelsBed, stream: bool, fields: dict[str, str]) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.sends.clear()
    node, desk = models.bed["a"], models.desks["a"]
    body = {"model": models.name(), "insecure": True, "stream": stream}
    asked = asyncio.create_task(node.ask("POST", "/api/pull", body, fields))
    await eventually(lambda: desk.fetcher.under_way)
    asked.cancel()
    await eventually(lambda: [one.outcome for one in node.gateway.records()] == [Outcome.CANCELLED])
    models.registry.sends.set()


class NothingStays:
    """Gets blobs, and an engine removes each before anybody looks."""

    async def fetch(self, *_: Any) -> None:
        """It came, and went."""


def pulls_of(models: ModelsBed, group: asyncio.TaskGroup, **more: Any) -> ModelPulls:
    """Pulls at node a, of which nothing stays."""
    node = models.bed["a"]
    return ModelPulls(
        Blobs(models.root("a")),
        lambda: ModelStore(models.root("a")),
        node.view,
        peers=PeerClient(node.view, node.upstreams),
        fetcher=NothingStays(),  # type: ignore[arg-type]  # a fake
        origin=lambda name, insecure: Origin(name, insecure=insecure),
        group=group,
        changed=lambda: None,
        check=models.desks["a"].signatures.check,
        **more,
    )


async def anything_fits(_incoming: int, _keep: ModelName) -> None:
    """A disk without a budget."""


async def test_a_model_whose_blobs_do_not_stay_is_not_listed(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    async with asyncio.TaskGroup() as group:
        pulls = pulls_of(models, group, room=anything_fits)
        with pytest.raises(ApiError, match="is not whole"):
            _ = [one async for one in pulls.records(ModelName.parse(models.name()), insecure=True)]
    assert not models.manifest_path("a").exists()


class Hanging:
    """A shared storage that answers when it is told to."""

    def __init__(self) -> None:
        self.answers = threading.Event()

    def manifest(self, _name: ModelName) -> bytes | None:
        """Nothing, late."""
        self.answers.wait(30)
        return None


async def test_a_shared_storage_that_hangs_delays_no_first_pull(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    shared, asked = Hanging(), asyncio.Event()

    async def no_room(_incoming: int, _keep: ModelName) -> None:
        asked.set()  # the manifest is there, and its bytes are known
        raise BridgeError("that is enough")

    async with asyncio.TaskGroup() as group:
        pulls = pulls_of(models, group, room=no_room, shared=shared)
        try:
            with pytest.raises(BridgeError, match="that is enough"):
                _ = [one async for one in pulls.records(ModelName.parse(models.name()), insecure=True)]
            assert asked.is_set()
        finally:
            shared.answers.set()


async def test_a_piece_damaged_in_the_rest_is_fetched_anew(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.cut_after, models.registry.ranges = 5 * MIB, False
    assert "error" in (await models.pull("a"))[-1]
    await eventually(lambda: settled(models))
    partial = models.root("a") / "bridge-partial" / digest_of(BLOB)[7:]
    with partial.open("r+b") as file:
        file.seek(1 * MIB)
        file.write(b"rot")
    models.registry.cut_after, models.registry.ranges = None, True
    assert (await models.pull("a"))[-1] == {"status": "success"}
    assert has(models, "a")


async def test_what_is_rotten_at_one_node_comes_from_another(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    rotten = bytearray(BLOB)
    rotten[6 * MIB] ^= 1
    models.put("a", bytes(rotten), digest_of(BLOB))
    models.put("b", BLOB)
    assert (await models.pull("c"))[-1] == {"status": "success"}
    assert has(models, "c")
    assert models.registry.sent < MIB


async def test_where_all_that_nodes_have_is_rotten_the_origin_is_asked(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    rotten = bytearray(BLOB)
    rotten[6 * MIB] ^= 1
    models.put("a", bytes(rotten), digest_of(BLOB))
    assert (await models.pull("c"))[-1] == {"status": "success"}
    assert has(models, "c")


async def test_nothing_wrong_is_kept_when_the_origin_is_wrong(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.blobs[digest_of(BLOB)] = bytes(SIZE)
    records = await models.pull("a")
    assert "another digest" in records[-1]["error"]
    assert not models.blob("a", digest_of(BLOB)).exists()
    assert not models.manifest_path("a").exists()


async def test_a_model_that_only_a_node_has_comes_from_there(models: ModelsBed) -> None:
    from bridge_core.snapshot import Instance, MemberModel

    manifest = offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    models.registry.manifests.clear()
    models.registry.blobs.clear()
    listed = MemberModel(models.name(), digest_of(manifest)[7:])
    models.bed.publish(instance__a=Instance("a/0", "a", models=(listed,)))
    assert (await models.pull("b"))[-1] == {"status": "success"}
    assert has(models, "b")
    assert models.manifest_path("b").read_bytes() == manifest


async def test_a_manifest_that_is_not_the_one_that_the_mesh_means_is_not_taken(models: ModelsBed) -> None:
    from bridge_core.snapshot import Instance, MemberModel

    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    models.registry.manifests.clear()
    models.bed.publish(instance__a=Instance("a/0", "a", models=(MemberModel(models.name(), "0" * 64),)))
    assert (await models.pull("b"))[-1]["error"].endswith("pull model manifest: file does not exist")
    assert not models.manifest_path("b").exists()


async def test_a_full_disk_is_said_and_nothing_is_begun(tmp_path: Path) -> None:
    from bridge_agent.models.section import ModelsSection

    async with models_bed(tmp_path, "a", section=ModelsSection(reserve=1 << 49)) as models:
        offer(models.registry, "team/big:v1", BLOB)
        error = (await models.pull("a"))[-1]["error"]
        assert "are to stay free" in error
        assert "bridgectl models rm" in error
        assert models.registry.sent == 0


async def test_a_pull_at_all_nodes(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    answer = await models.bed["a"].ask(
        "POST", "/api/pull", {"model": models.name(), "insecure": True}, {"X-Bridge-Node": "all"}
    )
    lines = answer.body.splitlines()
    assert lines[-1] == b'{"status":"success"}', lines[-1]
    assert all(has(models, node) for node in "abc")
    assert models.registry.sent < 2 * SIZE


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("login", [True, False])
async def test_a_pull_at_all_nodes_that_takes_a_login_is_the_engines_at_each(
    models: ModelsBed, stream: bool, login: bool
) -> None:
    models.registry.wants_token = True
    models.registry.token = ""  # it gives none: it wants to know who asks
    body = {"model": models.name(), "insecure": True, "stream": stream}
    account = {"username": "me", "password": "word"} if login else {}
    answer = await models.bed["a"].ask("POST", "/api/pull", body | account, {"X-Bridge-Node": "all"})
    assert answer.status == 200
    for node in "abc":
        asked = [one.target for one in models.bed[node].engine.asked]
        assert asked.count(b"/api/pull") == 1, node


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (("sha256:" + "0" * 63 + "/", None), "has the digest"),
        (("../../etc/passwd", None), "has the digest"),
        ((None, -1), "has the size -1"),
        ((None, 1 << 60), "has the size"),
    ],
)
async def test_a_hostile_manifest_is_refused_by_name(
    models: ModelsBed, change: tuple[str | None, int | None], named: str
) -> None:
    import json

    manifest = json.loads(offer(models.registry, "team/big:v1", BLOB))
    digest, size = change
    layer = manifest["layers"][0]
    layer["digest"], layer["size"] = digest or layer["digest"], size if size is not None else layer["size"]
    models.registry.manifests["team/big:v1"] = json.dumps(manifest).encode()
    error = (await models.pull("a"))[-1]["error"]
    assert named in error
    assert "layer 1" in error
    assert models.registry.sent == 0
