"""The agent's listeners while they are open: certificates, revocations, and how they close."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from typing import Any, Final, Protocol

import structlog

from bridge_agent.gateway.config import ListenerKind
from bridge_agent.gateway.grpc_adapter.calls import Calls
from bridge_agent.gateway.grpc_adapter.serving import Serving
from bridge_agent.gateway.grpc_adapter.woken import Awake
from bridge_agent.last_call import last_call
from bridge_agent.listeners import close_all, limits_of
from bridge_core.errors import Unavailable
from bridge_core.http1 import App, Request, Server, serve
from bridge_core.tls import TlsIdentity

log = structlog.get_logger()

_LAST_CALL_S: Final = 3.0  # at most: who is connected is let in within one turn of the loop
_KINDS: Final = {"http": ListenerKind.LOCAL, "https": ListenerKind.TLS, "peer": ListenerKind.PEER}


class Pipeline(Protocol):
    """What is served: the gateway, as a listener sees it."""

    def unread(self, listener: ListenerKind) -> Callable[[Request], bool]:
        """Says of a listener's requests whose bodies are not read whole before the answer."""
        ...

    def handshake_refused(self, listener: ListenerKind) -> Callable[[str], None]:
        """What is told the address of each handshake that TLS refused at a listener."""
        ...

    def error_body(self, status: int, message: str, path: str) -> tuple[bytes, bytes]:
        """Renders what a listener refuses by itself."""
        ...


class Listening:
    """Open listeners on sockets that are bound already.

    Args:
        sockets: By the listener's name; its own from now on.
        identity: For those over TLS.
        identify: Who is at the other end of a TLS connection; None: nobody who is to be served.
        grpc: The gRPC listener, which has a certificate and tasks of its own.
        calls: Those under way at it.
        serving: What gRPC's health service says.
        shared: Names of sockets that outlive this process, with whoever waits in their queues.
    """

    def __init__(
        self,
        sockets: Mapping[str, socket.socket],
        identity: TlsIdentity,
        identify: Callable[[Any], str | None],
        *,
        grpc: Awake,
        calls: Calls,
        serving: Serving,
        shared: Collection[str] = (),
    ) -> None:
        self._sockets = sockets
        self._shared = shared
        self._identity = identity
        self._identify = identify
        self._grpc = grpc
        self._calls = calls
        self._serving = serving
        self._servers: list[Server] = []
        self._renewed = asyncio.Event()
        self._grpc_ended = False

    async def open_gateway(
        self,
        name: str,
        app: App,
        pipeline: Pipeline,
        *,
        require_client: bool | None = None,
        varying: frozenset[bytes] = frozenset(),
    ) -> None:
        """Opens a listener of the gateway; `require_client` None: in the clear. Raises BridgeError."""
        context = None if require_client is None else self._identity.server(require_client=require_client)
        server = await serve(
            app,
            name=name,
            sock=self._sockets[name],
            ssl=context,
            limits=limits_of(name),
            stream_body=pipeline.unread(_KINDS[name]),
            identify=None if context is None else self._identify,
            error_body=pipeline.error_body,
            varying=varying,
            handshake_refused=pipeline.handshake_refused(_KINDS[name]),
        )
        self._servers.append(server)

    async def open_admin(self, app: App) -> None:
        """Opens the admin listener, in the clear on loopback."""
        self._servers.append(
            await serve(app, name="admin", sock=self._sockets["admin"], limits=limits_of("admin"))
        )

    async def open_grpc(self) -> None:
        """Opens the gRPC listener. Raises BridgeError."""
        await self._grpc.start()

    def renewed(self) -> None:
        """The certificate's files are new ones. Contexts follow by themselves, the gRPC listener by a
        change of server, which `follow_renewals` makes.
        """
        self._renewed.set()

    def grpc_ended(self) -> None:
        """The gRPC listener ended by itself: `follow_renewals` opens it again."""
        self._grpc_ended = True
        self._renewed.set()

    async def follow_renewals(self) -> None:
        """Until cancelled: has the gRPC listener take up renewed certificates.

        Raises:
            BridgeError: it cannot, or the listener ended by itself; run this again, which tries again.
        """
        while True:
            await self._renewed.wait()
            if self._grpc_ended:
                self._grpc_ended = False
                raise Unavailable("the gRPC listener ended by itself")
            self._renewed.clear()
            try:
                await self._grpc.renew()
            except BaseException:
                self._renewed.set()
                raise

    def cut(self, identities: Collection[str]) -> None:
        """Ends the connections and calls of those who are no longer accepted."""
        for server in self._servers:
            for connection in list(server.connections):
                if connection.identity in identities or connection.shown in identities:
                    connection.cut()
        self._calls.cut(identities)

    def tell_draining(self) -> None:
        """Says to gRPC's health clients that no more is taken, and to HTTP's to connect elsewhere next."""
        self._serving.value = False
        for server in self._servers:
            server.leave()

    def retire(self) -> None:
        """Whoever connects to a shared socket from now on waits in its queue for the next agent."""
        for server in self._servers:
            if server.name in self._shared:
                server.retire()
        if "grpc" in self._shared:
            self._grpc.retire()

    async def close(self, grace_s: float, hurry: asyncio.Task[None]) -> None:
        """Closes every listener; answers under way may take `grace_s` more, or until `hurry` is done."""
        servers, self._servers = self._servers, []
        own = [sock for name, sock in self._sockets.items() if name not in self._shared]

        async def close() -> None:
            await last_call(own, min(grace_s, _LAST_CALL_S))
            await asyncio.gather(close_all(servers, grace_s), self._grpc.close(grace_s))

        closing = asyncio.create_task(close())
        await asyncio.wait({closing, hurry}, return_when=asyncio.FIRST_COMPLETED)
        if hurry.done():
            for connection in [one for server in servers for one in server.connections]:
                connection.cut()
            await self._grpc.close(0.0)
        await closing

    async def release(self) -> None:
        """Lets go of everything at once, also after a start that failed half-way."""
        servers, self._servers = self._servers, []
        await close_all(servers, 0.0)
        for sock in self._sockets.values():
            sock.close()
