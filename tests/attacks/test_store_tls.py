"""Old TLS at the store: none at the guard, and at etcd nothing that is not authenticated encryption."""

from __future__ import annotations

import asyncio
import socket
import ssl
from urllib.parse import urlsplit

import pytest

from bridge_core.etcd_server import Version
from bridge_core.store.endpoints import ClientTls
from bridge_registry.store_guard.app import GuardProcess
from tests.guard_bed import GuardBed

pytestmark = pytest.mark.etcd

CBC = "ECDHE-ECDSA-AES128-SHA:ECDHE-ECDSA-AES256-SHA:ECDHE-ECDSA-AES128-SHA256"
AEAD = "ECDHE-ECDSA-AES128-GCM-SHA256"


def shake(url: str, tls: ClientTls, version: ssl.TLSVersion, ciphers: str = "") -> str:
    """What a handshake at `url` agrees on; "" when the server will not."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.load_verify_locations(tls.ca)
    context.load_cert_chain(tls.cert, tls.key)
    context.set_alpn_protocols(["h2"])
    context.minimum_version = context.maximum_version = version
    if ciphers:
        context.set_ciphers(ciphers)
    where = urlsplit(url)
    try:
        with (
            socket.create_connection((where.hostname, where.port), timeout=60) as plain,
            context.wrap_socket(plain, server_hostname="127.0.0.1") as secure,
        ):
            return secure.version() or ""
    except (ssl.SSLError, ConnectionError):
        return ""


async def test_etcd_takes_no_weak_suite(bed: GuardBed, version: Version) -> None:
    registry = bed.pki.etcd_client("registry")
    for url in (bed.etcd_url, f"https://127.0.0.1:{bed.etcd.settings.peer_port}"):
        assert await asyncio.to_thread(shake, url, registry, ssl.TLSVersion.TLSv1_2, CBC) == ""
        if version >= (3, 5, 8):
            assert await asyncio.to_thread(shake, url, registry, ssl.TLSVersion.TLSv1_2, AEAD) == ""
    newest = await asyncio.to_thread(shake, bed.etcd_url, registry, ssl.TLSVersion.TLSv1_3)
    assert newest == "TLSv1.3" or (3, 5, 0) <= version < (3, 5, 8)  # those know 1.2 alone


async def test_the_guard_takes_tls_1_3_alone(bed: GuardBed, guard: GuardProcess) -> None:
    node = await bed.enrol("one")
    assert await asyncio.to_thread(shake, bed.guard_url, node.tls, ssl.TLSVersion.TLSv1_2, AEAD) == ""
    assert await asyncio.to_thread(shake, bed.guard_url, node.tls, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
