"""`/api/push`: a model to any OCI registry that takes it without a login.

Blocks on network and disk: run it in a thread. Blobs that the registry has are not sent again, so a
push that broke off goes on with the blob that it broke off in.
"""

from __future__ import annotations

import http.client
import urllib.error
from collections.abc import Iterator
from typing import Any, Final
from urllib.parse import urlencode

from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import MANIFEST_MEDIA, Layer, ModelStore, disk_errors, hex_digest
from bridge_core.model_store.registry import Registry, reason
from bridge_core.names import ModelName

_CHUNK: Final = 16 << 20


def push(store: ModelStore, name: ModelName, registry: Registry) -> Iterator[dict[str, Any]]:
    """Sends a model; yields Ollama's progress records.

    Raises:
        ApiError: 404 without such a model; the registry or the disk refused.
    """
    yield {"status": "retrieving manifest"}
    found = store.find(name)
    if found is None:
        yield {"status": "couldn't retrieve manifest"}
        raise ApiError(404, f"open {store.manifest_path(name)}: no such file or directory", late=True)
    with disk_errors():
        manifest = store.manifest_path(found.name).read_bytes()
    try:
        for layer in (*found.manifest.layers, found.manifest.config):
            yield from _blob(store, registry, layer)
        yield {"status": "pushing manifest"}
        headers = {"Content-Type": MANIFEST_MEDIA}
        registry.open("PUT", f"manifests/{name.tag}", headers=headers, data=manifest).close()
    except ApiError:
        raise
    except (BridgeError, OSError, ValueError, http.client.HTTPException) as fault:
        raise ApiError(
            500, f'push to "{registry.base}": {reason(fault, registry.base)}', late=True
        ) from fault
    yield {"status": "success"}


def _blob(store: ModelStore, registry: Registry, layer: Layer) -> Iterator[dict[str, Any]]:
    digest = f"sha256:{hex_digest(layer.digest)}"
    status = {"status": f"pushing {hex_digest(digest)[:12]}", "digest": digest, "total": layer.size}
    if not _has(registry, digest):
        for completed in _upload(store, registry, layer, digest):
            yield {**status, "completed": completed}
    yield {**status, "completed": layer.size}


def _has(registry: Registry, digest: str) -> bool:
    try:
        registry.open("HEAD", f"blobs/{digest}").close()
    except urllib.error.HTTPError as fault:
        if fault.code != 404:
            raise
        fault.close()
        return False
    return True


def _upload(store: ModelStore, registry: Registry, layer: Layer, digest: str) -> Iterator[int]:
    with disk_errors():
        blob = store.open_blob(digest)
    with blob:
        where = _next(registry.open("POST", "blobs/uploads/", data=b""))
        sent = 0
        while True:
            with disk_errors():
                chunk = blob.read(sent, _CHUNK)
            if not chunk:
                break
            headers = {
                "Content-Type": "application/octet-stream",
                "Content-Range": f"{sent}-{sent + len(chunk) - 1}",
            }
            where = _next(registry.open("PATCH", where, headers=headers, data=chunk))
            sent += len(chunk)
            yield sent
    if sent != layer.size:
        raise ApiError(
            500, f"{digest} has {sent} bytes and not {layer.size}: create the model again", late=True
        )
    closing = f"{where}{'&' if '?' in where else '?'}{urlencode({'digest': digest})}"
    registry.open("PUT", closing, data=b"").close()


def _next(answer: Any) -> str:
    """Where an upload goes on."""
    with answer:
        where = answer.headers.get("Location") or ""
    if not where:
        raise http.client.HTTPException("the registry does not say where an upload goes on")
    return str(where)
