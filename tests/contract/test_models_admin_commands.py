"""`bridgectl models pull|rm|verify` at running nodes, as admins of several roles."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.audit.rendering import audited
from bridge_agent.gateway.config import Outcome as Ended
from bridge_agent.models import page_cache
from bridge_agent.models.warm_rules import RESERVE, Warmable
from bridge_cli.access import Access
from bridge_cli.models_remote import Outcome, ask_nodes, copies_of
from bridge_core import model_answers
from bridge_core.clients import Admin
from bridge_core.errors import Fatal
from bridge_core.model_answers import ModelAsked
from bridge_core.names import ModelName, canonical
from bridge_core.snapshot import Backend, Instance, MemberModel, Node, Route
from tests.contract.gateway_bed import issue
from tests.contract.models_bed import MIB, ModelsBed, bytes_of, digest_of, models_bed, offer
from tests.support import eventually

BLOB = bytes_of(MIB)


@pytest.fixture
async def models(tmp_path: Path) -> AsyncIterator[ModelsBed]:
    async with models_bed(tmp_path, "a", "b") as bed:
        bed.bed.publish(
            admin__op=Admin("op", "operator"),
            admin__eye=Admin("eye", "viewer"),
            node__b=Node("b", f"127.0.0.1:{bed.bed['b'].peer.port}", labels={"gpu": "a100"}),
        )
        yield bed


async def ask(
    models: ModelsBed, path: str, asked: ModelAsked, *nodes: str, who: str = "op"
) -> tuple[list[Outcome], list[tuple[str, dict[str, Any]]]]:
    cert, key, ca = issue(models.folder, "admin", who)
    shown: list[tuple[str, dict[str, Any]]] = []
    outcomes = await ask_nodes(
        Access((), ca, cert, key),
        models.bed["a"].view.current,
        list(nodes),
        path=path,
        asked=asked,
        show=lambda node, record: shown.append((node, record)),
        in_turn=True,
    )
    return outcomes, shown


def lists(models: ModelsBed, node: str, manifest: bytes) -> None:
    """The node's engine has found the model."""
    model = MemberModel(models.name(), digest_of(manifest)[7:])
    local = models.bed[node].engine.instance(f"{node}/0")
    models.bed[node].view.publish_local((msgspec.structs.replace(local, models=(*local.models, model)),))
    models.bed.publish(**{f"instance__{node}": Instance(f"{node}/0", node, models=(model,))})


