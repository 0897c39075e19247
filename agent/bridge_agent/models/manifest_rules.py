"""Which manifests are taken from a registry or another node. Pure.

A manifest comes from whoever wrote it: its digests become file names, its sizes room on the disk, and its
layers requests. Everything that is not what it has to be is refused by its name before anything is fetched.
"""

from __future__ import annotations

import re
from typing import Final

from bridge_agent.models.piece_rules import MOST_BYTES
from bridge_core.decoding import decode_json
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import Layer, Manifest

MOST_MANIFEST: Final = 4 << 20
MOST_LAYERS: Final = 1024
MOST_TEXT: Final = 512
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_MEDIA: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,126}/[A-Za-z0-9][A-Za-z0-9.+_-]{0,126}")
_WEIGHTS: Final = frozenset({"model", "projector", "adapter"})
_LINKS: Final = ("symlink", "hardlink")


class BadManifest(BridgeError):
    """A manifest that is refused; the message says what is wrong with it and in which layer."""


def read_manifest(data: bytes) -> Manifest:
    """The manifest in `data`.

    Raises:
        Undecodable: it is no manifest.
        BadManifest: it is one that nobody in good faith writes.
    """
    manifest = decode_json(data, Manifest, most=MOST_MANIFEST)
    if len(manifest.layers) > MOST_LAYERS:
        raise BadManifest(f"its {len(manifest.layers)} layers are more than the {MOST_LAYERS} that are taken")
    sizes: dict[str, int] = {}
    for at, layer in enumerate((manifest.config, *manifest.layers)):
        where = "its config" if not at else f"layer {at}"
        if fault := _fault(layer):
            raise BadManifest(f"{where} {fault}")
        if sizes.setdefault(layer.digest, layer.size) != layer.size:
            raise BadManifest(f"{where} gives {layer.digest} another size than a layer before it")
    if sum(sizes.values()) > MOST_BYTES:
        raise BadManifest(f"its layers have {sum(sizes.values())} bytes, {MOST_BYTES} at most are taken")
    return manifest


def blobs_of(manifest: Manifest) -> list[Layer]:
    """Every blob that a manifest names, once, in the order in which they are fetched: the config last."""
    return list({layer.digest: layer for layer in (*manifest.layers, manifest.config)}.values())


def weights_of(manifest: Manifest) -> list[Layer]:
    """The layers that an engine which loads the model has in memory."""
    return [layer for layer in manifest.layers if layer.kind in _WEIGHTS]


def _fault(layer: Layer) -> str:
    """What is wrong with a layer; empty when nothing is."""
    if _DIGEST.fullmatch(layer.digest) is None:
        return f"has the digest {layer.digest[:80]!r}, which is not sha256: and 64 lower-case digits"
    if not 0 <= layer.size <= MOST_BYTES:
        return f"has the size {layer.size}, which is not between 0 and {MOST_BYTES}"
    if _MEDIA.fullmatch(layer.media_type) is None or any(kind in layer.media_type for kind in _LINKS):
        return f"has the media type {layer.media_type[:80]!r}, which is none of a model's"
    for text in (layer.name, layer.from_):
        if len(text) > MOST_TEXT or "\x00" in text:
            return "has a name that is too long, or has a zero in it"
    if layer.name.startswith(("/", "\\")) or ".." in re.split(r"[/\\]", layer.name):
        return f"has the name {layer.name[:80]!r}, which leads out of its folder"
    return ""
