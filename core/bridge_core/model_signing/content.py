"""What of a model is signed: its manifest without the signatures, which lie in it as layers. Pure.

Rules:
1. A signature is a layer of the manifest, after all others, of the media type of Sigstore's bundles: so it
   travels with the model by every `pull` and `push` there is, and is one of its blobs.
2. What is signed is the manifest without such layers, in the one encoding of `encode_manifest`: Go's, of
   Ollama's structs, so that a client that decodes and encodes a manifest on its way keeps it.
3. A manifest that is not, byte for byte, what its layers are written as, has no valid signature: nothing may
   stand in it that is not signed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_store.layout import Layer, Manifest, encode_manifest

MEDIA: Final = "application/vnd.dev.sigstore.bundle.v0.3+json"
"""Of a layer that is a signature."""

MOST_SIGNATURES: Final = 8
MOST_BUNDLE: Final = 1 << 20  # bytes of one signature; a statement about 1024 layers has 300 KiB
_MOST_MANIFEST: Final = 4 << 20


class Content(msgspec.Struct, frozen=True):
    """A manifest, taken apart.

    Attributes:
        manifest: It, without its signatures.
        data: The bytes of that, which are signed.
        signatures: The layers that are signatures.
        exact: The manifest was written as rule 3 has it.
    """

    manifest: Manifest
    data: bytes
    signatures: tuple[Layer, ...]
    exact: bool

    @property
    def digest(self) -> str:
        """The hexadecimal SHA-256 of what is signed."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def blobs(self) -> frozenset[str]:
        """The digests' digits of the blobs that the model is made of, without signatures."""
        layers = (self.manifest.config, *self.manifest.layers)
        return frozenset(layer.digest.removeprefix("sha256:") for layer in layers)


def signatures_of(manifest: Manifest) -> tuple[Layer, ...]:
    """The layers that are signatures."""
    return tuple(layer for layer in manifest.layers if layer.media_type == MEDIA)


def content_of(data: bytes) -> Content:
    """What a manifest says, and which signatures it has.

    Raises:
        BadSignature: it is no manifest, or has more signatures than are taken.
    """
    try:
        whole = decode_json(data, Manifest, most=_MOST_MANIFEST)
    except Undecodable as fault:
        raise BadSignature(f"its manifest cannot be read: {fault.message}") from fault
    signatures = signatures_of(whole)
    if len(signatures) > MOST_SIGNATURES:
        raise BadSignature(f"it has {len(signatures)} signatures, {MOST_SIGNATURES} at most are taken")
    plain = [layer for layer in whole.layers if layer.media_type != MEDIA]
    bare = Manifest(whole.config, plain, whole.schema_version, whole.media_type)
    ordered = whole.layers == [*plain, *signatures]
    named = any(layer.from_ or layer.name for layer in signatures)
    exact = ordered and not named and data == encode_manifest(whole)
    return Content(bare, encode_manifest(bare), signatures, exact)


def with_signatures(content: Content, signatures: Iterable[Layer]) -> bytes:
    """The manifest of this content with these signatures.

    Raises:
        BadSignature: they are more than are taken.
    """
    layers = list(signatures)
    if len(layers) > MOST_SIGNATURES:
        raise BadSignature(f"a model has {MOST_SIGNATURES} signatures at most")
    bare = content.manifest
    return encode_manifest(
        Manifest(bare.config, [*bare.layers, *layers], bare.schema_version, bare.media_type)
    )
