"""What a tier is to whoever reads and writes it; a mounted folder and a bucket are such.

All of it blocks, and may hang: it is run in `Patience`. What it raises as OSError says that the storage is
away, or refuses.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator
from typing import Protocol

import msgspec

from bridge_agent.models.piece_rules import piece_count, span
from bridge_agent.models.shared.patience import Patience
from bridge_core.errors import BridgeError
from bridge_core.model_store.layout import describe
from bridge_core.names import InvalidName, ModelName


class PublishFault(BridgeError):
    """The model was not written, or not removed."""


class StorageFault(OSError):
    """The storage refuses, or is away; its text says why, for people."""


class TooMany(StorageFault):
    """More lies there than is looked through."""


def reason_of(fault: OSError) -> str:
    """What went wrong, for people."""
    return str(fault) if isinstance(fault, StorageFault) else describe(fault)


class Stamp(msgspec.Struct, frozen=True):
    """Which content, in which state: as long as it is the same, nobody wrote to it.

    Attributes:
        state: The file's number and time, or the object's ETag.
        size: Its bytes.
    """

    state: str
    size: int


class OpenBlob(Protocol):
    """A blob that is open."""

    @property
    def stamp(self) -> Stamp:
        """As it was when it was opened."""

    def read(self, offset: int, length: int) -> bytes:
        """The bytes there; fewer where it ends before. Raises OSError."""

    def close(self) -> None:
        """Lets go of it. Raises OSError."""


class Listed(msgspec.Struct, frozen=True):
    """A manifest that lies there.

    Attributes:
        place: Host, namespace, model and tag as they are spelled there, with a slash between them.
        name: The name that they make; None: they make none.
    """

    place: str
    name: ModelName | None


class Storage(Protocol):
    """Reads what lies there."""

    @property
    def where(self) -> str:
        """For people: what they call it."""

    @property
    def ahead(self) -> int:
        """How many pieces of a blob are read at one time: several where each is a question of its own."""

    def manifest_at(self, place: str) -> bytes | None:
        """The manifest at a place; None: it is none that can be read. Raises OSError."""

    def listed(self) -> Iterator[Listed]:
        """Every manifest. Raises TooMany: there are more; OSError."""

    def open(self, hex_: str) -> OpenBlob | None:
        """The blob of a digest, open; None where there is none. Raises OSError."""

    def writer(self, patience: Patience) -> TierWriting:
        """Writes there."""


class TierWriting(Protocol):
    """Writes into one tier, or removes from it. Every method raises PublishFault, also where it hangs.

    Rules:
    1. Readers see all of a blob or nothing. Its bytes are hashed on the way; what has another digest than it
       should is not kept. One that is there already is read and hashed, not believed.
    2. A manifest is put into its place last, when all its blobs are there, and goes first.
    3. Who writes a model holds the registry's lease for it. Before it begins it puts its own mark into the
       model's fence, and nothing is listed or removed unless the mark is still there and the lease still
       good: a writer that stood still for minutes finds another's mark.
    """

    def identity(self) -> str:
        """32 hexadecimal digits that are this tier's wherever it is asked, made at its first use."""

    def tidy(self) -> None:
        """Makes what writing needs, and removes what writers left behind that died."""

    def claim(self, name: ModelName, mark: str, valid: Callable[[], bool]) -> None:
        """Puts a writer's mark into a model's fence, while its lease is good."""

    def blob(
        self, hex_: str, size: int, read: Callable[[int], bytes], *, goes_on: Callable[[int], None]
    ) -> None:
        """Writes the blob of a digest, unless it is there and right.

        Args:
            hex_: The digits of its digest.
            size: Its bytes.
            read: Gives a piece of it.
            goes_on: Told after each piece how many bytes are through; raises what ends it.
        """

    def list_model(self, name: ModelName, data: bytes, mark: str, valid: Callable[[], bool]) -> None:
        """Puts a manifest into its place, while its writer is the last one that claimed it (rule 3)."""

    def unlist(self, name: ModelName, place: str, mark: str, valid: Callable[[], bool]) -> None:
        """Takes a manifest away, while its writer is the last one that claimed it (rule 3)."""

    def remove_blob(self, hex_: str) -> None:
        """Removes a blob; one that is gone is no fault."""


def place_of(name: ModelName) -> str:
    """Where the manifest of a name lies that is spelled as it is."""
    return f"{name.host}/{name.namespace}/{name.model}/{name.tag}"


def listed_at(place: str) -> Listed:
    """What lies at a place."""
    parts = place.split("/")
    name = None
    if len(parts) == 4:
        with contextlib.suppress(InvalidName):
            name = ModelName.parse(f"{parts[0]}/{parts[1]}/{parts[2]}:{parts[3]}")
    return Listed(place, name)


def manifest_in(storage: Storage, name: ModelName) -> bytes | None:
    """The manifest of a name in whatever case; None where there is none. Raises OSError."""
    found = storage.manifest_at(place_of(name))
    if found is not None:
        return found
    wanted = str(name).lower()
    with contextlib.suppress(TooMany):
        for one in storage.listed():
            if str(one.name).lower() == wanted:
                return storage.manifest_at(one.place)
    return None


def still_held(name: ModelName, valid: Callable[[], bool]) -> None:
    """Raises PublishFault: the lease is over."""
    if not valid():
        raise PublishFault(
            f"the lease for {name.short()} is over: the registry could not be reached in time",
            hint="do it again: what was written whole is there",
        )


def still_claimed(name: ModelName, found: bytes | None, mark: str, valid: Callable[[], bool]) -> None:
    """Raises PublishFault: another mark is in the model's fence by now, or the lease is over."""
    if found != mark.encode():
        raise PublishFault(f"another writer began to publish {name.short()} meanwhile: nothing was replaced")
    still_held(name, valid)


def of_its_digest(found: str, hex_: str) -> None:
    """Raises PublishFault: what was read of a blob to write it has another digest."""
    if found != hex_:
        raise PublishFault(
            f"blob {hex_[:12]} of this node does not have its digest: it is not published",
            hint="pull the model again here, or publish it from another node",
        )


def is_right(
    hex_: str, size: int, read: Callable[[int, int], bytes], *, goes_on: Callable[[int], None]
) -> bool:
    """Whether what lies there has its digest; see `TierWriting.blob`. Raises what `read` and `goes_on` do."""
    whole = hashlib.sha256()
    for piece in range(piece_count(size)):
        offset, length = span(size, piece)
        whole.update(read(offset, length))
        goes_on(offset + length)
    return whole.hexdigest() == hex_
