"""What goes from shared storage with a model, and what stays. Pure.

Rules:
1. Every spelling of the model's name goes.
2. A blob goes that a manifest of it names and no other one does.
3. Where there is a manifest of another model that cannot be read, it may name any blob: then all blobs stay.
   Where it is the model's own, nobody knows what was its: then they stay, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from bridge_agent.models.manifest_rules import BadManifest, blobs_of, read_manifest
from bridge_core.decoding import Undecodable
from bridge_core.model_store.layout import hex_digest
from bridge_core.names import ModelName


class Found(msgspec.Struct, frozen=True):
    """A manifest as it lies there.

    Attributes:
        place: Where.
        name: The name that its place makes; None: none.
        blobs: The digits of the digests that it names, and their bytes; None: it cannot be read.
    """

    place: str
    name: ModelName | None
    blobs: Mapping[str, int] | None


class Going(msgspec.Struct, frozen=True):
    """What is to be removed.

    Attributes:
        places: Of manifests.
        blobs: The digits of digests, and their bytes.
        kept: Blobs that stay, and why each does.
    """

    places: tuple[str, ...]
    blobs: Mapping[str, int]
    kept: Mapping[str, str]


def found(place: str, name: ModelName | None, data: bytes | None) -> Found:
    """A manifest, of whose bytes `data` are all; None: they cannot be read."""
    try:
        blobs = (
            None
            if data is None
            else {hex_digest(one.digest): one.size for one in blobs_of(read_manifest(data))}
        )
    except (Undecodable, BadManifest):
        blobs = None
    return Found(place, name, blobs)


def going(model: ModelName, all_: Iterable[Found]) -> Going:
    """What goes with a model; nothing where it is not there."""
    wanted = str(model).lower()
    places: list[str] = []
    own: dict[str, int] = {}
    others: dict[str, str] = {}  # by whom a blob is named
    unreadable = ""
    for one in all_:
        is_it = one.name is not None and str(one.name).lower() == wanted
        if is_it:
            places.append(one.place)
        if one.blobs is None:
            unreadable = unreadable or one.place
        elif is_it:
            own.update(one.blobs)
        else:
            others.update(dict.fromkeys(one.blobs, one.place))
    kept = {
        hex_: f"{others[hex_]} uses it" if hex_ in others else f"the manifest {unreadable} cannot be read"
        for hex_ in own
        if hex_ in others or unreadable
    }
    return Going(tuple(places), {hex_: size for hex_, size in own.items() if hex_ not in kept}, kept)
