"""What an external metrics adapter needs: certificates, a viewer's identity, and an API server to be."""

from __future__ import annotations

import http.client
import json
import ssl
from pathlib import Path
from typing import Any

import trustme

from bridge_core.identity import SpiffeId
from bridge_core.identity.certificates import create_csr, generate_key, key_to_pem
from bridge_registry.external_metrics.adapter import AdapterOptions
from bridge_wire.v1 import clients_pb2
from tests.registry_bed import MESH, Bed
from tests.support import eventually

SERVICE = "bridge-metrics.bridge.svc"


async def write_viewer(bed: Bed, folder: Path) -> Path:
    """Makes an admin `metrics` of the role viewer; the folder of its identity, as a Secret is mounted."""
    folder.mkdir()
    key = generate_key()
    csr = create_csr(key, SpiffeId(MESH, "admin", "metrics"))
    async with bed.clients() as clients:
        request = clients_pb2.CreateAdminRequest(name="metrics", role="viewer", csr_pem=csr)
        made = await clients.CreateAdmin(request)
    (folder / "tls.crt").write_bytes(made.certificate_chain_pem)
    (folder / "tls.key").write_bytes(key_to_pem(key))
    (folder / "ca.pem").write_bytes(bed.ca_pem)
    await eventually(lambda: "metrics" in bed.registry.publisher.table.admins)
    return folder


def write_server(ca: trustme.CA, folder: Path) -> Path:
    """A certificate for the Service's name; its folder, as a Secret is mounted."""
    folder.mkdir()
    leaf = ca.issue_cert(SERVICE, "localhost", "127.0.0.1")
    (folder / "tls.crt").write_bytes(b"".join(one.bytes() for one in leaf.cert_chain_pems))
    (folder / "tls.key").write_bytes(leaf.private_key_pem.bytes())
    return folder


def options(
    tls: Path, client: Path, request_header_ca: Path, *registries: str, **more: Any
) -> AdapterOptions:
    """As the command makes them."""
    return AdapterOptions(
        listen=("127.0.0.1", 0),
        tls=(tls / "tls.crt", tls / "tls.key"),
        request_header_ca=request_header_ca,
        allowed_names=frozenset({"front-proxy-client"}),
        namespaces=frozenset({"bridge"}),
        registries=registries,
        certificate=client / "tls.crt",
        key=client / "tls.key",
        ca=client / "ca.pem",
        **more,
    )


class ApiServer:
    """Asks as an API server does, or as somebody who would like to be one. Blocks: call it in a thread."""

    def __init__(self, port: int, trusted: trustme.CA, shown: trustme.LeafCert | None) -> None:
        self._port = port
        self._context = ssl.create_default_context()
        trusted.configure_trust(self._context)
        if shown is not None:
            shown.configure_cert(self._context)

    def get(self, path: str, user: str | None = "system:apiserver", method: str = "GET") -> tuple[int, Any]:
        """Status and document.

        Raises:
            OSError: the connection is refused.
        """
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, timeout=20, context=self._context)
        try:
            connection.request(method, path, headers={} if user is None else {"X-Remote-User": user})
            answer = connection.getresponse()
            return answer.status, json.loads(answer.read())
        finally:
            connection.close()
