"""Registries that answer an admin's commands what a test has laid out."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from bridge_core.files import write_atomically
from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import (
    Authority,
    create_authority,
    generate_key,
    issue,
    key_to_pem,
    to_pem,
)
from bridge_core.registry_channel import REGISTRY_SERVER_NAME
from bridge_wire.v1 import registry_pb2_grpc as wire_grpc
from bridge_wire.v1.clients_pb2_grpc import ClientsServicer, add_ClientsServicer_to_server


class Registry(wire_grpc.AdminServicer, ClientsServicer):
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

    CreateClient = ListClients = RotateClient = BlockClient = DeleteClient = CertifyClient = _serve
    CreateAdmin = ListAdmins = DeleteAdmin = _serve

    @property
    def address(self) -> str:
        """Where it is dialled."""
        return f"127.0.0.1:{self.port}"

    @property
    def names(self) -> list[str]:
        """The kinds of requests that it was asked."""
        return [type(one).__name__ for one in self.asked]


def issued(authority: Authority, kind: str, *names: str) -> tuple[bytes, bytes]:
    """Key and certificate of an identity of the mesh m."""
    key, identity = generate_key(), SpiffeId.make("m", kind, "one")
    leaf = issue(authority, key.public_key(), identity, now=time.time(), ttl_s=600, dns_names=names)
    return key_to_pem(key), to_pem(leaf)


@contextlib.contextmanager
def serving(folder: Path, count: int = 1) -> Iterator[list[Registry]]:
    """Registries of one mesh; `folder` gets an admin's identity."""
    authority = create_authority("m", now=time.time(), ttl_s=600)
    (folder / "ca.pem").write_bytes(authority.pem)
    admin_key, admin = issued(authority, "admin")
    (folder / "admin.pem").write_bytes(admin)
    write_atomically(folder / "admin.key", admin_key)
    own = issued(authority, "registry", REGISTRY_SERVER_NAME)
    credentials = grpc.ssl_server_credentials([own], authority.pem, require_client_auth=True)
    with ThreadPoolExecutor(2 * count) as pool:
        servers, registries = [], []
        for _ in range(count):
            server, registry = grpc.server(pool), Registry(folder)
            wire_grpc.add_AdminServicer_to_server(registry, server)
            add_ClientsServicer_to_server(registry, server)
            registry.port = server.add_secure_port("127.0.0.1:0", credentials)
            server.start()
            servers.append(server)
            registries.append(registry)
        try:
            yield registries
        finally:
            for server in servers:
                server.stop(None).wait()
