"""A mesh of gateways with policies, and callers with certificates at a TLS listener of each node."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import msgspec

from bridge_agent.gateway.config import ListenerKind
from bridge_core.clients import Admin, Client
from bridge_core.http1 import Pool, Server, serve
from bridge_core.policy.statements import AccessPolicy, Action, Condition, Resource, Subject
from bridge_core.security_settings import SecuritySettings
from bridge_core.snapshot import MeshConfig, encode_entry
from bridge_core.tls import client_context, peer_identity
from tests.contract.gateway_bed import DOMAIN, TRUST, Answer, Bed, issue, mesh
from tests.fakes.recorded_engine import RecordedEngine

CLIENTS = (
    Client("ann", ("finance-analysts",), {"department": "finance"}),
    Client("bob", ("finance-analysts",), {"department": "sales"}),
    Client("eve"),
)


def policy(
    name: str,
    who: str,
    actions: tuple[Action, ...],
    *names: str,
    kind: str = "Model",
    conditions: tuple[Condition, ...] = (),
    **more: Any,
) -> AccessPolicy:
    """`who` as "User/ann"."""
    its, _, named = who.partition("/")
    resource = Resource((kind,), names or ("*",))  # type: ignore[arg-type]  # one of the kinds
    return AccessPolicy(name, (Subject(its, named),), (resource,), actions, conditions, **more)  # type: ignore[arg-type]


class PolicyBed:
    """The mesh, and who calls it."""

    def __init__(self, bed: Bed, folder: Path) -> None:
        self.bed = bed
        self._folder = folder
        self._servers: dict[str, Server] = {}
        self._pools: dict[tuple[str, str], Pool] = {}

    async def open(self) -> None:
        """Has every node listen for clients with certificates."""
        for name, node in self.bed.nodes.items():
            self._servers[name] = await serve(
                node.gateway.http_app(ListenerKind.TLS),
                name="tls",
                ssl=node.tls.server(require_client=False),
                identify=peer_identity,
                error_body=node.gateway.error_body,
                stream_body=node.gateway.unread(ListenerKind.TLS),
            )

    async def close(self) -> None:
        for pool in self._pools.values():
            await pool.close()
        for server in self._servers.values():
            await server.close()

    def put(self, *policies: AccessPolicy, security: SecuritySettings | None = None) -> None:
        """Puts these policies in force, and no others."""
        entries = self.bed.entries
        for key in [key for key in entries if key.startswith("policy/")]:
            del entries[key]
        entries.update({f"client/{one.name}": encode_entry(one) for one in CLIENTS})
        entries["admin/root"] = encode_entry(Admin("root", "operator"))
        if security is not None:
            entries["mesh"] = encode_entry(MeshConfig(trust_domain=DOMAIN, trust=TRUST, security=security))
        self.bed.publish(**{f"policy__{one.name}": one for one in policies})

    async def ask(
        self,
        who: str,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        *,
        node: str = "a",
    ) -> Answer:
        """As `local`, "client/ann", "admin/root", …"""
        if who == "local":
            return await self.bed[node].ask(method, path, body, headers)
        data = msgspec.json.encode(body) if isinstance(body, (dict, list)) else body
        pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        async with self._pool(node, who).request(method, path, pairs, data) as response:
            return Answer(response.status, response.headers, await response.read())

    def _pool(self, node: str, who: str) -> Pool:
        pool = self._pools.get((node, who))
        if pool is None:
            kind, _, name = who.partition("/")
            folder = self._folder / who.replace("/", "-")
            folder.mkdir(exist_ok=True)
            context = client_context(*issue(folder, kind, name))
            pool = self._pools[node, who] = Pool(("127.0.0.1", self._servers[node].port), ssl=context)
        return pool

    def engine(self, node: str) -> RecordedEngine:
        return self.bed[node].engine


@contextlib.asynccontextmanager
async def policy_mesh(
    folder: Path, engines: dict[str, RecordedEngine], *policies: AccessPolicy, **config: Any
) -> AsyncIterator[PolicyBed]:
    """A running mesh with these policies."""
    async with mesh(folder, engines, **config) as bed:
        made = PolicyBed(bed, folder)
        await made.open()
        made.put(*policies)
        try:
            yield made
        finally:
            await made.close()
