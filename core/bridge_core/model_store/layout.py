"""Manifests and blobs on disk, as Ollama lays them out.

`manifests/<host>/<namespace>/<model>/<tag>` names a config and layers by digest;
`blobs/sha256-<hex>` holds them. A model's digest is the SHA-256 of its manifest file. A manifest
is written last and only by rename, so that a crash or a full disk never leaves a model in parts.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.dialects.errors import ApiError
from bridge_core.errors import BridgeError
from bridge_core.files import sync_folder, write_atomically
from bridge_core.model_store.gguf import GgufHeader, read_header, read_sealed_header
from bridge_core.model_store.open_blob import OpenBlob, Unseal
from bridge_core.names import InvalidName, ModelName

log = structlog.get_logger()

MEDIA: Final = "application/vnd.ollama.image."
CONFIG_MEDIA: Final = "application/vnd.docker.container.image.v1+json"
MANIFEST_MEDIA: Final = "application/vnd.docker.distribution.manifest.v2+json"
_DIGEST: Final = re.compile(r"sha256[:-]([0-9a-fA-F]{64})")
_PARTIAL: Final = ".partial"


MOST_TEXT: Final = 64 << 20
"""Bytes of a template, a licence, parameters: what is read whole."""

_MOST_MANIFEST: Final = 4 << 20
_MOST_NAMED: Final = 1024


class Layer(msgspec.Struct, rename={"media_type": "mediaType"}, omit_defaults=True):
    """One blob that a manifest names, by kind, digest and size in bytes."""

    media_type: str
    digest: str
    size: int
    from_: str = msgspec.field(default="", name="from")
    name: str = ""

    @property
    def kind(self) -> str:
        """The last part of an Ollama media type: model, template, params and so on."""
        return self.media_type.removeprefix(MEDIA)


class Manifest(msgspec.Struct, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}):
    """A model: its config and layers."""

    config: Layer
    layers: list[Layer]
    schema_version: int = 2
    media_type: str = MANIFEST_MEDIA


class _Ordered(msgspec.Struct, rename="camel"):
    """A manifest in the order of Ollama's struct."""

    schema_version: int
    media_type: str
    config: Layer
    layers: list[Layer]


# As Go's encoding/json writes them, wherever in a string they stand.
_ESCAPES: Final = tuple((one.encode(), rb"\u%04x" % ord(one)) for one in "<>&\u2028\u2029")


def encode_manifest(manifest: Manifest) -> bytes:
    """A manifest as Ollama writes it: signatures are of these bytes (`model_signing.content`)."""
    made = msgspec.json.encode(
        _Ordered(manifest.schema_version, manifest.media_type, manifest.config, manifest.layers)
    )
    for plain, escaped in _ESCAPES:
        made = made.replace(plain, escaped)
    return made


class Stored(msgspec.Struct, frozen=True):
    """A manifest as found on disk."""

    name: ModelName
    manifest: Manifest
    digest: str
    modified_ns: int

    @property
    def size(self) -> int:
        """Bytes of all its blobs."""
        return self.manifest.config.size + sum(layer.size for layer in self.manifest.layers)