async def test_a_model_is_brought_to_nodes_by_label(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    (at_b,), shown = await ask(models, model_answers.PULL, ModelAsked(models.name(), True), "gpu=a100")
    assert (at_b.node, at_b.done, at_b.fault) == ("b", "pulled", "")
    assert shown[0] == ("b", {"status": "pulling manifest"})
    assert not models.manifest_path("a").exists()
    outcomes, _ = await ask(models, model_answers.PULL, ModelAsked(models.name(), True))
    assert [one.done for one in outcomes] == ["pulled", "pulled"]
    assert models.manifest_path("a").exists()
    records = models.bed["b"].gateway.records()
    assert (records[-1].path, records[-1].caller.who.name) == (model_answers.PULL, "op")
    # The listener knows the admin by more than a text; what is audited can be written down.
    entry = msgspec.json.decode(msgspec.json.encode(audited(records[-1], 1.0)))
    assert entry["principal"].endswith("/admin/op")


async def test_an_admin_who_leaves_is_on_record_from_when_it_was_asked(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    models.registry.sends.clear()
    node, desk = models.bed["a"], models.desks["a"]
    asked = asyncio.create_task(ask(models, model_answers.PULL, ModelAsked(models.name(), True), "a"))
    await eventually(lambda: desk.fetcher.under_way)
    asked.cancel()
    await eventually(node.gateway.records)
    models.registry.sends.set()
    (record,) = node.gateway.records()
    assert (record.path, record.outcome) == (model_answers.PULL, Ended.CANCELLED)
    assert record.began < record.ended


async def test_the_last_copy_stays_unless_it_is_said(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    for node in "ab":
        await models.pull(node)
        lists(models, node, manifest)
    (at_a,), _ = await ask(models, model_answers.RM, ModelAsked(models.name()), "a")
    assert "bytes are free again" in at_a.done
    assert not models.blob("a", digest_of(BLOB)).exists()
    models.bed.publish(instance__a=Instance("a/0", "a"))
    (at_b,), _ = await ask(models, model_answers.RM, ModelAsked(models.name()), "b")
    assert at_b.fault.endswith("it is the last copy")
    assert models.blob("b", digest_of(BLOB)).exists()
    (at_b,), _ = await ask(models, model_answers.RM, ModelAsked(models.name(), last_copy=True), "b")
    assert at_b.done
    assert not models.manifest_path("b").exists()
    (at_b,), _ = await ask(models, model_answers.RM, ModelAsked(models.name()), "b")
    assert "has no model" in at_b.fault


async def test_what_is_wrong_on_a_disk_is_named(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a", who="eye")
    assert (at_a.done, at_a.faults) == ("2 blobs read, 0 of them wrong", [])
    models.put("a", BLOB[:-1] + b"x", digest_of(BLOB))
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(models.name()), "a", who="eye")
    assert at_a.done == "2 blobs read, 1 of them wrong"
    assert at_a.faults[0].endswith("its bytes have another digest")
    models.blob("a", digest_of(BLOB)).unlink()
    (at_a,), _ = await ask(models, model_answers.VERIFY, ModelAsked(), "a", who="eye")
    assert at_a.faults[0].endswith("it is not there")


@pytest.mark.parametrize("path", [model_answers.PULL, model_answers.RM])
async def test_a_viewer_changes_nothing(models: ModelsBed, path: str) -> None:
    (at_a,), _ = await ask(models, path, ModelAsked(models.name()), "a", who="eye")
    assert at_a.fault == "this takes an admin of the role operator"


@pytest.mark.parametrize("path", [model_answers.PULL, model_answers.RM, model_answers.VERIFY])
async def test_a_node_is_no_admin(models: ModelsBed, path: str, tmp_path: Path) -> None:
    cert, key, ca = issue(tmp_path, "node", "b")
    (at_a,) = await ask_nodes(
        Access((), ca, cert, key),
        models.bed["a"].view.current,
        ["a"],
        path=path,
        asked=ModelAsked("x"),
        show=lambda *_: None,
    )
    assert "forwarded requests only" in at_a.fault


async def test_what_is_no_name_is_said(models: ModelsBed) -> None:
    for path in (model_answers.PULL, model_answers.VERIFY):
        (at_a,), _ = await ask(models, path, ModelAsked("../x y"), "a")
        assert "invalid model name" in at_a.fault


async def test_a_label_that_fits_no_node_is_named(models: ModelsBed) -> None:
    with pytest.raises(Fatal, match="'gpu=h100' fits no node"):
        await ask(models, model_answers.PULL, ModelAsked("x"), "gpu=h100")


async def test_where_a_model_is(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    lists(models, "a", manifest)
    (place,) = copies_of(models.bed["b"].view.current, models.name().upper().replace("V1", "v1"))
    assert json.loads(msgspec.json.encode(place))["instance"] == "a/0"
    assert place.meant
    assert not place.loaded


def cold(path: Path) -> None:
    """Has the kernel drop a file from its page cache."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


async def test_a_model_is_warmed_where_it_is_and_the_mesh_is_told(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    lists(models, "a", manifest)
    cold(models.blob("a", digest_of(BLOB)))
    desk, local = models.desks["a"], models.bed["a"].view.index.local[0].models
    (at_a,), shown = await ask(models, model_answers.WARM, ModelAsked(models.name()), "a")
    assert (at_a.done, at_a.fault) == ("warm", "")
    assert shown[-1] == ("a", {"status": "success"})
    assert all(record["total"] == MIB for _, record in shown[:-1])
    instance = msgspec.structs.replace(models.bed["a"].engine.instance("a/0"), models=local)
    desk.warming._instances = lambda: (instance,)
    (told,) = desk.warming.shown((instance,))
    assert told.warm == (models.name(),)
    (at_b,), _ = await ask(models, model_answers.WARM, ModelAsked(models.name()), "b")
    assert "has no model" in at_b.fault
    outcomes, _ = await ask(models, model_answers.WARM, ModelAsked(models.name()), "a", who="eye")
    assert "operator" in outcomes[0].fault


async def test_what_a_route_is_about_to_ask_for_is_warmed_by_itself(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    lists(models, "a", manifest)
    warming = models.desks["a"].warming
    path = models.blob("a", digest_of(BLOB))
    name = canonical(models.name())

    async def reads() -> int:
        """Bytes that looking once brought in."""
        read: list[int] = []
        through = warming._read_through

        def counted(model: Any, stopped: Any, told: Any) -> bool:
            return through(model, stopped, lambda at: (read.append(at), told(at)))

        warming._read_through = counted  # type: ignore[method-assign]
        await warming.look()
        warming._read_through = through  # type: ignore[method-assign]
        return len(read)

    cold(path)
    assert await reads() == 0  # nobody said anything of it
    models.bed.publish(route__chat=Route("chat", (Backend("old"), Backend(models.name(), 0, on_trial=True))))
    with path.open("rb") as file:
        share = page_cache.resident(file.fileno())
    if share is None or share > 0.5:
        pytest.skip("this kernel does not drop pages, or does not tell")
    assert await reads() == 1
    assert name in warming.warm
    assert await reads() == 0  # it is there


async def test_what_the_kernel_does_not_speak_of_is_not_read_all_the_time(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    lists(models, "a", manifest)
    models.bed.publish(route__chat=Route("chat", (Backend(models.name()),)))
    warming, clock, reads = models.desks["a"].warming, [1000.0], list[str]()
    warming._share = lambda _model: 0.0  # type: ignore[method-assign]  # as of another user's file
    warming._now = lambda: clock[0]

    def read(model: Warmable, _stopped: Any, _told: Any) -> bool:
        reads.append(model.name)
        return True

    warming._read_through = read  # type: ignore[method-assign]
    for after, so_often in ((0.0, 1), (15.0, 1), (584.0, 1), (1.0, 2), (15.0, 2)):
        clock[0] += after
        await warming.look()
        assert len(reads) == so_often


async def test_an_order_waits_for_the_one_before_it_and_ends_what_was_only_likely(models: ModelsBed) -> None:
    manifest = offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    lists(models, "a", manifest)
    models.bed.publish(route__chat=Route("chat", (Backend(models.name()),)))
    warming, readings = models.desks["a"].warming, list[threading.Event]()
    may_end = threading.Event()
    warming._share = lambda _model: 1.0 if may_end.is_set() else 0.0  # type: ignore[method-assign]

    def read(_model: Any, stopped: threading.Event, _told: Any) -> bool:
        readings.append(stopped)
        while not may_end.wait(0.01) and not stopped.is_set():
            pass
        return not stopped.is_set()

    warming._read_through = read  # type: ignore[method-assign]

    async def order() -> list[dict[str, Any]]:
        return [record async for record in warming.order(ModelName.parse(models.name()))]

    looking = asyncio.create_task(warming.look())
    await eventually(lambda: len(readings) == 1)
    first = asyncio.create_task(order())
    await eventually(lambda: len(readings) == 2)
    assert readings[0].is_set()
    second = asyncio.create_task(order())
    await eventually(lambda: len(warming._turn._waiters or ()) > 0)
    assert not readings[1].is_set()
    may_end.set()
    for records in await asyncio.gather(first, second):
        assert records == [{"status": "success"}]
    await looking
    assert len(readings) == 3


async def test_a_model_that_does_not_fit_is_refused_before_it_is_read(models: ModelsBed) -> None:
    offer(models.registry, "team/big:v1", BLOB)
    await models.pull("a")
    models.desks["a"].warming._room = lambda: RESERVE + MIB - 1
    (at_a,), shown = await ask(models, model_answers.WARM, ModelAsked(models.name()), "a")
    assert "are free for this agent" in at_a.fault
    assert shown == []
