"""The registry's TLS listener leaves nothing open when it is closed, whatever its callers do."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import time
import warnings
from pathlib import Path

import pytest

from bridge_core.identity import SpiffeId
from bridge_core.identity import certificates as x
from bridge_core.tls import TlsIdentity
from bridge_registry.rpc.tls_front import TlsFront
from tests.support import eventually


def identity(folder: Path) -> TlsIdentity:
    authority = x.create_authority("m", now=time.time(), ttl_s=3600)
    key = x.generate_key()
    leaf = x.issue(authority, key.public_key(), SpiffeId("m", "registry", "r1"), now=time.time(), ttl_s=600)
    paths = folder / "cert", folder / "key", folder / "ca"
    for path, data in zip(paths, (x.to_pem(leaf), x.key_to_pem(key), authority.pem), strict=True):
        path.write_bytes(data)
    return TlsIdentity(*paths)


def tls_client(port: int, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.maximum_version = highest
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    return context.wrap_socket(socket.create_connection(("127.0.0.1", port)))


async def close_while_a_caller(front: TlsFront, context: ssl.SSLContext, says: bytes) -> socket.socket:
    """The front, from its start to its end, with one caller that never says goodbye."""
    ended = asyncio.Event()

    async def inner(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.close()  # as gRPC does with what is no HTTP/2
        await writer.wait_closed()
        ended.set()

    private = Path(front.inner_target.removeprefix("unix:"))
    server = await asyncio.start_unix_server(inner, private)
    await front.serve("127.0.0.1", 0, context)
    caller = await asyncio.to_thread(tls_client, front.port)
    await eventually(lambda: list(private.parent.glob("c*")), 30)
    if says:
        await asyncio.to_thread(caller.sendall, says)
        await asyncio.wait_for(ended.wait(), 30)
        await eventually(lambda: not list(private.parent.glob("c*")), 30)  # the front's goodbye began
    await front.close()
    server.close()
    return caller


@pytest.mark.parametrize("says", [b"", b"x"], ids=["idle", "being hung up on"])
def test_closing_leaves_no_socket_behind(tmp_path: Path, says: bytes) -> None:
    context = identity(tmp_path).server(require_client=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        caller = asyncio.run(close_while_a_caller(TlsFront(tmp_path / "s"), context, says))
        gc.collect()
        caller.close()
    assert [str(one.message) for one in caught if one.category is ResourceWarning] == []


async def test_a_caller_of_an_older_tls_is_not_let_in(tmp_path: Path) -> None:
    front = TlsFront(tmp_path / "s")
    await front.serve("127.0.0.1", 0, identity(tmp_path).server(require_client=False))
    (await asyncio.to_thread(tls_client, front.port)).close()
    with pytest.raises(ssl.SSLError):
        await asyncio.to_thread(tls_client, front.port, ssl.TLSVersion.TLSv1_2)
    await front.close()


async def test_callers_without_a_word_are_bounded_and_others_are_let_in(tmp_path: Path) -> None:
    front = TlsFront(tmp_path / "s")
    private = Path(front.inner_target.removeprefix("unix:"))
    server = await asyncio.start_unix_server(lambda _reader, writer: writer.close(), private)
    await front.serve("127.0.0.1", 0, identity(tmp_path).server(require_client=False))
    silent = [await asyncio.open_connection("127.0.0.1", front.port) for _ in range(80)]
    ended = [reader for reader, _ in silent[:16]]  # 64 may be there
    assert await asyncio.wait_for(asyncio.gather(*(reader.read() for reader in ended)), 30) == [b""] * 16
    caller = await asyncio.to_thread(tls_client, front.port)
    assert await asyncio.to_thread(caller.recv, 1) == b""  # by gRPC's stand-in: it was let in
    caller.close()
    for _, writer in silent:
        writer.transport.abort()
    await front.close()
    server.close()
