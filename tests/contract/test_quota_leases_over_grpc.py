"""Agents that share a quota through a real registry, over gRPC: leases, usage, and what becomes of both."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

from bridge_agent.config import StateDir
from bridge_agent.membership.registry_client import RegistryClient
from bridge_agent.quotas.leasing import QuotaLeasing
from bridge_agent.quotas.meter import Meter, OverQuota, Ticket
from bridge_agent.routing.view import MeshView
from bridge_core import keyspace
from bridge_core.identity.principal import Principal
from bridge_core.registry_channel import open_channel
from bridge_core.store.api import Store
from bridge_wire.v1 import quota_pb2 as pb
from bridge_wire.v1 import registry_pb2 as admin_pb
from bridge_wire.v1.quota_pb2_grpc import QuotaAdminStub
from tests.contract.store.beds import store_clients
from tests.fakes.store import FakeEtcd, FakeStore
from tests.registry_bed import Bed, Node, leading, make_settings, running
from tests.support import eventually

WHO = Principal("client", "ann", "spiffe://bridge.local/client/ann", ("staff",))
MODEL = "registry.ollama.ai/library/m:latest"
QUOTA = """
apiVersion: bridge.deepseek.io/v1
kind: Quota
metadata: {{name: q}}
spec: {{window: 24h, requests: {requests}}}
"""


class Agent:
    """A node's meter, fed with the registry's snapshot, and its leases."""

    def __init__(self, bed: Bed, node: Node, folder: Path) -> None:
        self.bed, self.node = bed, node
        state = StateDir(folder)
        folder.mkdir(exist_ok=True)
        state.ca.parent.mkdir(parents=True, exist_ok=True)
        state.ca.write_bytes(bed.ca_pem)
        state.key.write_bytes(node.key_pem)
        state.certificate.write_bytes(node.cert_pem)
        self.state = state
        self.view = MeshView(node.name)
        self.meter = Meter(node.name, self.view)
        self.leasing = QuotaLeasing([RegistryClient(bed.address, state)], self.meter, random.Random(1))

    def lease_from(self, *beds: Bed) -> None:
        """Leases from whichever of these leads."""
        registries = [RegistryClient(bed.address, self.state) for bed in beds]
        self.leasing = QuotaLeasing(registries, self.meter, random.Random(1))

    def sees(self, bed: Bed | None = None) -> None:
        self.view.publish((bed or self.bed).registry.publisher.hub.current)

    def ask(self) -> bool:
        """One request, begun and over; False: it was refused."""
        ticket = self.meter.admit(WHO, "/api/chat", MODEL, {})
        if isinstance(ticket, OverQuota):
            return False
        self.finish(ticket)
        return True

    def begin(self) -> Ticket:
        ticket = self.meter.admit(WHO, "/api/chat", MODEL, {})
        assert isinstance(ticket, Ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        ticket.answer.whole(b'{"done":true,"prompt_eval_count":7,"eval_count":3}')
        self.meter.settle(ticket, 200, begun=True)


async def apply(bed: Bed, text: str) -> None:
    async with bed.admin() as admin:
        applied = await admin.Apply(
            admin_pb.ApplyRequest(files=[admin_pb.ConfigFile(name="q.yaml", text=text)])
        )
        assert not applied.faults
    await eventually(lambda: bed.registry.publisher.hub.current.quotas)


@contextlib.asynccontextmanager
async def leased(*agents: Agent) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(agent.leasing.run()) for agent in agents]
        try:
            await eventually(lambda: all(agent.leasing.leased for agent in agents))
            yield
        finally:
            for task in tasks:
                task.cancel()


async def agents_of(bed: Bed, folder: Path, *names: str) -> list[Agent]:
    made = [Agent(bed, await bed.join(name), folder / name) for name in names]
    await eventually(lambda: set(names) <= set(bed.registry.publisher.hub.current.nodes))
    for agent in made:
        agent.sees()
    return made


@contextlib.asynccontextmanager
async def quota_admin(bed: Bed) -> AsyncIterator[Any]:
    cert, key = bed._admin
    async with open_channel(bed.address, bed.ca_pem, cert_pem=cert, key_pem=key) as channel:
        yield QuotaAdminStub(channel)


def today() -> int:
    return int(time.time()) // 86_400


async def usage(bed: Bed, **asked: Any) -> list[Any]:
    async with quota_admin(bed) as admin:
        request = pb.UsageRequest(from_day=today() - 1, to_day=today() + 1, **asked)
        return list((await admin.Usage(request)).uses)


async def requests_used(bed: Bed) -> int:
    return sum(one.requests for one in await usage(bed))


async def test_one_node_gets_what_the_others_do_not_need_and_never_more_than_the_quota(
    tmp_path: Path,
) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        await apply(bed, QUOTA.format(requests=20))
        a, b, c = await agents_of(bed, tmp_path, "a", "b", "c")
        async with leased(a, b, c):
            done = 0

            async def all_of_it() -> bool:
                nonlocal done
                while a.ask():
                    done += 1
                return done >= 20

            await eventually(all_of_it, 30)
            assert done == 20
            assert not any(agent.ask() for agent in (a, b, c))
            async with quota_admin(bed) as admin:

                async def told() -> bool:
                    (bucket,) = (await admin.Use(pb.QuotaUseRequest())).buckets
                    return (bucket.used, bucket.amount, bucket.nodes) == (20, 20, 1)

                await eventually(told)


async def test_all_at_once_they_share_it_and_none_is_lost(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        await apply(bed, QUOTA.format(requests=30))
        agents = await agents_of(bed, tmp_path, "a", "b", "c")
        done = 0
        async with leased(*agents):

            async def all_of_it() -> bool:
                nonlocal done
                done += sum(agent.ask() for agent in agents)
                assert done <= 30
                return done == 30

            await eventually(all_of_it, 30)
            assert not any(agent.ask() for agent in agents)


async def test_without_a_registry_each_node_has_its_equal_share(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        await apply(bed, QUOTA.format(requests=20))
        agents = await agents_of(bed, tmp_path, "a", "b", "c")
    done = [sum(agent.ask() for _ in range(30)) for agent in agents]
    assert done == [7, 7, 6]


async def test_usage_is_told_once_however_often_it_is_reported(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        a, b = await agents_of(bed, tmp_path, "a", "b")
        for _ in range(3):
            assert a.ask()
        assert b.ask()
        for _ in range(2):  # each stream tells everything anew
            async with leased(a, b):
                await eventually(lambda: _equals(requests_used(bed), 4))
        (one,) = await usage(bed, principal="ann")
        assert (one.requests, one.prompt_tokens, one.output_tokens) == (4, 28, 12)
        assert list(one.groups) == ["staff"]
        assert one.day == today()
        assert len(await usage(bed, group="staff", model=MODEL)) == 1
        assert not await usage(bed, group="other")


async def _equals(found: Any, value: int) -> bool:
    with contextlib.suppress(grpc.aio.AioRpcError):  # which does not lead yet
        return bool(await found == value)
    return False


@pytest.fixture(params=["fake", "etcd"])
async def client_of(request: Any, tmp_path: Path) -> AsyncIterator[Callable[[], Store]]:
    """Makes clients of one store: of one in memory, and of a real etcd."""
    async with store_clients(request.param, tmp_path / "etcd") as clients:
        yield clients


async def test_usage_outlives_the_registry_and_counts_an_agent_that_began_anew_besides(
    tmp_path: Path, client_of: Callable[[], Store]
) -> None:
    store = client_of()
    async with running(make_settings(tmp_path / "r"), store) as bed:
        await bed.leads()
        (a,) = await agents_of(bed, tmp_path, "a")
        a.ask()
        async with leased(a):
            await eventually(lambda: _equals(requests_used(bed), 1))

            async def stored() -> bool:
                return bool((await store.list(keyspace.USAGE)).items)

            await eventually(stored)
    async with running(make_settings(tmp_path / "r"), store) as bed:
        await bed.leads()
        await eventually(lambda: _equals(requests_used(bed), 1))
        again = Agent(bed, a.node, tmp_path / "a")
        again.leasing._began += 1_000  # another run of the same agent
        again.sees()
        again.ask()
        async with leased(again):
            await eventually(lambda: _equals(requests_used(bed), 2))
    await store.close()


async def test_a_registry_that_takes_over_lends_on_and_never_more(tmp_path: Path) -> None:
    etcd = FakeEtcd()
    stores = FakeStore(etcd), FakeStore(etcd)
    done = 0
    async with contextlib.AsyncExitStack() as first_ends, contextlib.AsyncExitStack() as second_ends:
        first = await first_ends.enter_async_context(running(make_settings(tmp_path / "r"), stores[0]))
        await first.leads()
        shutil.copytree(tmp_path / "r" / "pki", tmp_path / "r2" / "pki")
        second = await second_ends.enter_async_context(
            running(make_settings(tmp_path / "r2", "r2"), stores[1])
        )
        await apply(first, QUOTA.format(requests=60))
        agents = await agents_of(first, tmp_path, "a", "b", "c")
        for agent in agents:
            agent.lease_from(first, second)
        async with leased(*agents):
            a, b, _ = agents

            async def some(agent: Agent, most: int) -> bool:
                nonlocal done
                while done < most and agent.ask():
                    done += 1
                return done >= most

            await eventually(lambda: some(a, 35), 30)  # more than its share: it was lent
            await first_ends.aclose()
            await second.leads()
            await eventually(lambda: some(b, 60), 40)
            assert done == 60
            assert not any(agent.ask() for agent in agents)
    for store in stores:
        await store.close()


async def test_only_nodes_lease_and_only_admins_ask(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        (a,) = await agents_of(bed, tmp_path, "a")
        async with open_channel(
            bed.address, bed.ca_pem, cert_pem=a.node.cert_pem, key_pem=a.node.key_pem
        ) as channel:
            with pytest.raises(Exception, match="this call is for the kind admin"):
                await QuotaAdminStub(channel).Usage(pb.UsageRequest())


def bridgectl(bed: Bed, *argv: str) -> subprocess.CompletedProcess[str]:
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    where = ["--registry", bed.address, "--ca", str(pki.ca), "--cert", str(cert), "--key", str(key)]
    program = Path(sys.executable).with_name("bridgectl")
    return subprocess.run([program, *argv, *where], capture_output=True, text=True, check=False, timeout=60)


async def test_the_commands_show_what_is_used_and_what_was(tmp_path: Path) -> None:
    async with leading(tmp_path / "r", FakeEtcd()) as bed:
        await apply(bed, QUOTA.format(requests="6, outputTokens: 900"))
        (a,) = await agents_of(bed, tmp_path, "a")
        untouched = await asyncio.to_thread(bridgectl, bed, "quota", "list")
        assert [line.split()[:6] for line in untouched.stdout.splitlines()[1:]] == [
            ["q", "-", "requests", "0", "6"],
            ["q", "-", "output", "tokens", "0", "900"],
        ]
        assert a.ask()
        async with leased(a):
            await eventually(lambda: _equals(requests_used(bed), 1))
            listed = await asyncio.to_thread(bridgectl, bed, "quota", "list", "--json")
            found = {one["resource"]: one for one in json.loads(listed.stdout)}
            assert (found["requests"]["used"], found["requests"]["limit"]) == (1, 6)
            assert (found["output_tokens"]["used"], found["output_tokens"]["nodes"]) == (3, 1)
            shown = (await asyncio.to_thread(bridgectl, bed, "usage", "--client", "ann")).stdout
            assert shown.splitlines()[1].split()[1:] == ["ann", "m:latest", "1", "0", "7", "3"]
            as_json = await asyncio.to_thread(bridgectl, bed, "usage", "--group", "staff", "--json")
            (one,) = json.loads(as_json.stdout)
            assert (one["principal"], one["model"], one["groups"]) == (WHO.text, "m:latest", ["staff"])
            nobody = await asyncio.to_thread(bridgectl, bed, "usage", "--client", "bob")
            assert nobody.returncode == 0
            assert "Nothing was counted" in nobody.stderr
