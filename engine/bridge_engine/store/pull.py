"""`/api/pull`: a model from any registry that serves manifests and blobs without a login.

Blocks on network and disk: run it in a thread. A blob arrives in `sha256-<hex>-partial` and goes on
from there after any interruption; it gets its name only when its digest is right.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.dialects.errors import ApiError
from bridge_core.files import sync_folder
from bridge_core.model_store.layout import (
    MANIFEST_MEDIA,
    Layer,
    Manifest,
    ModelStore,
    disk_errors,
    hex_digest,
)
from bridge_core.model_store.registry import Registry, reason
from bridge_core.names import ModelName

_ATTEMPTS: Final = 6
_MAX_BREAKS: Final = 100
_CHUNK: Final = 1 << 20
_REPORT_S: Final = 0.1
_MAX_MANIFEST: Final = 4 << 20


class _StartOver(Exception):
    """The registry does not serve the rest of a blob, only all of it."""


def pull(store: ModelStore, name: ModelName, registry: Registry) -> Iterator[dict[str, Any]]:
    """Fetches a model; yields Ollama's progress records.

    Raises:
        ApiError: the registry or the disk refused; what arrived of a blob stays for the next try.
    """
    yield {"status": "pulling manifest"}
    manifest = _manifest(registry, f"{registry.base}/manifests/{name.tag}")
    layers = [*manifest.layers, manifest.config]
    for layer in layers:
        yield from _blob(store, registry, layer)
    yield {"status": "verifying sha256 digest"}
    yield {"status": "writing manifest"}
    replaced = store.find(name)
    store.write_manifest(name, manifest)
    if replaced is not None:
        store.prune(replaced.manifest)
    yield {"status": "success"}


def _manifest(registry: Registry, url: str) -> Manifest:
    try:
        with registry.open("GET", url, headers={"Accept": MANIFEST_MEDIA}) as response:
            data = response.read(_MAX_MANIFEST)
        return decode_json(data, Manifest, most=_MAX_MANIFEST)
    except urllib.error.HTTPError as fault:
        why = "file does not exist" if fault.code == 404 else reason(fault, url)
        fault.close()
        raise ApiError(500, f"pull model manifest: {why}", late=True) from fault
    except Undecodable as fault:
        raise ApiError(500, f"pull model manifest: not a manifest: {fault}", late=True) from fault
    except (OSError, http.client.HTTPException) as fault:
        message = f'pull model manifest: Get "{url}": {reason(fault, url)}'
        raise ApiError(500, message, late=True) from fault


def _blob(store: ModelStore, registry: Registry, layer: Layer) -> Iterator[dict[str, Any]]:
    path = store.blob_path(layer.digest)
    status = {
        "status": f"pulling {hex_digest(layer.digest)[:12]}",
        "digest": layer.digest,
        "total": layer.size,
    }
    yield dict(status)
    with _one_at_a_time(path):
        if not path.exists():
            for completed in _download(registry, f"{registry.base}/blobs/{layer.digest}", path, layer):
                yield {**status, "completed": completed}
    yield {**status, "completed": layer.size}


def _download(registry: Registry, url: str, path: Path, layer: Layer) -> Iterator[int]:
    """Fetches a blob into its partial file, over several connections where they break."""
    partial = path.with_name(f"{path.name}-partial")
    with disk_errors():
        handle = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    with os.fdopen(handle, "r+b") as file:
        digest = hashlib.sha256()
        while data := file.read(_CHUNK):
            digest.update(data)
        failures = breaks = 0
        while file.tell() < layer.size:
            begun = file.tell()
            try:
                yield from _receive(registry, url, file, digest, layer.size)
                if file.tell() < layer.size:
                    raise http.client.IncompleteRead(b"")
            except _StartOver:
                file.seek(0)
                file.truncate()
                digest = hashlib.sha256()
                failures += 1
            except (OSError, http.client.HTTPException) as fault:
                failures += 1 if file.tell() == begun else 0
                breaks += 1
                if failures >= _ATTEMPTS or breaks >= _MAX_BREAKS or _hopeless(fault):
                    message = f'Get "{url}": {reason(fault, url)}'
                    raise ApiError(500, message, late=True) from fault
                time.sleep(min(0.1 * 2**failures, 5.0))  # in a worker thread, never on the loop
        _settle(file, partial, path, digest.hexdigest(), layer)


def _receive(registry: Registry, url: str, file: Any, digest: Any, size: int) -> Iterator[int]:
    start = file.tell()
    wanted = {"Range": f"bytes={start}-{size - 1}"} if start else {}
    reported = time.monotonic()
    with registry.open("GET", url, headers=wanted) as response:
        if start and response.status != 206:
            raise _StartOver
        while file.tell() < size and (data := response.read(_CHUNK)):
            digest.update(data)
            with disk_errors():
                file.write(data)
            if time.monotonic() - reported >= _REPORT_S:
                reported = time.monotonic()
                yield file.tell()


def _settle(file: Any, partial: Path, path: Path, found: str, layer: Layer) -> None:
    if found != hex_digest(layer.digest) or file.tell() != layer.size:
        partial.unlink(missing_ok=True)
        message = f"digest mismatch, file must be downloaded again: want {layer.digest}, got sha256:{found}"
        raise ApiError(500, message, late=True)
    with disk_errors():
        file.flush()
        os.fsync(file.fileno())
        partial.replace(path)
        sync_folder(path.parent)


def _hopeless(fault: Exception) -> bool:
    if isinstance(fault, urllib.error.HTTPError):
        fault.close()
        return fault.code in (400, 401, 403, 404)
    reason = fault.reason if isinstance(fault, urllib.error.URLError) else fault
    return isinstance(reason, socket.gaierror | ssl.SSLCertVerificationError)


_guard = threading.Lock()
_busy: dict[Path, threading.Lock] = {}


@contextlib.contextmanager
def _one_at_a_time(path: Path) -> Iterator[None]:
    """Two pulls that share a blob fetch it once: the second waits, then finds it."""
    with _guard:
        lock = _busy.setdefault(path, threading.Lock())
    with lock:
        yield
    with _guard:
        if not lock.locked():
            _busy.pop(path, None)
