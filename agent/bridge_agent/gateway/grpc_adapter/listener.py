"""The gRPC listener: h2corn in this process's event loop, on a socket of ours.

h2corn reads its certificate once. A renewed one is taken up by a second server on the same socket;
the first then finishes what it has.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import structlog
from h2corn import Config, Server

from bridge_core.errors import Fatal

log = structlog.get_logger()

_MAX_STREAMS: Final = 1000
_HEAD: Final = 64 * 1024
_HANDSHAKE_S: Final = 10.0
_WINDOW: Final = 1 << 20
"""Bytes of a call under way: what has come is copied, and given back, in one step of the loop."""


class GrpcListener:
    """Serves an ASGI application over TLS; client certificates are taken, and must be the mesh's.

    Args:
        application: The ASGI application.
        sock: A bound socket; the listener's own from now on.
        cert: Certificate chain, PEM; with `key` and `ca` read again by `renew`.
        key: Its key.
        ca: Whom to accept client certificates from.
        group: Where its tasks live.
        grace_s: How long a server that is replaced or closed finishes what it has.
        ended: Called when the listener no longer serves and nobody asked it to end.
        connections: Most of them, those in the handshake included; 0: no bound.
    """

    def __init__(
        self,
        application: Any,
        sock: socket.socket,
        *,
        cert: Path,
        key: Path,
        ca: Path,
        group: asyncio.TaskGroup,
        grace_s: float = 30.0,
        ended: Callable[[], None] = lambda: None,
        connections: int = 0,
    ) -> None:
        self._application = application
        self._socket = sock
        self._files = (cert, key, ca)
        self._group = group
        self._grace_s = grace_s
        self._ended = ended
        self._connections = connections
        self._server: Server | None = None
        self._retired = False
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self._socket.getsockname()[1])

    async def start(self) -> None:
        """Serves with the certificate as it is in the files now.

        Raises:
            Fatal: the files cannot be used.
        """
        try:
            server = self._made()
            task = self._group.create_task(self._run(server), name="grpc-listener")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            await server.wait_started()
        except (OSError, RuntimeError, ValueError) as fault:
            raise Fatal(
                f"the gRPC listener does not start: {fault}",
                hint="check the identity's files, and how many files this process may open",
            ) from fault
        if self._retired:  # meanwhile
            server.shutdown()
        else:
            self._server = server

    def _made(self) -> Server:
        cert, key, ca = self._files
        config = Config(
            bind=(f"fd://{self._socket.fileno()}",),
            certfile=cert,
            keyfile=key,
            ca_certs=ca,
            cert_reqs="optional",
            grpc=True,
            access_log=False,
            log_format="json",
            lifespan="off",
            server_header="off",
            # One hands all of it over; two wake each other up, and take turns with the loop on its processor.
            runtime_threads=1,
            max_concurrent_streams=_MAX_STREAMS,
            # It accepts by itself: strangers are bounded together and in time, not by their address.
            limit_connections=self._connections,
            limit_request_head_size=_HEAD,
            h2_max_header_list_size=_HEAD,
            h2_max_header_block_size=_HEAD,
            h2_initial_stream_window_size=_WINDOW,
            timeout_handshake=_HANDSHAKE_S,
            timeout_graceful_shutdown=self._grace_s,
        )
        return Server(self._application, config)

    async def renew(self) -> None:
        """Takes up a renewed certificate; calls under way are not disturbed.

        Raises:
            Fatal: that could not be done; what serves goes on with the certificate that it has.
        """
        if self._retired:
            return
        former = self._server
        await self.start()
        if former is not None:
            former.shutdown()

    def retire(self) -> None:
        """Stops accepting, for good; what runs goes on."""
        self._retired = True
        if self._server is not None:
            self._server.shutdown()
            self._server = None

    async def close(self, grace_s: float) -> None:
        """Stops accepting and finishes what runs; what is left after `grace_s` is cut."""
        self.retire()
        self._socket.close()  # h2corn has its own handle on it, until it has stopped accepting
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in self._tasks:
            task.cancel()

    async def _run(self, server: Server) -> None:
        try:
            await server.serve()
        except RuntimeError:
            pass  # calls that outlast the grace: they are cut
        except (OSError, ValueError) as fault:
            # `start` has heard of it, if it was starting. The group is everybody's: one listener's fault
            # must not end the others.
            log.error("grpc_listener_failed", reason=str(fault))
        finally:
            if self._server is server and not self._retired:
                self._server = None
                self._ended()
