"""Calls to the API of the Kubernetes that this process runs in, with its pod's own account."""

from __future__ import annotations

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Final, TypeAlias

from bridge_core.errors import Unavailable
from bridge_core.http1 import Pool, ResponseTooLarge, UpstreamError

MOUNTED: Final = Path("/var/run/secrets/kubernetes.io/serviceaccount")

Call: TypeAlias = Callable[[str, bytes, bytes, bytes], Awaitable[tuple[int, bytes]]]


@contextlib.asynccontextmanager
async def calling(address: tuple[str, int] | None, folder: Path, most: int) -> AsyncIterator[Call]:
    """What calls it: (method, path, content type, body) to (status, body).

    Args:
        address: (host, port); None: as the kubelet told this process.
        folder: Where `token` and `ca.crt` are; read anew each time, since the kubelet renews them.
        most: Bytes that an answer may have.

    Raises:
        Unavailable: the folder cannot be read; at a call, that the API cannot be asked.
    """
    try:
        own = (await asyncio.to_thread((folder / "token").read_text, "utf-8", "replace")).strip()
        context = await asyncio.to_thread(ssl.create_default_context, cafile=folder / "ca.crt")
    except OSError as fault:  # ssl.SSLError is one
        raise Unavailable(
            f"cannot read {folder}: {fault.strerror or fault}",
            hint="mount a service account's token and kube-root-ca.crt there, as the Helm chart does",
        ) from fault
    pool = Pool(address or told_address(), ssl=context, label="the Kubernetes API")

    async def call(method: str, path: bytes, content_type: bytes, body: bytes) -> tuple[int, bytes]:
        headers = (
            (b"content-type", content_type),
            (b"accept", b"application/json"),
            (b"authorization", b"Bearer " + own.encode("ascii", "replace")),
        )
        try:
            async with pool.request(method, path, headers, body) as response:
                return response.status, await response.read(most)
        except (UpstreamError, ResponseTooLarge) as fault:
            raise Unavailable(f"the Kubernetes API cannot be asked: {fault.message}") from fault

    try:
        yield call
    finally:
        await pool.close()


def told_address() -> tuple[str, int]:
    """Where the kubelet says that the API is."""
    host = os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    return host, int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 443
