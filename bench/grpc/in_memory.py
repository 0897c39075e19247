"""How many instructions of the interpreter a gRPC call takes, without a socket, a peer or a kernel.

As `bench.in_memory` for HTTP: the ASGI application is called with what h2corn would call it with.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from bench import in_memory
from bench.grpc.subjects import CLIENT
from bench.load import prompt
from bench.subjects import DOMAIN, Composed, compose
from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.grpc_adapter.application import GrpcApplication
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.gateway.grpc_adapter.wire import framed
from bridge_core.http1.client import ClientConnection
from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x
from bridge_wire.v1.inference_pb2 import InferenceRequest, InferenceResponse

WARM, TRACED = 200, 100


async def instructions(folder: Path) -> Counter[str]:
    """How many a unary call takes, by the package that they are of; library code in Python included."""
    async with asyncio.TaskGroup() as group:
        made = await compose("agent", folder, group, limits=in_memory.LIMITS, entries=CLIENT)
        for pool in made.pools:
            upstream = ClientConnection(pool)
            upstream.connection_made(_Upstream(upstream))  # type: ignore[arg-type]  # enough of a transport
            pool.release(upstream)
        one = _caller(made)
        for number in range(WARM):
            await one(number)
        with in_memory.counting() as found:
            for number in range(TRACED):
                await one(number)
        made.auditing.cancel()
        for pool in made.pools:
            await pool.close()
        await made.server.close()
    return Counter({name: count // TRACED for name, count in found.items() if not name.startswith("bench")})


class _Upstream:
    """A transport to an engine that answers each request in the loop's next turn."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection

    def write(self, _data: bytes) -> None:
        asyncio.get_running_loop().call_soon(self._connection.data_received, in_memory.ANSWER)

    def get_extra_info(self, _name: str, default: Any = None) -> Any:
        return default

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def close(self) -> None:
        """Nothing is open."""

    abort = close


def _caller(made: Composed) -> Callable[[int], Awaitable[None]]:
    """What makes one call."""
    pipeline = made.gateway.http_app(ListenerKind.TLS)

    def refusal(request: Any, _serial: str) -> Any:
        return made.gateway.refusal(request)

    application = GrpcApplication(pipeline, Serving(), refusal=refusal, calls=Calls())
    authority = x.create_authority(DOMAIN, now=0.0, ttl_s=2**32)
    leaf = x.issue(
        authority,
        x.generate_key().public_key(),
        SpiffeId.make(DOMAIN, "client", "client"),
        now=0.0,
        ttl_s=2**31,
    )
    pem = x.to_pem(leaf).decode()

    async def one(number: int) -> None:
        data = InferenceRequest(model_name="tiny", input_data=prompt(number)).SerializeToString()
        events = [{"type": "http.request", "body": framed(data), "more_body": False}]
        sent: list[dict[str, Any]] = []

        async def receive() -> dict[str, Any]:
            if events:
                return events.pop()
            await asyncio.get_running_loop().create_future()  # the client stays
            raise AssertionError

        async def send(event: dict[str, Any]) -> None:
            sent.append(event)

        await application(_scope(pem), receive, send)
        if len(sent) != 3 or not InferenceResponse.FromString(sent[1]["body"][5:]).done:
            raise RuntimeError(f"answered {sent}")

    return one


def _scope(pem: str) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.5"},
        "http_version": "2",
        "method": "POST",
        "scheme": "https",
        "path": "/bridge.v1.ModelInference/Predict",
        "raw_path": b"/bridge.v1.ModelInference/Predict",
        "query_string": b"",
        "root_path": "",
        "headers": [
            (b"host", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"grpc-python-asyncio/1.85.1"),
            (b"grpc-accept-encoding", b"identity, deflate, gzip"),
        ],
        "client": ("127.0.0.1", 40000),
        "server": ("127.0.0.1", 11444),
        "extensions": {"tls": {"tls_version": 0x0304, "client_cert_chain": [pem]}},
        "state": {},
    }


if __name__ == "__main__":
    import tempfile

    import uvloop

    with tempfile.TemporaryDirectory() as _folder:
        _found = uvloop.run(instructions(Path(_folder)))
    print(f"{_found.total():,}")
    for _name, _count in _found.most_common(30):
        print(_name, f"{_count:,}")
