"""The listener that Kubernetes' API server asks for external metrics.

Only the API server is served: it shows a certificate of its request-header CA with one of the allowed names,
and says for whom it asks in `X-Remote-User`. Whether they may read metrics has been decided by then, by the
cluster's RBAC; nobody else gets past the handshake, so there is nothing to decide again.
"""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qs

import msgspec
import structlog

from bridge_core import http1
from bridge_core.addresses import join_address
from bridge_core.errors import BridgeError
from bridge_core.files import write_atomically
from bridge_core.http1 import Exchange, HttpLimits
from bridge_core.tls import TlsIdentity
from bridge_registry.external_metrics import metric_rules
from bridge_registry.external_metrics.metric_rules import Answer, Figures
from bridge_registry.external_metrics.reader import FiguresReader

log = structlog.get_logger()

_LIMITS: Final = HttpLimits(body=0, connections=256, strangers=32, strangers_each=32)
_RELOAD_S: Final = 60.0
_USER: Final = b"x-remote-user"


class AdapterOptions(msgspec.Struct, frozen=True):
    """How it runs.

    Attributes:
        listen: (host, port) for the API server; port 0: any.
        tls: Certificate and key that the API server is shown.
        request_header_ca: Whose certificates the API server shows.
        allowed_names: Common names that are taken of those; empty: every one.
        namespaces: That have metrics; empty: every one.
        registries: host:port of each.
        certificate: An admin's, of the role viewer.
        key: Its key.
        ca: The mesh's.
        ready_file: Written when it listens: `{"pid", "listen"}`.
    """

    listen: tuple[str, int]
    tls: tuple[Path, Path]
    request_header_ca: Path
    allowed_names: frozenset[str]
    namespaces: frozenset[str]
    registries: tuple[str, ...]
    certificate: Path
    key: Path
    ca: Path
    ready_file: Path | None = None


class Adapter:
    """Answers requests of the API server.

    Args:
        options: How it runs.
        figures: What was read last.
        clock: Unix seconds.
    """

    def __init__(
        self,
        options: AdapterOptions,
        figures: Callable[[], Figures],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._options = options
        self._figures = figures
        self._clock = clock

    def __call__(self, exchange: Exchange) -> None:
        """Answers one request."""
        code, document = self._answer(exchange)
        body = msgspec.json.encode(document)
        exchange.respond(code, [(b"content-type", b"application/json")], body)

    def _answer(self, exchange: Exchange) -> Answer:
        request, allowed = exchange.request, self._options.allowed_names
        if allowed and request.identity not in allowed:
            log.warning("caller_refused", remote=request.remote, name=request.identity)
            return metric_rules.refusal(403, "this is for the API server: its certificate has another name")
        if not request.headers.get(_USER):
            return metric_rules.refusal(403, "the API server has to say for whom it asks, in X-Remote-User")
        if request.method != "GET":
            return metric_rules.refusal(405, "metrics are only read here")
        query = parse_qs(request.query, max_num_fields=32)
        selector = ",".join(query.get("labelSelector", []))
        return metric_rules.answer(
            request.path, selector, self._figures(), self._options.namespaces, self._clock()
        )


def common_name(ssl_object: ssl.SSLObject) -> str | None:
    """The common name of the client's verified certificate; None: it has none, or several."""
    found: Any = ssl_object.getpeercert() or {}
    names = [value for part in found.get("subject", ()) for key, value in part if key == "commonName"]
    return str(names[0]) if len(names) == 1 else None


async def serve(options: AdapterOptions, stop: asyncio.Event) -> None:
    """Reads and answers until `stop` is set.

    Raises:
        Fatal: it cannot listen there.
        TlsFault: certificates cannot be used.
    """
    reader = FiguresReader(options.registries, options.certificate, options.key, options.ca)
    identity = TlsIdentity(*options.tls, options.request_header_ca)
    server = await http1.serve(
        Adapter(options, lambda: reader.figures),
        name="external-metrics",
        host=options.listen[0],
        port=options.listen[1],
        ssl=identity.server(require_client=True),
        limits=_LIMITS,
        identify=common_name,
    )
    where = join_address(options.listen[0], server.port)
    log.info("external_metrics_listening", listen=where)
    if options.ready_file is not None:
        write_atomically(options.ready_file, msgspec.json.encode({"pid": os.getpid(), "listen": where}))
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(reader.run()), group.create_task(_reloading(identity))]
            await stop.wait()
            for task in tasks:
                task.cancel()
    finally:
        await server.close(1.0)


async def run(options: AdapterOptions) -> None:
    """Serves until SIGTERM or SIGINT; raises as `serve` does."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    await serve(options, stop)


async def _reloading(identity: TlsIdentity) -> None:
    while True:
        await asyncio.sleep(_RELOAD_S)
        try:
            identity.reload()
        except BridgeError as fault:  # those that are in use go on
            log.warning("certificates_not_reloaded", reason=str(fault))
