"""A mesh of gateways in one process: recorded engines, real sockets, mutual TLS between nodes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.gateway.config import GatewayConfig, ListenerKind
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.peers.hop import VARYING
from bridge_agent.peers.upstreams import CONNECT_S, Upstreams
from bridge_agent.quotas.meter import Meter
from bridge_agent.routing.pulse_rules import PulsePolicy
from bridge_agent.routing.view import MeshView
from bridge_agent.tracing.context_rules import FIELDS as TRACE_FIELDS
from bridge_agent.tracing.tracer import Tracer
from bridge_core.clients import ApiKey, Client
from bridge_core.http1 import Headers, Pool, PoolLimits, Server, serve
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x
from bridge_core.identity.api_keys import PEPPER, RANDOM_BYTES, Pepper, id_of, mint
from bridge_core.policy.statements import AccessPolicy, Resource, Subject
from bridge_core.security_settings import Trust
from bridge_core.snapshot import (
    Entry,
    Instance,
    MeshConfig,
    Node,
    RoutePolicy,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_core.tls import TlsIdentity, client_context, peer_identity
from tests.fakes.recorded_engine import RecordedEngine

DOMAIN = "bed.local"
AUTHORITY = x.create_authority(DOMAIN, now=time.time(), ttl_s=86_400)
TRUST = Trust(issuers=(AUTHORITY.pem.decode(),))

# On a busy machine a node of the bed answers late; only tests about silence take that for one.
PATIENCE_S = 60.0
PATIENT = PulsePolicy(silent_s=PATIENCE_S, cut_s=2 * PATIENCE_S)
SECRET = bytes(range(32))
"""The mesh's pepper."""
# What a node's own programs change at other nodes takes a policy; most tests are about something else.
NEIGHBOURS = AccessPolicy(
    "neighbours",
    (Subject("Node", "*"),),
    (Resource(("Node",), ("*",)),),
    ("pull", "push", "create", "copy", "delete"),
)


def api_key(name: str) -> str:
    """The key of a client of this name."""
    return mint(name.encode().ljust(RANDOM_BYTES, b"."))


def client_of(name: str, **more: Any) -> Client:
    """A client that has that key."""
    raw = api_key(name).encode()
    return Client(name, keys=(ApiKey(id_of(raw).decode(), Pepper(SECRET).hash(raw).hex()),), **more)


def issue(folder: Path, kind: str, name: str, authority: x.Authority = AUTHORITY) -> tuple[Path, Path, Path]:
    key = x.generate_key()
    leaf = x.issue(
        authority,
        key.public_key(),
        SpiffeId(DOMAIN, kind, name),
        now=time.time(),
        ttl_s=3600,
        addresses=("127.0.0.1",),
    )
    paths = (folder / f"{name}.pem", folder / f"{name}.key", folder / "ca.pem")
    paths[0].write_bytes(x.to_pem(leaf) + authority.pem)
    paths[1].write_bytes(x.key_to_pem(key))
    paths[1].chmod(0o600)
    paths[2].write_bytes(AUTHORITY.pem)
    return paths


