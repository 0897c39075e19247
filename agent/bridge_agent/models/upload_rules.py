"""Uploads of blobs to a node that is pushed to: whose they are, how far, and what may go on. Pure.

Rules:
1. An upload belongs to the caller and the repository that it was begun for; to anybody else there is none.
2. Bytes come in order. A part that begins where the upload ends is added; one that begins before that was
   cut on its way and is sent again: it takes the place of what came of it. One beyond the end is refused.
3. A node has `MOST` uploads at a time, a caller `MOST_OF_ONE`; one that nothing came for in `IDLE_S` is gone.
4. Who uploaded a blob whole, or may pull a model that has it, may name it in a manifest, for `PROVEN_S`: to
   know a digest is not to have its bytes, and a manifest must not give away what its writer may not have.
   What no manifest came for by then is nobody's. So many blobs are remembered of a caller; of more the oldest
   are forgotten, and nobody else's.
"""

from __future__ import annotations

import re
from typing import Final

import msgspec

from bridge_agent.models.piece_rules import MOST_BYTES
from bridge_core.errors import BridgeError

MOST: Final = 64
MOST_OF_ONE: Final = 16
IDLE_S: Final = 3600.0
PROVEN_S: Final = 24 * 3600.0
MOST_PROVEN: Final = 16_384
MOST_PROVEN_OF_ONE: Final = 2048
DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")
_RANGE: Final = re.compile(rb"(?:bytes[ =])?(\d{1,19})-(\d{1,19})")


class UploadRefused(BridgeError):
    """A step of an upload cannot be taken.

    Attributes:
        status: The HTTP status that says so.
        code: That of the distribution spec.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Upload:
    """One upload.

    Attributes:
        id: Its name in addresses.
        repository: "<namespace>/<model>".
        caller: Whose it is.
        size: Bytes that are here.
        touched: When something came last.
        busy: A request is at it.
    """

    __slots__ = ("busy", "caller", "id", "repository", "size", "touched")

    def __init__(self, id_: str, repository: str, caller: str, now: float) -> None:
        self.id = id_
        self.repository = repository
        self.caller = caller
        self.size = 0
        self.touched = now
        self.busy = False


class Span(msgspec.Struct, frozen=True):
    """Where a part goes: from `begin` on, so many bytes; `length` None: as many as come."""

    begin: int
    length: int | None


def span_of(content_range: bytes | None, length: int | None, size: int) -> Span:
    """Where the part of a request goes in an upload of `size` bytes (rule 2).

    Args:
        content_range: The header "Content-Range", of the spec's or of HTTP's form.
        length: The header "Content-Length".
        size: Bytes that are here.

    Raises:
        UploadRefused: it does not go on where the upload ends, or is too long.
    """
    begin = size
    if content_range is not None:
        found = _RANGE.match(content_range)
        if found is None:
            raise UploadRefused(400, "BLOB_UPLOAD_INVALID", "its Content-Range is none: it is FIRST-LAST")
        begin, last = int(found[1]), int(found[2])
        if begin > size:
            raise UploadRefused(
                416, "BLOB_UPLOAD_INVALID", f"the upload ends at {size}, and this begins at {begin}"
            )
        if last < begin or (length is not None and last - begin + 1 != length):
            raise UploadRefused(400, "SIZE_INVALID", "its Content-Range is not as long as its body")
        length = last - begin + 1
    if begin + (length or 0) > MOST_BYTES:
        raise UploadRefused(413, "SIZE_INVALID", f"a blob has {MOST_BYTES} bytes at most")
    return Span(begin, length)


class Uploads:
    """The uploads of one node, and who has proven to have which blob."""

    def __init__(self) -> None:
        self._live: dict[str, Upload] = {}
        self._proven: dict[tuple[str, str], float] = {}
        self._forgotten: set[str] = set()  # since the last look: what may be nobody's

    def begin(self, id_: str, repository: str, caller: str, now: float) -> Upload:
        """A new one.

        Raises:
            UploadRefused: there are too many.
        """
        own = sum(one.caller == caller for one in self._live.values())
        if len(self._live) >= MOST or own >= MOST_OF_ONE:
            message = f"{own} uploads of yours and {len(self._live)} in all are under way: end some, or wait"
            raise UploadRefused(429, "TOOMANYREQUESTS", message)
        upload = self._live[id_] = Upload(id_, repository, caller, now)
        return upload

    def find(self, id_: str, repository: str, caller: str, now: float) -> Upload:
        """The upload of this name.

        Raises:
            UploadRefused: the caller has none of it in this repository, or another request is at it.
        """
        upload = self._live.get(id_)
        if upload is None or (upload.repository, upload.caller) != (repository, caller):
            raise UploadRefused(404, "BLOB_UPLOAD_UNKNOWN", "there is no such upload: begin anew")
        if upload.busy:
            raise UploadRefused(
                409, "BLOB_UPLOAD_INVALID", "another request is at this upload: wait for its end"
            )
        upload.touched = now
        return upload

    def ended(self, upload: Upload) -> None:
        """It is over, one way or the other."""
        self._live.pop(upload.id, None)

    def expire(self, now: float) -> tuple[list[Upload], set[str]]:
        """The uploads that nothing came for in too long, which are over, and the blobs that nobody claims."""
        old = [one for one in self._live.values() if not one.busy and now - one.touched >= IDLE_S]
        for one in old:
            del self._live[one.id]
        known = {hex_ for _, hex_ in self._proven} | self._forgotten
        self._forgotten = set()
        self._proven = {key: until for key, until in self._proven.items() if until > now}
        return old, known - {hex_ for _, hex_ in self._proven}

    def proved(self, caller: str, hex_: str, now: float) -> None:
        """The caller has shown to have this blob, or the right to."""
        self._proven.pop((caller, hex_), None)
        own = [key for key in self._proven if key[0] == caller]
        if len(own) >= MOST_PROVEN_OF_ONE or len(self._proven) >= MOST_PROVEN:
            oldest = own[0] if own else next(iter(self._proven))
            del self._proven[oldest]
            self._forgotten.add(oldest[1])
        self._proven[caller, hex_] = now + PROVEN_S

    def has_proved(self, caller: str, hex_: str, now: float) -> bool:
        """Whether that was so of late."""
        return self._proven.get((caller, hex_), now) > now
