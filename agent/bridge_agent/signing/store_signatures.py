"""Signatures in a models folder: read, judged, added, copied. Everything here blocks: run it in threads."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from bridge_agent.models.blob_files import BlobFault
from bridge_agent.models.blobs import Blobs
from bridge_agent.models.manifest_rules import BadManifest, read_manifest
from bridge_agent.models.store_reads import manifest_bytes
from bridge_agent.models.store_writes import list_model
from bridge_agent.signing.judging_rules import Judged, NotSigned, judge
from bridge_core.decoding import Undecodable
from bridge_core.model_signing.bundle import read_bundle
from bridge_core.model_signing.content import (
    MEDIA,
    MOST_BUNDLE,
    content_of,
    signatures_of,
    with_signatures,
)
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.policies import ModelSignaturePolicy
from bridge_core.model_signing.statement import check_statement
from bridge_core.model_store.layout import Layer, Manifest, ModelStore, hex_digest
from bridge_core.names import ModelName


class Placed(msgspec.Struct, frozen=True):
    """A model as it lies: its manifest's bytes, and their digest."""

    data: bytes
    digest: str

    @classmethod
    def of(cls, data: bytes) -> Placed:
        """Of a manifest."""
        return cls(data, hashlib.sha256(data).hexdigest())


def placed(store: ModelStore, name: ModelName) -> Placed | None:
    """A model of a store; None: it has none of this name, or only a damaged one."""
    data = manifest_bytes(store, name)
    return None if data is None else Placed.of(data)


def judged(blobs: Blobs, data: bytes, policies: Iterable[ModelSignaturePolicy]) -> Judged:
    """What policies say of a model whose signatures are among these blobs."""
    try:
        manifest = read_manifest(data)
    except (Undecodable, BadManifest) as fault:
        return Judged((), f"its manifest is refused: {fault.message}")
    return judge(data, bundles_of(blobs, manifest), policies)


def bundles_of(blobs: Blobs, manifest: Manifest) -> dict[str, bytes]:
    """The signatures of a manifest that are there and not too large, by their digests."""
    found = {}
    for layer in signatures_of(manifest):
        hex_ = hex_digest(layer.digest)
        try:
            blob = blobs.open(hex_)
            if blob is None:
                continue
            with blob:
                data = blob.read(0, min(blob.size, MOST_BUNDLE + 1))
        except BlobFault:
            continue
        if len(data) <= MOST_BUNDLE and hashlib.sha256(data).hexdigest() == hex_:
            found[layer.digest] = data
    return found


def add_signature(blobs: Blobs, store: ModelStore, name: ModelName, signed: str, bundle: bytes) -> Placed:
    """Adds a signature to a model, in the place of one that the same key made before.

    Args:
        blobs: Those of the store.
        store: Where the model is.
        name: The model's.
        signed: The digest of the content that is signed.
        bundle: The signature.

    Raises:
        NotSigned: there is no such model, it is another one meanwhile, or the signature is not of it.
        BridgeError: the disk refuses.
    """
    with store.changing:
        data = manifest_bytes(store, name)
        if data is None:
            raise NotSigned(f"this node has no model {name.short()}")
        try:
            manifest = read_manifest(data)
            content = content_of(data)
            made = read_bundle(bundle)
            check_statement(made.payload, content)
        except (BadSignature, Undecodable, BadManifest) as fault:
            raise NotSigned(fault.message, hint=fault.hint) from fault
        if content.digest != signed:
            raise NotSigned(f"{name.short()} is another one here meanwhile: sign that")
        known = bundles_of(blobs, manifest)
        layer, _ = store.add_blob(MEDIA, bundle)
        kept = [one for one in content.signatures if not _replaces(known.get(one.digest), made.hint)]
        layers = [*(one for one in kept if one.digest != layer.digest), layer]
        try:
            new = with_signatures(content, [Layer(MEDIA, one.digest, one.size) for one in layers])
        except BadSignature as fault:
            raise NotSigned(fault.message) from fault
        if not list_model(blobs, store, name, new, read_manifest(new)):
            raise NotSigned(f"{name.short()} is not whole here: pull it again, then sign it")
    return Placed.of(new)


def _replaces(known: bytes | None, hint: str) -> bool:
    """Whether a signature goes where one with this hint comes: the same key's, or one that cannot be read."""
    if known is None:
        return True
    try:
        return bool(hint) and read_bundle(known).hint == hint
    except BadSignature:
        return True


def write_copy(blobs: Blobs, store: ModelStore, name: ModelName, data: bytes) -> bool:
    """Lists a model once more, by the bytes that were judged; False: blobs of it are gone.

    Raises:
        BridgeError: the disk refuses.
    """
    return list_model(blobs, store, name, data, read_manifest(data))
