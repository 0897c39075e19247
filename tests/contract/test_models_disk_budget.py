"""A disk budget: which models go for the next pull, and which never do."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from bridge_agent.models.claim_rules import in_order
from bridge_agent.models.section import ModelsSection
from bridge_core.names import canonical
from bridge_core.snapshot import Instance, MemberModel
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, models_bed, offer

OLD, NEW = bytes_of(MIB, 1), bytes_of(MIB, 2)
ROOM_FOR_ONE = ModelsSection(reserve=0, disk_budget=MIB + 1000)


def listed(models: ModelsBed, node: str, *manifests: tuple[str, bytes], loaded: tuple[str, ...] = ()) -> None:
    """What the node's engine has found, and has in memory."""
    found = tuple(MemberModel(models.name(name), digest_of(manifest)[7:]) for name, manifest in manifests)
    local = models.bed[node].engine.instance(f"{node}/0")
    local = msgspec.structs.replace(local, models=found, loaded=loaded)
    models.bed[node].view.publish_local((local,))
    models.bed.publish(**{f"instance__{node}": Instance(f"{node}/0", node, models=found)})


@contextlib.asynccontextmanager
async def full(folder: Path) -> AsyncIterator[tuple[ModelsBed, str, str]]:
    """Two nodes with one model, for another one of which there is no room; who keeps it, and who need not."""
    async with models_bed(folder, "a", "b", section=ROOM_FOR_ONE) as models:
        manifest = offer(models.registry, "team/big:v1", OLD)
        for node in "ab":
            await models.pull(node)
            listed(models, node, ("team/big:v1", manifest))
        offer(models.registry, "team/big:v2", NEW)
        keeper, other = in_order(digest_of(manifest)[7:], "ab")
        yield models, keeper, other


async def test_a_model_that_another_node_keeps_goes_for_the_next_pull(tmp_path: Path) -> None:
    async with full(tmp_path) as (models, _, other):
        records = await models.pull(other, models.name("team/big:v2"))
        assert records[-1] == {"status": "success"}
        assert not models.manifest_path(other).exists()
        assert not models.blob(other, digest_of(OLD)).exists()
        assert models.blob(other, digest_of(NEW)).exists()


async def test_of_two_nodes_without_room_one_keeps_the_model(tmp_path: Path) -> None:
    async with full(tmp_path) as (models, keeper, _):
        records = await models.pull(keeper, models.name("team/big:v2"))
        assert "do not fit" in records[-1]["error"]
        assert models.blob(keeper, digest_of(OLD)).exists()
        assert not models.blob(keeper, digest_of(NEW)).exists()


async def test_what_the_other_node_only_lists_is_no_copy(tmp_path: Path) -> None:
    async with full(tmp_path) as (models, keeper, other):
        models.blob(keeper, digest_of(OLD)).unlink()
        records = await models.pull(other, models.name("team/big:v2"))
        assert "do not fit" in records[-1]["error"]
        assert models.blob(other, digest_of(OLD)).exists()


async def test_no_two_nodes_remove_the_model_on_each_others_word(tmp_path: Path) -> None:
    async with models_bed(tmp_path, "a", "b", "c", section=ROOM_FOR_ONE) as models:
        manifest = offer(models.registry, "team/big:v1", OLD)
        for node in "abc":
            await models.pull(node)
            listed(models, node, ("team/big:v1", manifest))
        offer(models.registry, "team/big:v2", NEW)
        first, second, third = in_order(digest_of(manifest)[7:], "abc")
        models.blob(first, digest_of(OLD)).unlink()  # of which the lists do not tell yet
        records = await models.pull(second, models.name("team/big:v2"))
        assert "do not fit" in records[-1]["error"]
        assert (await models.pull(third, models.name("team/big:v2")))[-1] == {"status": "success"}
        assert models.blob(second, digest_of(OLD)).exists()
        assert not models.blob(third, digest_of(OLD)).exists()


async def test_what_is_in_memory_stays(tmp_path: Path) -> None:
    async with full(tmp_path) as (models, _, other):
        manifest = models.manifest_path(other).read_bytes()
        listed(models, other, ("team/big:v1", manifest), loaded=(models.name("team/big:v1"),))
        records = await models.pull(other, models.name("team/big:v2"))
        assert "do not fit" in records[-1]["error"]
        assert models.manifest_path(other).exists()


async def test_what_is_asked_for_while_others_are_asked_whether_they_have_it_stays(tmp_path: Path) -> None:
    async with full(tmp_path) as (models, _, other):
        removals = models.desks[other].removals
        have = removals._peers.have

        async def and_now_somebody_asks(node: str, hex_: str, **more: Any) -> Any:
            removals._running = lambda _model: 1
            return await have(node, hex_, **more)

        removals._peers.have = and_now_somebody_asks  # type: ignore[method-assign]
        records = await models.pull(other, models.name("team/big:v2"))
        assert "do not fit" in records[-1]["error"]
        assert models.manifest_path(other).exists()


async def test_what_was_asked_for_lately_goes_last(tmp_path: Path) -> None:
    section = msgspec.structs.replace(ROOM_FOR_ONE, disk_budget=2 * MIB + 2000)
    async with models_bed(tmp_path, "a", "b", "c", section=section) as models:
        known = []
        for number, tag in enumerate(("v1", "v2")):
            name = f"team/big:{tag}"
            known.append((name, offer(models.registry, name, bytes_of(MIB, number))))
            for node in "abc":
                await models.pull(node, models.name(name))
        for node in "abc":
            listed(models, node, *known)
        keepers = {in_order(digest_of(manifest)[7:], "abc")[0] for _, manifest in known}
        node = next(one for one in "abc" if one not in keepers)
        models.desks[node].removals.asked(canonical(models.name("team/big:v1")))
        offer(models.registry, "team/big:v3", bytes_of(MIB, 7))
        assert (await models.pull(node, models.name("team/big:v3")))[-1] == {"status": "success"}
        assert models.manifest_path(node, tag="v1").exists()
        assert not models.manifest_path(node, tag="v2").exists()


async def test_without_a_budget_nothing_is_removed(tmp_path: Path) -> None:
    async with models_bed(tmp_path, "a", section=ModelsSection(reserve=0)) as models:
        offer(models.registry, "team/big:v1", OLD)
        await models.pull("a")
        await models.desks["a"].removals.make_room(1 << 50)
        assert models.manifest_path("a").exists()
