"""A real registry in this process over the fake store, and state folders of nodes that join it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import psutil

from bridge_agent.config import Listeners, StateDir, load_config
from bridge_agent.engines.config import EngineConfig
from bridge_agent.membership.identity_files import write_identity
from bridge_agent.membership.join import JoinPlan
from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import generate_key, issue, key_from_pem, key_to_pem, to_pem
from bridge_core.registry_channel import open_channel
from bridge_registry.app import Registry
from bridge_registry.enrolment.pki_files import open_authority
from bridge_registry.enrolment.store_access import OpenAccess
from bridge_registry.options import RegistryOptions
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import AdminStub
from tests.fakes.store import FakeEtcd, FakeStore
from tests.support import eventually

DAY = 86_400.0
ANY_PORT = Listeners(
    http="127.0.0.1:0", https="127.0.0.1:0", grpc="127.0.0.1:0", peer="127.0.0.1:0", admin="127.0.0.1:0"
)


class EnrolmentBed:
    """A running registry."""

    def __init__(self, folder: Path, etcd: FakeEtcd, registry: Registry) -> None:
        self.folder = folder
        self.etcd = etcd
        self.registry = registry

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.registry.grpc_port}"

    async def token(self, *, ttl_s: int = 600, uses: int = 1, node: str = "") -> str:
        pki = self.registry.settings.pki
        cert, key = pki.pair("admin")
        async with open_channel(
            self.address, pki.ca.read_bytes(), cert_pem=cert.read_bytes(), key_pem=key.read_bytes()
        ) as channel:
            request = pb.CreateTokenRequest(ttl_seconds=ttl_s, uses=uses, node_name=node)
            return (await AdminStub(channel).CreateToken(request, timeout=60)).token

    def state(self, name: str) -> StateDir:
        return StateDir(self.folder / name)

    def plan(self, token: str, name: str = "node1", **changes: object) -> JoinPlan:
        values = {
            "registries": (self.address,),
            "token": token,
            "name": name,
            "listeners": ANY_PORT,
            "engines": (EngineConfig(index=0, kind="ollama", attach="http://127.0.0.1:9"),),
        }
        return JoinPlan(**(values | changes))

    def node_record(self, name: str) -> dict[str, object] | None:
        item = self.etcd.items.get(f"/bridge/v1/nodes/{name}")
        return None if item is None else json.loads(item.value)


@contextlib.asynccontextmanager
async def open_enrolment_bed(folder: Path, trust_domain: str = "bed.local") -> AsyncIterator[EnrolmentBed]:
    settings = RegistryOptions(
        state_dir=folder / "registry",
        name="registry1",
        grpc=("127.0.0.1", 0),
        admin=("127.0.0.1", 0),
        etcd=("https://etcd.example:2379",),
        guards=("https://127.0.0.1:1",),
        trust_domain=trust_domain,
    )
    ensured = settings.ensure_pki()
    etcd = FakeEtcd()
    store = FakeStore(etcd)
    registry = Registry(settings, store, OpenAccess(), ensured)
    serving = asyncio.create_task(registry.serve())
    try:
        bed = EnrolmentBed(folder, etcd, registry)
        await asyncio.wait(
            {serving, asyncio.create_task(registry.started.wait())}, return_when="FIRST_COMPLETED"
        )
        await eventually(lambda: registry._standing().leader and registry.publisher.ready)
        yield bed
    finally:
        registry.stop()
        await asyncio.gather(serving, return_exceptions=True)
        await store.close()
        # TLS connections end some turns of the loop after the registry did.
        await eventually(lambda: not _open_at(registry.grpc_port))


def _open_at(port: int) -> list[object]:
    """This process's connections at the registry's end."""
    return [link for link in psutil.Process().net_connections("tcp") if link.laddr.port == port]


def age(bed: EnrolmentBed, state: StateDir, by_s: float, *, own_key: bool = False) -> None:
    """Gives the node a certificate of its mesh that is so much older, of its own key or of another."""
    pki = bed.registry.settings.pki
    key = key_from_pem(state.key.read_bytes()) if own_key else generate_key()
    authority = open_authority(pki)
    identity = SpiffeId.make("bed.local", "node", load_config(state).name)
    leaf = issue(authority, key.public_key(), identity, now=time.time() - by_s, ttl_s=DAY)
    chain = to_pem(leaf) + authority.chain
    write_identity(
        state.identity,
        key=key_to_pem(key),
        certificate_chain=chain,
        trust_bundle=pki.ca.read_bytes(),
        issuers=pki.issuers.read_bytes(),
    )


async def revoke(bed: EnrolmentBed, name: str) -> None:
    pki = bed.registry.settings.pki
    cert, key = pki.pair("admin")
    pem = {"cert_pem": cert.read_bytes(), "key_pem": key.read_bytes()}
    async with open_channel(bed.address, pki.ca.read_bytes(), **pem) as channel:
        await AdminStub(channel).Revoke(pb.RevokeRequest(node_name=name), timeout=60)
    await eventually(lambda: bed.registry.publisher.table.revoked)
