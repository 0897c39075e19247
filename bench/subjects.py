"""What of ours is measured, each a process: `python -m bench.subjects NAME …`.

relay PORT UPSTREAM          the bare relay, nothing decided
agent PORT UPSTREAM FOLDER   one agent's gateway with audit and metrics, its engine at UPSTREAM
owner PORT UPSTREAM FOLDER   the same behind the peer listener (mutual TLS)
entry PORT PEER FOLDER       a gateway whose only instance is at the peer on port PEER
plain PORT                   an upstream for where nginx is absent
narrow PORT UPSTREAM FOLDER  a gateway whose engine has few slots and a short queue
single PORT UPSTREAM FOLDER  the same with one slot, behind the peer listener
lone PORT UPSTREAM FOLDER    the same with one slot, on the local listener
guarded PORT UPSTREAM FOLDER one agent's gateway with all of `bench.guarded`, and three engines at UPSTREAM
paced PORT EVERY_MS          an upstream that takes EVERY_MS to answer
tokens PORT COUNT EVERY_MS   an upstream that streams COUNT chunks, one every EVERY_MS
"""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import NamedTuple

import uvloop

from bench import configs, guarded
from bench.watching import watch
from bridge_agent.audit.made import made_of
from bridge_agent.authentication.authenticator import Authenticator
from bridge_agent.engines.view import LocalInstance
from bridge_agent.gateway.config import GatewayConfig, ListenerKind
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.peers.hop import VARYING
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.quotas.meter import Meter
from bridge_agent.routing.view import MeshView
from bridge_agent.tracing.context_rules import FIELDS as TRACE_FIELDS
from bridge_agent.tracing.made import tracing_of
from bridge_agent.tracing.section import TracesSection
from bridge_core import http1
from bridge_core.sealing import open_sealer
from bridge_core.sealing.sealer import SealFolder
from bridge_core.snapshot import (
    Instance,
    MemberModel,
    MeshConfig,
    Node,
    RoutePolicy,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_core.tls import TlsIdentity, peer_identity
from bridge_core.traffic import AdmissionPolicy
from tests.bare_relay import Relay

DOMAIN = "bench.local"
SLOTS, QUEUE_PER_SLOT = 10, 8  # of a gateway under pressure
_MODELS = (MemberModel("tiny:latest", "f" * 64, 1),)
_JSON = [(b"content-type", b"application/json")]
TOKEN = b'{"model":"tiny","created_at":"2026-11-23T00:00:00Z","response":" token","done":false}\n'
LAST = b'{"model":"tiny","created_at":"2026-11-23T00:00:00Z","response":"","done":true}\n'


async def relay(port: int, upstream: int) -> None:
    pool = http1.Pool(("127.0.0.1", upstream))
    await _serve(lambda exchange: Relay(exchange).forward(pool), port)


async def plain(port: int) -> None:
    body = configs.BODY.encode()
    await _serve(lambda exchange: exchange.respond(200, _JSON, body), port)


async def paced(port: int, every_ms: float) -> None:
    body = configs.BODY.encode()

    def app(exchange: http1.Exchange) -> None:
        asyncio.get_running_loop().call_later(every_ms / 1000, exchange.respond, 200, _JSON, body)

    await _serve(app, port)


async def tokens(port: int, count: int, every_ms: float) -> None:
    """One timer writes to all streams, so that the upstream stays cheap."""
    streams: dict[http1.Exchange, int] = {}

    def app(exchange: http1.Exchange) -> None:
        exchange.on_disconnect = lambda: streams.pop(exchange, None)
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.write(TOKEN)
        streams[exchange] = count - 1

    def tick() -> None:
        asyncio.get_running_loop().call_later(every_ms / 1000, tick)
        for exchange, left in list(streams.items()):
            if left > 1:
                exchange.write(TOKEN)
                streams[exchange] = left - 1
            else:
                del streams[exchange]
                exchange.finish(LAST)

    tick()
    await _serve(app, port)


async def gateway(role: str, port: int, upstream: int, folder: Path) -> None:
    """One gateway as an agent composes it, with a fixed view of the mesh."""
    node = node_of(role)
    tls = TlsIdentity(folder / f"{node}.pem", folder / f"{node}.key", folder / "ca.pem")
    async with asyncio.TaskGroup() as group:
        await compose(role, folder, group, port=port, upstream=upstream, tls=tls)
        await forever()


def node_of(role: str) -> str:
    """Which of the two nodes plays it."""
    return "entry" if role == "entry" else "owner"


class Composed(NamedTuple):
    """A gateway, its listener, its connections to where its requests go, and its only task."""

    gateway: Gateway
    server: http1.Server
    pools: tuple[http1.Pool, ...]
    auditing: asyncio.Task[None]


async def compose(
    role: str,
    folder: Path,
    group: asyncio.TaskGroup,
    *,
    port: int = 0,
    upstream: int = 1,
    tls: TlsIdentity | None = None,
    limits: http1.HttpLimits | None = None,
    traced: bool = False,
    entries: Mapping[str, bytes] | None = None,
) -> Composed:
    """A gateway in this role; `group` runs its tasks.

    `traced`: it makes spans, which nobody sends. `entries` are in its snapshot besides.
    """
    node, on_peer, is_guarded = node_of(role), role in ("owner", "single"), role == "guarded"
    slots = {"narrow": SLOTS, "single": 1, "lone": 1}.get(role, 4096)
    view = MeshView(node)
    upstreams = Upstreams(view, tls)
    sealer = open_sealer(SealFolder(folder / f"seal-{role}"))
    section = TracesSection(endpoint="http://localhost:4318/v1/traces") if traced else None
    tracing = tracing_of(section, node, DOMAIN, Random(1))
    audit = made_of(
        folder / f"audit-{role}",
        f"spiffe://{DOMAIN}/node/{node}",
        node,
        view,
        sealer,
        seen=() if tracing is None else (tracing.maker.take,),
    )
    auditing = group.create_task(audit.run())
    made = Gateway(
        GatewayConfig(node=node, host_name="bench"),
        view,
        upstreams,
        group,
        meter=Meter(node, view) if is_guarded else None,
        tracer=None if tracing is None else tracing.tracer,
        authenticator=Authenticator(view, node, guarded.secrets()) if is_guarded else None,
    )
    made.on_record(audit.put)
    view.publish(
        _snapshot(
            upstream if role == "entry" else port,
            slots,
            entries or (guarded.entries() if is_guarded else {}),
        )
    )
    if role != "entry":
        engines = range(guarded.ENGINES if is_guarded else 1)
        view.publish_local(
            tuple(
                LocalInstance(f"owner/{at}", "127.0.0.1", upstream, "ready", _MODELS, ("tiny:latest",), slots)
                for at in engines
            )
        )
    server = await http1.serve(
        made.peer_app if on_peer else made.http_app(ListenerKind.LOCAL),
        name="peer" if on_peer else "http",
        port=port,
        ssl=tls.server(require_client=True) if on_peer and tls is not None else None,
        identify=peer_identity if on_peer else None,
        varying=(VARYING if on_peer else frozenset()) | (TRACE_FIELDS if traced else frozenset()),
        error_body=made.error_body,
        limits=limits,
    )
    pools = tuple(upstreams.pool(target) for target in view.index.targets.values())
    return Composed(made, server, pools, auditing)


def _snapshot(peer_port: int, slots: int, more: Mapping[str, bytes]) -> Snapshot:
    admission = AdmissionPolicy(queue_per_slot=QUEUE_PER_SLOT)
    entries = {
        "mesh": encode_entry(MeshConfig(trust_domain=DOMAIN, defaults=RoutePolicy(admission=admission))),
        "node/owner": encode_entry(Node("owner", f"127.0.0.1:{peer_port}")),
        "node/entry": encode_entry(Node("entry", "127.0.0.1:1")),
        "instance/owner/0": encode_entry(
            Instance("owner/0", "owner", models=_MODELS, loaded=("tiny:latest",), slots=slots)
        ),
        **more,
    }
    return Snapshot(Version(1, 1), entries)


async def _serve(app: http1.App, port: int) -> None:
    await http1.serve(app, name="bench", port=port)
    await forever()


async def forever() -> None:
    """What is measured has begun, and what it has made so far stays."""
    watch()
    gc.collect()
    gc.freeze()
    await asyncio.Event().wait()


def main(name: str, *arguments: str) -> None:
    if name == "relay":
        uvloop.run(relay(int(arguments[0]), int(arguments[1])))
    elif name == "plain":
        uvloop.run(plain(int(arguments[0])))
    elif name == "paced":
        uvloop.run(paced(int(arguments[0]), float(arguments[1])))
    elif name == "tokens":
        uvloop.run(tokens(int(arguments[0]), int(arguments[1]), float(arguments[2])))
    else:
        uvloop.run(gateway(name, int(arguments[0]), int(arguments[1]), Path(arguments[2])))


if __name__ == "__main__":
    main(*sys.argv[1:])