def _check(manifest: Manifest) -> None:
    """What its shape does not say.

    Raises:
        ValueError: A digest or a size is none.
    """
    for layer in (manifest.config, *manifest.layers):
        if _DIGEST.fullmatch(layer.digest) is None:
            raise ValueError(f"invalid digest {layer.digest[:80]!r}")
        if not 0 <= layer.size < 1 << 62:
            raise ValueError(f"invalid size {layer.size}")


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a file that is small.

    Raises:
        OSError: It cannot be read.
        ValueError: It is larger than `most` bytes.
    """
    with path.open("rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path.name} is larger than {most} bytes")
    return data


def hex_digest(digest: str) -> str:
    """The 64 hexadecimal digits of `sha256:<hex>`.

    Raises:
        ApiError: 400; not such a digest.
    """
    found = _DIGEST.fullmatch(digest)
    if found is None:
        raise ApiError(400, "invalid digest format")
    return found[1].lower()


class ModelStore:
    """One models directory. Its methods block on the disk: call the long ones in a thread.

    Args:
        root: The directory.
        unseal: Gives the keys of sealed blobs; None: they do not open.
    """

    def __init__(self, root: Path, unseal: Unseal | None = None) -> None:
        self.root = root
        self.unseal: Final = unseal
        self.blobs = root / "blobs"
        self.manifests = root / "manifests"
        self._named: set[tuple[str, str]] = set()
        self._changing = threading.RLock()
        for folder in (self.blobs, self.manifests):
            folder.mkdir(parents=True, exist_ok=True)

    def blob_path(self, digest: str) -> Path:
        """Where the blob of a digest is or would be."""
        return self.blobs / f"sha256-{hex_digest(digest)}"

    def open_blob(self, digest: str) -> OpenBlob:
        """The blob of a digest, sealed or not. Raises OSError, and as `OpenBlob`."""
        return OpenBlob.at(self.blob_path(digest), hex_digest(digest), self.unseal)

    def header(self, digest: str) -> tuple[GgufHeader, int]:
        """The GGUF header of a blob, and the bytes of its text.

        Raises:
            NotGguf: it is no GGUF file, or damaged.
            BridgeError: it is sealed and does not open.
            OSError: it is missing or unreadable.
        """
        path = self.blob_path(digest)
        with self.open_blob(digest) as blob:
            return read_sealed_header(path, blob) if blob.sealed else read_header(path), blob.size

    def manifest_path(self, name: ModelName) -> Path:
        """Where the manifest of a name is or would be."""
        return self.manifests / name.host / name.namespace / name.model / name.tag

    def find(self, name: ModelName) -> Stored | None:
        """Looks a model up, its name compared without regard to case.

        Raises:
            ApiError: 500; its manifest is damaged or unreadable.
        """
        path = self.manifest_path(name)
        with contextlib.suppress(OSError):  # a name too long for a file: there is none
            if path.is_file():
                return self._read(name, path)
        wanted = str(name).lower()
        for found in self._paths():
            if str(found[0]).lower() == wanted:
                return self._read(*found)
        return None

    def all(self) -> list[Stored]:
        """Every readable model, the last changed first; damaged ones are set aside and named in the log."""
        models = []
        for name, path in self._paths():
            try:
                models.append(self._read(name, path))
            except ApiError as fault:
                self.set_aside(name, fault)
        return sorted(models, key=lambda model: -model.modified_ns)

    def set_aside(self, name: ModelName, fault: ApiError) -> None:
        """Names a model that cannot be listed; once, for lists are asked for every few seconds."""
        what = (str(name), fault.message)
        if what not in self._named:
            if len(self._named) > _MOST_NAMED:
                self._named.clear()
            self._named.add(what)
            log.warning("model_set_aside", model=name.short(), fault=fault.message)

    def _paths(self) -> Iterator[tuple[ModelName, Path]]:
        for path in self.manifests.glob("*/*/*/*"):
            parts = path.relative_to(self.manifests).parts
            with contextlib.suppress(InvalidName):
                name = ModelName.parse(f"{parts[0]}/{parts[1]}/{parts[2]}:{parts[3]}")
                if path.is_file():
                    yield name, path

    def _read(self, name: ModelName, path: Path) -> Stored:
        try:
            data = read_bounded(path, _MOST_MANIFEST)
            manifest = decode_json(data, Manifest, most=_MOST_MANIFEST)
            changed = path.stat().st_mtime_ns
            _check(manifest)
        except (OSError, ValueError, Undecodable) as fault:
            raise ApiError(500, f"damaged manifest of {name.short()}: {fault}") from fault
        return Stored(name, manifest, hashlib.sha256(data).hexdigest(), changed)

    @property
    def changing(self) -> contextlib.AbstractContextManager[bool]:
        """Held while manifests change and blobs are removed, which exclude each other.

        Who finds all blobs of a model there and then lists it holds it over both.
        """
        return self._changing

    def write_manifest(self, name: ModelName, manifest: Manifest) -> None:
        """Makes or replaces a model.

        Raises:
            ApiError: 500; the disk is full or not writable.
        """
        self._write(name, encode_manifest(manifest))

    def copy(self, source: Stored, name: ModelName) -> None:
        """Makes or replaces a model by what another one is, byte for byte: it has the same digest.

        Raises:
            ApiError: 500; the other one is gone, or the disk is full or not writable.
        """
        with disk_errors():
            data = self.manifest_path(source.name).read_bytes()
        self._write(name, data)

    def _write(self, name: ModelName, data: bytes) -> None:
        existing = self.find(name)
        path = self.manifest_path(existing.name if existing else name)
        with self._changing, disk_errors():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data, mode=0o644)

    def read_blob(self, layer: Layer) -> bytes:
        """The content of a (small) blob.

        Raises:
            ApiError: 500; it is missing, unreadable, of a size that only weights have, or sealed and does
                not open.
        """
        with disk_errors():
            try:
                with self.open_blob(layer.digest) as blob:
                    size, data = blob.size, blob.read(0, MOST_TEXT + 1)
            except BridgeError as fault:
                raise ApiError(500, f"blob {layer.digest} does not open: {fault}") from fault
        if size > MOST_TEXT:
            raise ApiError(500, f"damaged blob {layer.digest}: it is larger than {MOST_TEXT} bytes")
        return data

    def add_blob(self, kind: str, data: bytes) -> tuple[Layer, bool]:
        """Stores a small blob; tells whether it is new.

        Raises:
            ApiError: 500; the disk is full or not writable.
        """
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        layer = Layer(media_type=kind if "/" in kind else MEDIA + kind, digest=digest, size=len(data))
        path = self.blob_path(digest)
        if path.exists():
            return layer, False
        with disk_errors():
            write_atomically(path, data, mode=0o644)
        return layer, True

    def delete(self, model: Stored) -> None:
        """Removes a model and the blobs that no other model names.

        Raises:
            ApiError: 500; the disk is not writable.
        """
        with disk_errors():
            with self._changing:
                self.manifest_path(model.name).unlink(missing_ok=True)
            self._remove_empty_folders(self.manifest_path(model.name).parent)
        self.prune(model.manifest)

    def prune(self, manifest: Manifest) -> None:
        """Removes those blobs of `manifest` that no model names.

        Raises:
            ApiError: 500; the disk is not writable.
        """
        self.remove_unused(layer.digest for layer in (manifest.config, *manifest.layers))

    def remove_unused(self, digests: Iterable[str]) -> None:
        """Removes those of these blobs that no model names.

        Raises:
            ApiError: 500; the disk is not writable.
        """
        with self._changing, disk_errors():
            used = {
                hex_digest(layer.digest)
                for model in self.all()
                for layer in (model.manifest.config, *model.manifest.layers)
            }
            for digest in digests:
                if hex_digest(digest) not in used:
                    self.blob_path(digest).unlink(missing_ok=True)

    def _remove_empty_folders(self, folder: Path) -> None:
        while folder != self.manifests and not any(folder.iterdir()):
            folder.rmdir()
            folder = folder.parent


class BlobWriter:
    """Takes a blob as it arrives; it appears under its name only when its digest is right."""

    def __init__(self, store: ModelStore, digest: str) -> None:
        self._digest = hex_digest(digest)
        self._target = store.blob_path(digest)
        self._hash = hashlib.sha256()
        with disk_errors():
            handle, name = tempfile.mkstemp(prefix="upload-", suffix=_PARTIAL, dir=store.blobs)
        self._file = os.fdopen(handle, "wb")
        self._path = Path(name)

    def write(self, data: bytes) -> None:
        """Adds the next bytes.

        Raises:
            ApiError: 500; the disk is full.
        """
        self._hash.update(data)
        with disk_errors():
            self._file.write(data)

    def commit(self) -> None:
        """Verifies the digest, syncs, and gives the blob its name.

        Raises:
            ApiError: 400 where the digest is another, 500 where the disk is full.
        """
        found = self._hash.hexdigest()
        if found != self._digest:
            message = f'digest mismatch, expected "sha256:{self._digest}", got "sha256:{found}"'
            raise ApiError(400, message)
        with disk_errors():
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o644)
            os.fsync(self._file.fileno())
            self._file.close()
            self._path.replace(self._target)
            sync_folder(self._target.parent)

    def close(self) -> None:
        """Gives up what was not committed; harmless after `commit`."""
        with contextlib.suppress(OSError):
            self._file.close()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turns what the disk refuses into an `ApiError` that says what is wrong with it."""
    try:
        yield
    except OSError as fault:
        raise ApiError(500, describe(fault), late=True) from fault


def describe(fault: OSError) -> str:
    """An OSError in Ollama's manner: operation, path, reason in lower case."""
    reason = (os.strerror(fault.errno) if fault.errno else str(fault)).lower()
    if fault.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        reason += ": free some space and try again"
    return f"open {fault.filename}: {reason}" if fault.filename else reason


Progress = Callable[[dict[str, Any]], None]
