"""The mesh as a registry paints it: what admins are shown, and what happened."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import grpc
import msgspec
import pytest
from typer.testing import CliRunner

from bridge_cli.access import Access
from bridge_cli.main import app
from bridge_cli.watch_commands import _events
from bridge_core.mesh_picture import MeshPicture
from bridge_core.snapshot import MemberModel
from bridge_wire.v1 import console_pb2 as pb
from bridge_wire.v1 import registry_pb2 as registry_pb
from bridge_wire.v1.console_pb2_grpc import ConsoleStub
from tests.fakes.store import FakeEtcd, FakeStore
from tests.ports import free_port
from tests.registry_bed import Bed, make_settings, refused, running
from tests.support import eventually

TINY = "registry.ollama.ai/library/tiny:latest"


async def looked(bed: Bed) -> MeshPicture:
    bed.registry.feed.look()
    cert, key = (path.read_bytes() for path in bed.registry.settings.pki.pair("admin"))
    async with bed.called_by(cert, key) as channel:
        answer = await ConsoleStub(channel).Look(pb.LookRequest())
    return msgspec.json.decode(answer.picture, type=MeshPicture)


async def test_a_picture_has_what_nodes_are_and_what_they_report(bed: Bed, etcd: FakeEtcd) -> None:
    node, store = await bed.join("n1"), FakeStore(etcd)
    await node.register(store, models=(MemberModel(TINY, "sha256:" + "0" * 64, 1),), slots=4, loaded=(TINY,))
    await eventually(lambda: "n1/0" in bed.registry.publisher.hub.current.instances)
    began = int(time.time() * 1000) + 60_000  # after the registry
    report = registry_pb.LoadReport(
        began_unix_ms=began,
        in_flight=3,
        instances=[
            registry_pb.InstanceLoad(instance="n1/0", in_flight=3, queued=2, slots=4),
            registry_pb.InstanceLoad(instance="n2/0", in_flight=9),
        ],
        models=[
            pb.ModelLoad(model=TINY, requests=60, errors=6, ttft_buckets=[0] * 20 + [54], tokens=600),
            pb.ModelLoad(model="made-up", requests=6),
        ],
    )
    async with node.mesh() as mesh:
        call = mesh.ReportLoad()
        await call.write(report)
        await eventually(lambda: bed.registry.feed.look().nodes[0].in_flight == 3)
        picture = await looked(bed)
        call.cancel()
    (seen,) = picture.nodes
    (engine,) = seen.instances
    assert (seen.name, seen.state, seen.in_flight, seen.requests_per_s) == ("n1", "serving", 3, 1.1)
    assert (engine.in_flight, engine.queued, engine.slots, engine.loaded) == (3, 2, 4, ("tiny:latest",))
    models = {one.name: one for one in picture.models}
    assert models.keys() == {"tiny:latest", "(other)"}
    tiny = models["tiny:latest"]
    assert (tiny.instances, tiny.loaded, tiny.requests_per_s, tiny.errors_per_s) == (1, 1, 1.0, 0.1)
    assert tiny.tokens_per_s == 10.0
    assert 0.05 < tiny.ttft_p50 < 0.2
    assert (picture.registry.leads, picture.registry.leader) == (True, "r1")


async def test_events_are_told_of_the_past_and_then_as_they_come(bed: Bed) -> None:
    await bed.join("n1")
    await eventually(lambda: any(one.kind == "node_joined" for one in bed.registry.feed.events))
    cert, key = (path.read_bytes() for path in bed.registry.settings.pki.pair("admin"))
    async with bed.called_by(cert, key) as channel:
        console = ConsoleStub(channel)
        past = [one async for one in console.WatchEvents(pb.WatchEventsRequest())]
        assert [one.subject for one in past if one.kind == "node_joined"] == ["node/n1"]
        call = console.WatchEvents(pb.WatchEventsRequest(after=past[-1].id, follow=True))
        async with bed.admin() as admin:
            await admin.Drain(registry_pb.DrainRequest(node_name="n1", drained=True))
        async with asyncio.timeout(30):
            told = await call.read()
            while told.kind != "node_drained":  # the registry has concerns of its own here
                told = await call.read()
        call.cancel()
    assert told.subject == "node/n1"
    assert told.id > past[-1].id


async def test_it_is_for_admins(bed: Bed) -> None:
    node = await bed.join("n1")
    async with bed.called_by(node.cert_pem, node.key_pem) as channel:
        code, _ = await refused(ConsoleStub(channel).Look(pb.LookRequest()))
        assert code is grpc.StatusCode.PERMISSION_DENIED
        code, _ = await refused(ConsoleStub(channel).WatchEvents(pb.WatchEventsRequest()).read())
        assert code is grpc.StatusCode.PERMISSION_DENIED


async def test_the_commands_show_both(bed: Bed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRIDGE_CONTEXT", str(tmp_path / "none/context.json"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    await bed.join("n1")
    await eventually(lambda: any(one.kind == "node_joined" for one in bed.registry.feed.events))
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    where = ["--registry", bed.address, "--ca", str(pki.ca), "--cert", str(cert), "--key", str(key)]

    async def bridgectl(*argv: str) -> str:
        ended = await asyncio.to_thread(CliRunner().invoke, app, [*argv, *where])
        assert ended.exit_code == 0, ended.output
        return ended.stdout

    assert "n1" in await bridgectl("top")
    assert msgspec.json.decode(await bridgectl("top", "--json"), type=MeshPicture).nodes[0].name == "n1"
    assert "n1 joined at 127.0.0.1:11445" in await bridgectl("events")
    assert await bridgectl("events", "--last", "0") == ""
    for more in ((), ("--json",)):
        ended = await asyncio.to_thread(CliRunner().invoke, app, ["health", "n9", *more, *where])
        assert ended.exit_code == 1
        assert "nothing is known of the health of 'n9'" in ended.stderr
    lines = (await bridgectl("events", "--json")).splitlines()
    assert {msgspec.json.decode(line)["kind"] for line in lines} >= {"node_joined"}


async def test_who_follows_events_asks_a_registry_again_and_is_told_nothing_twice(
    tmp_path: Path, etcd: FakeEtcd, capsys: pytest.CaptureFixture[str]
) -> None:
    def joined(name: str) -> int:
        said.append(capsys.readouterr().out)
        return "".join(said).count(f"{name} joined at")

    said: list[str] = []
    settings, store = make_settings(tmp_path), FakeStore(etcd)
    settings = msgspec.structs.replace(settings, grpc=("127.0.0.1", free_port()))  # it comes back there
    async with running(settings, store) as bed:
        await bed.leads()
        cert, key = settings.pki.pair("admin")
        to = Access((bed.address,), settings.pki.ca, cert, key)
        following = asyncio.create_task(_events(to, follow=True, last=99, as_json=False))
        await bed.join("n1")
        await eventually(lambda: following.done() or joined("n1"))
    async with running(settings, store) as bed:
        await bed.leads()
        await bed.join("n2")
        await eventually(lambda: following.done() or joined("n2"), 30)
    await store.close()
    assert not following.done(), following.exception()
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)
    lines = "".join(said).splitlines()
    assert len(lines) == len(set(lines))
    assert (joined("n1"), joined("n2")) == (1, 1)
