"""What of ours is measured, each a process: `python -m bench.subjects NAME …`.

relay PORT UPSTREAM          the bare relay, nothing decided
agent PORT UPSTREAM FOLDER   one agent's gateway with audit and metrics, its engine at UPSTREAM
owner PORT UPSTREAM FOLDER   the same behind the peer listener (mutual TLS)
entry PORT PEER FOLDER       a gateway whose only instance is at the peer on port PEER
plain PORT                   an upstream for where nginx is absent
narrow PORT UPSTREAM FOLDER  a gateway whose engine has few slots and a short queue
single PORT UPSTREAM FOLDER  the same with one slot, behind the peer listener
lone PORT UPSTREAM FOLDER    the same with one slot, on the local listener
paced PORT EVERY_MS          an upstream that takes EVERY_MS to answer
tokens PORT COUNT EVERY_MS   an upstream that streams COUNT chunks, one every EVERY_MS
"""

from __future__ import annotations

import asyncio
import gc
import sys
from pathlib import Path

import uvloop

from bench import configs
from bridge_agent import records
from bridge_agent.engine.view import LocalInstance
from bridge_agent.gateway.config import GatewayConfig, ListenerKind
from bridge_agent.gateway.gateway import Gateway
from bridge_agent.peers.hop import VARYING
from bridge_agent.peers.upstreams import Upstreams
from bridge_agent.routing.view import MeshView
from bridge_agent.telemetry.audit import AuditLog
from bridge_core import http1
from bridge_core.snapshot import (
    Instance,
    MeshSettings,
    Model,
    Node,
    RoutePolicy,
    Snapshot,
    Version,
    encode_entry,
)
from bridge_core.tls import TlsIdentity, peer_identity
from bridge_core.traffic import Admission

DOMAIN = "bench.local"
SLOTS, QUEUE_PER_SLOT = 10, 8  # of a gateway under pressure
_MODELS = (Model("tiny:latest", "f" * 64, 1),)
_JSON = [(b"content-type", b"application/json")]


async def relay(port: int, upstream: int) -> None:
    pool = http1.Pool(("127.0.0.1", upstream))
    await _serve(lambda exchange: http1.Relay(exchange).forward(pool), port)


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
    chunk = b'{"model":"tiny","created_at":"2026-11-23T00:00:00Z","response":" token","done":false}\n'
    last = b'{"model":"tiny","created_at":"2026-11-23T00:00:00Z","response":"","done":true}\n'

    def app(exchange: http1.Exchange) -> None:
        exchange.on_disconnect = lambda: streams.pop(exchange, None)
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.write(chunk)
        streams[exchange] = count - 1

    def tick() -> None:
        asyncio.get_running_loop().call_later(every_ms / 1000, tick)
        for exchange, left in list(streams.items()):
            if left > 1:
                exchange.write(chunk)
                streams[exchange] = left - 1
            else:
                del streams[exchange]
                exchange.finish(last)

    tick()
    await _serve(app, port)


async def gateway(role: str, port: int, upstream: int, folder: Path) -> None:
    """One gateway as an agent composes it, with a fixed view of the mesh."""
    node = "entry" if role == "entry" else "owner"
    slots = {"narrow": SLOTS, "single": 1, "lone": 1}.get(role, 4096)
    on_peer = role in ("owner", "single")
    view = MeshView(node)
    tls = TlsIdentity(folder / f"{node}.pem", folder / f"{node}.key", folder / "ca.pem")
    upstreams = Upstreams(view, tls)
    audit = AuditLog(folder / f"audit-{role}.jsonl", records.audited)
    async with asyncio.TaskGroup() as group:
        group.create_task(audit.run())
        made = Gateway(GatewayConfig(node=node, host_name="bench"), view, upstreams, group)
        made.on_record(audit.put)
        peer_port = upstream if role == "entry" else port
        view.publish(_snapshot(peer_port, slots))
        if role != "entry":
            view.publish_local(
                (LocalInstance("owner/0", "127.0.0.1", upstream, "ready", _MODELS, ("tiny:latest",), slots),)
            )
        if on_peer:
            await http1.serve(
                made.peer_app,
                name="peer",
                port=port,
                ssl=tls.server(require_client=True),
                identify=peer_identity,
                varying=VARYING,
                error_body=made.error_body,
            )
        else:
            await http1.serve(
                made.http_app(ListenerKind.LOCAL), name="http", port=port, error_body=made.error_body
            )
        await _forever()


def _snapshot(peer_port: int, slots: int) -> Snapshot:
    admission = Admission(queue_per_slot=QUEUE_PER_SLOT)
    entries = {
        "mesh": encode_entry(MeshSettings(trust_domain=DOMAIN, defaults=RoutePolicy(admission=admission))),
        "node/owner": encode_entry(Node("owner", f"127.0.0.1:{peer_port}")),
        "node/entry": encode_entry(Node("entry", "127.0.0.1:1")),
        "instance/owner/0": encode_entry(
            Instance("owner/0", "owner", models=_MODELS, loaded=("tiny:latest",), slots=slots)
        ),
    }
    return Snapshot(Version(1, 1), entries)


async def _serve(app: http1.App, port: int) -> None:
    await http1.serve(app, name="bench", port=port)
    await _forever()


async def _forever() -> None:
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
