"""Registries that answer an admin's commands what a test has laid out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import trustme

from bridge_core.registry_channel import REGISTRY_SERVER_NAME
from bridge_wire.v1 import registry_pb2_grpc as wire_grpc


class Registry(wire_grpc.AdminServicer):
    """Answers what a test has laid out and keeps what it was asked.

    `port` is where it listens, `folder` has ca.pem, admin.pem and admin.key.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = 0
        self.asked: list[Any] = []
        self.answer: Any = None
        self.answers: dict[str, Any] = {}  # by the request's type, before `answer`
        self.refusal: tuple[grpc.StatusCode, str] | None = None

    def _serve(self, request: Any, context: grpc.ServicerContext) -> Any:
        self.asked.append(request)
        found = self.answers.get(type(request).__name__)
        if self.refusal is not None and found is None:
            context.abort(*self.refusal)
        return self.answer if found is None else found

    CreateToken = ListTokens = RevokeToken = _serve
    Apply = Diff = GetConfig = History = Rollback = Drain = _serve
    Status = Revoke = Rollouts = CommandRollout = Restore = _serve

    @property
    def address(self) -> str:
        """Where it is dialled."""
        return f"127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        """The kinds of requests that it was asked."""
        return [type(one).__name__ for one in self.asked]


@contextlib.contextmanager
def serving(folder: Path, count: int = 1) -> Iterator[list[Registry]]:
    """Registries of one mesh; `folder` gets an admin's identity."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    admin = authority.issue_cert("admin.test")
    admin.cert_chain_pems[0].write_to_path(folder / "admin.pem")
    admin.private_key_pem.write_to_path(folder / "admin.key")
    own = authority.issue_cert(REGISTRY_SERVER_NAME)
    credentials = grpc.ssl_server_credentials(
        [(own.private_key_pem.bytes(), own.cert_chain_pems[0].bytes())],
        authority.cert_pem.bytes(),
        require_client_auth=True,
    )
    with ThreadPoolExecutor(2 * count) as pool:
        servers, registries = [], []
        for _ in range(count):
            server, registry = grpc.server(pool), Registry(folder)
            wire_grpc.add_AdminServicer_to_server(registry, server)
            registry.port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            servers.append(server)
            registries.append(registry)
        try:
            yield registries
        finally:
            for server in servers:
                server.stop(None).wait()