@dataclass
class Answer:
    status: int
    headers: Headers
    body: bytes
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class BedNode:
    """One node: its engine, gateway and listeners."""

    name: str
    engine: RecordedEngine
    view: MeshView
    upstreams: Upstreams
    gateway: Gateway
    local: Server
    peer: Server
    tls: TlsIdentity
    pool: Pool

    async def ask(
        self, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
    ) -> Answer:
        """A request to the local listener; a dict is sent as JSON."""
        data = json.dumps(body).encode() if isinstance(body, (dict, list)) else body
        pairs = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
        async with self.pool.request(method, path, pairs, data) as response:
            return Answer(response.status, response.headers, await response.read())

    @contextlib.asynccontextmanager
    async def https(self) -> AsyncIterator[Server]:
        """The listener for clients with a certificate or a key."""
        server = await serve(
            self.gateway.http_app(ListenerKind.TLS),
            name="https",
            ssl=self.tls.server(require_client=False),
            identify=peer_identity,
            error_body=self.gateway.error_body,
            stream_body=self.gateway.unread(ListenerKind.TLS),
        )
        try:
            yield server
        finally:
            await server.close()

    async def infer(
        self, path: str = "/api/chat", *, headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        body = {"model": "smollm2:135m", "messages": [{"role": "user", "content": "hi"}], **fields}
        return await self.ask("POST", path, body, headers)


class Clock:
    """Time that passes when a test says so: on a machine that stalls, what lapses does it any moment."""

    def __init__(self) -> None:
        self.now = time.monotonic()

    def __call__(self) -> float:
        return self.now

    def passes(self, seconds: float = 0.1) -> None:
        self.now += seconds


class Bed:
    """The nodes, and the snapshot they share."""

    def __init__(self) -> None:
        self.nodes: dict[str, BedNode] = {}
        self.entries: dict[str, bytes] = {
            "mesh": encode_entry(MeshConfig(trust_domain=DOMAIN, trust=TRUST)),
            "client/alice": encode_entry(Client("alice")),
            "policy/neighbours": encode_entry(NEIGHBOURS),
        }
        self.secrets = MeshSecrets()
        self.secrets.take({PEPPER: SECRET})
        self._revision = 0

    def __getitem__(self, name: str) -> BedNode:
        return self.nodes[name]

    def publish(self, **changes: Entry | None) -> None:
        """Puts a new snapshot in force everywhere; keys as `node__a`, `instance__a`, `route__x`."""
        for key, value in changes.items():
            kind, _, name = key.partition("__")
            name = f"{name}/0" if kind == "instance" else name
            if value is None:
                self.entries.pop(f"{kind}/{name}", None)
            else:
                self.entries[f"{kind}/{name}"] = encode_entry(value)
        self._revision += 1
        snapshot = Snapshot(Version(1, self._revision), self.entries)
        for node in self.nodes.values():
            node.view.publish(snapshot)

    def govern(self, policy: RoutePolicy) -> None:
        """Puts this policy in force for what no route says otherwise of."""
        self.entries["mesh"] = encode_entry(MeshConfig(trust_domain=DOMAIN, trust=TRUST, defaults=policy))
        self.publish()

    def enrol(self, name: str) -> None:
        """Puts the node and its instance into the snapshot."""
        node = self.nodes[name]
        local = node.engine.instance(f"{name}/0")
        self.publish(
            **{
                f"node__{name}": Node(name, f"127.0.0.1:{node.peer.port}"),
                f"instance__{name}": Instance(local.id, name, models=local.models, slots=local.slots),
            }
        )


@contextlib.asynccontextmanager
async def mesh(
    folder: Path,
    engines: dict[str, RecordedEngine],
    *,
    policy: RoutePolicy | None = None,
    meters: dict[str, Meter] | None = None,
    tracers: dict[str, Tracer] | None = None,
    now: Callable[[], float] = time.monotonic,
    **config: Any,
) -> AsyncIterator[Bed]:
    """A running mesh of one node an engine; `meters` is filled with a meter of each node.

    The nodes that `tracers` names make traces.
    `now` is the gateways' clock: how old is what they know of one another. Timers are the loop's.
    """
    bed = Bed()
    # Where silence is what a test is about, a connection that hangs is part of it.
    connect_s = CONNECT_S if config.get("pulse") else PATIENCE_S
    config.setdefault("pulse", PATIENT)
    config.setdefault("fan_out_s", PATIENCE_S)
    config.setdefault("resume", None)  # what dies stays dead, unless a test is about the opposite
    if policy is not None:
        bed.entries["mesh"] = encode_entry(MeshConfig(trust_domain=DOMAIN, trust=TRUST, defaults=policy))
    watches = []
    async with asyncio.TaskGroup() as group:
        for name, engine in engines.items():
            await engine.start(group)
            view = MeshView(name)
            tls = TlsIdentity(*issue(folder, "node", name))
            upstreams = Upstreams(view, tls, connect_s=connect_s)
            settings = GatewayConfig(node=name, host_name="bed-host", **config)
            authenticator = Authenticator(view, name, bed.secrets)
            meter = None
            if meters is not None:
                meter = meters[name] = Meter(name, view)
            tracer = (tracers or {}).get(name)
            traces = TRACE_FIELDS if tracer is not None else frozenset()
            gateway = Gateway(
                settings,
                view,
                upstreams,
                group,
                authenticator=authenticator,
                meter=meter,
                tracer=tracer,
                now=now,
            )
            local = await serve(
                gateway.http_app(ListenerKind.LOCAL),
                name="local",
                varying=traces,
                error_body=gateway.error_body,
                stream_body=gateway.unread(ListenerKind.LOCAL),
            )
            peer = await serve(
                gateway.peer_app,
                name="peer",
                ssl=tls.server(require_client=True),
                identify=peer_identity,
                varying=VARYING | traces,
                error_body=gateway.error_body,
                stream_body=gateway.unread(ListenerKind.PEER),
            )
            pool = Pool(("127.0.0.1", local.port), limits=PoolLimits(connect_s=PATIENCE_S))
            watches.append(group.create_task(gateway.watch_peers()))
            bed.nodes[name] = BedNode(name, engine, view, upstreams, gateway, local, peer, tls, pool)
            view.publish_local((engine.instance(f"{name}/0"),))
        for name in engines:
            bed.enrol(name)
        try:
            yield bed
        finally:
            for watch in watches:
                watch.cancel()
            for node in bed.nodes.values():
                await node.pool.close()
                await node.local.close()
                await node.peer.close()
                await node.upstreams.close()
                await node.engine.stop()


def foreign_context(folder: Path, kind: str, name: str) -> ssl.SSLContext:
    """A client of the mesh's CA that is somebody else."""
    return client_context(*issue(folder, kind, name))
