"""Writes a model into a bucket, or removes it there. Blocks: run it in threads.

The rules are those of `TierWriting`; this is how a bucket keeps them:

1. A blob is one PUT, or an upload in parts: until that is completed, after the last byte was hashed, nobody
   sees anything of it. Uploads that nobody completed are given up after a day.
2. A manifest is one PUT.
3. First the manifest's ETag is read, then the fence's mark, then the lease is looked at; then the manifest
   is put on condition that it still has that ETag (If-Match), or that there still is none (If-None-Match).
   Whoever claimed the fence after the look at it puts its manifest after the ETag was read: then the
   condition fails. (Unless what it put is byte for byte what was there before.)
   Objects cannot be deleted on a condition everywhere. So a model is taken away by an empty manifest, put in
   the same way, which stays; readers count it as none.

A store that does not keep these conditions gets nothing written: the first `identity` of a process finds out.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import secrets
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from bridge_agent.models.piece_rules import piece_count, piece_size, span
from bridge_agent.models.shared.fence_files import FENCES, IDENTITY, fence_name, read_identity
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.s3 import listing_rules
from bridge_agent.models.shared.s3.client import S3Client
from bridge_agent.models.shared.s3.fault import S3Fault
from bridge_agent.models.shared.s3.listing_rules import Entry
from bridge_agent.models.shared.s3.objects import head, listing, read
from bridge_agent.models.shared.steps import Steps
from bridge_agent.models.shared.storage import (
    PublishFault,
    is_right,
    of_its_digest,
    place_of,
    still_claimed,
    still_held,
)
from bridge_agent.models.shared.tier_files import MANIFESTS
from bridge_core.errors import BridgeError
from bridge_core.names import ModelName

PART: Final = 16 << 20
"""Bytes of a part at least; S3 takes no smaller ones than 5 MiB."""

_MOST_PARTS: Final = 10_000
_MOST_SMALL: Final = 64 << 10
_OLD_S: Final = 86_400.0
_COMPLETE_S: Final = 600.0
_NOT_FOR_US: Final = (403, 405, 501)  # a key that may not list uploads, a store that cannot


def part_pieces(size: int) -> int:
    """How many pieces of a blob of so many bytes make a part."""
    least = max(PART, -(-size // _MOST_PARTS))
    return -(-least // piece_size(size))


class S3Writer:
    """Writes into one bucket; see `TierWriting`.

    Args:
        client: Asks it.
        patience: Runs the steps.
        where: What it is called.
        wall: Unix seconds.
    """

    def __init__(
        self,
        client: S3Client,
        patience: Patience,
        where: Callable[[], str],
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._steps = Steps(where, patience)
        self._where = where
        self._wall = wall
        self._keeps_conditions = False

    def identity(self) -> str:
        """See `TierWriting`."""
        return self._steps.do("use", self._identity, within_s=4.0 * self._client.timeout_s)

    def tidy(self) -> None:
        """See `TierWriting`."""
        self._steps.do("use", self._tidy, within_s=4.0 * self._client.timeout_s)

    def claim(self, name: ModelName, mark: str, valid: Callable[[], bool]) -> None:
        """See `TierWriting`."""

        def work() -> None:
            still_held(name, valid)
            self._client.ask("PUT", f"{FENCES}/{fence_name(name)}", body=mark.encode(), most=_MOST_SMALL)

        self._steps.do("use", work, within_s=2.0 * self._client.timeout_s)

    def blob(
        self, hex_: str, size: int, read: Callable[[int], bytes], *, goes_on: Callable[[int], None]
    ) -> None:
        """See `TierWriting`."""
        if self._is_there(hex_, size, goes_on):
            return
        each = part_pieces(size)
        if piece_count(size) <= each:
            self._put_whole(hex_, size, read, goes_on)
        else:
            self._put_parts(hex_, size, read, goes_on, each)

    def list_model(self, name: ModelName, data: bytes, mark: str, valid: Callable[[], bool]) -> None:
        """See `TierWriting`."""
        work = partial(self._put_manifest, name, place_of(name), data, mark, valid)
        self._steps.do("write", work, within_s=4.0 * self._client.timeout_s)

    def unlist(self, name: ModelName, place: str, mark: str, valid: Callable[[], bool]) -> None:
        """See `TierWriting`."""
        work = partial(self._put_manifest, name, place, b"", mark, valid)
        self._steps.do("write", work, within_s=4.0 * self._client.timeout_s)

    def remove_blob(self, hex_: str) -> None:
        """See `TierWriting`."""
        self._steps.do("write", partial(self._client.ask, "DELETE", f"blobs/sha256-{hex_}", most=_MOST_SMALL))

    def _is_there(self, hex_: str, size: int, goes_on: Callable[[int], None]) -> bool:
        key = f"blobs/sha256-{hex_}"
        found = self._steps.do(
            "read", partial(head, self._client, key), within_s=2.0 * self._client.timeout_s
        )
        if found is None or found.size != size:
            return False

        def read(offset: int, length: int) -> bytes:
            part = partial(self._client.read, key, found.state, size, offset, length)
            return self._steps.do("read", part)

        return is_right(hex_, size, read, goes_on=goes_on)

    def _put_whole(
        self, hex_: str, size: int, read: Callable[[int], bytes], goes_on: Callable[[int], None]
    ) -> None:
        data = b"".join(read(piece) for piece in range(piece_count(size)))
        of_its_digest(hashlib.sha256(data).hexdigest(), hex_)
        within_s = self._client.timeout_s * max(1, piece_count(size))
        put = partial(
            self._client.ask, "PUT", f"blobs/sha256-{hex_}", body=data, most=_MOST_SMALL, within_s=within_s
        )
        goes_on(0)
        self._steps.do("write", put, within_s=within_s)
        goes_on(size)

    def _put_parts(
        self,
        hex_: str,
        size: int,
        read: Callable[[int], bytes],
        goes_on: Callable[[int], None],
        each: int,
    ) -> None:
        key = f"blobs/sha256-{hex_}"
        upload = self._steps.do("write", partial(self._begin, key))
        try:
            whole = hashlib.sha256()
            tags: list[str] = []
            within_s = self._client.timeout_s * each
            for first in range(0, piece_count(size), each):
                data = b"".join(read(piece) for piece in range(first, min(first + each, piece_count(size))))
                whole.update(data)
                work = partial(self._part, key, upload, len(tags) + 1, data, within_s)
                tags.append(self._steps.do("write", work, within_s=within_s))
                goes_on(span(size, first)[0] + len(data))
            of_its_digest(whole.hexdigest(), hex_)
            self._steps.do("write", partial(self._complete, key, upload, tags, size), within_s=_COMPLETE_S)
        except BaseException:
            with contextlib.suppress(BridgeError):  # it goes with what is old
                self._steps.do("clean up", partial(self._give_up, key, upload))
            raise

    # -- what runs in the threads

    def _identity(self) -> str:
        found = read(self._client, IDENTITY, most=_MOST_SMALL)
        if found is None:
            self._put_if(IDENTITY, secrets.token_hex(16).encode(), "")  # or another node was faster
            found = read(self._client, IDENTITY, most=_MOST_SMALL)
        text = read_identity(found, f"{IDENTITY} in {self._where()}")
        if not self._keeps_conditions:
            for etag in ("", '"00000000000000000000000000000000"'):
                if self._put_if(IDENTITY, text.encode(), etag):
                    raise PublishFault(
                        f"the store {self._where()} puts objects whatever the conditions say, and two "
                        "writers could spoil each other's models",
                        hint="it has to know If-None-Match and If-Match when it puts objects",
                    )
            self._keeps_conditions = True
        return text

    def _put_if(self, key: str, data: bytes, etag: str) -> bool:
        """Puts an object that still has this ETag, or that there is not yet; False: it is not so."""
        # Ceph compares If-Match with the ETag without its quotes, where objects are put; others with them.
        conditions = [("if-match", etag), ("if-match", etag.strip('"'))] if etag else [("if-none-match", "*")]
        for one in conditions:
            try:
                self._client.ask("PUT", key, headers=dict([one]), body=data, most=_MOST_SMALL, again=False)
            except S3Fault as fault:
                # 409: another one does so at this moment; 404: there is none, and so none with that ETag.
                if fault.status in (409, 412) or (etag and fault.status == 404):
                    continue
                raise
            return True
        return False

    def _put_manifest(
        self, name: ModelName, place: str, data: bytes, mark: str, valid: Callable[[], bool]
    ) -> None:
        before = head(self._client, f"{MANIFESTS}/{place}")
        found = read(self._client, f"{FENCES}/{fence_name(name)}", most=_MOST_SMALL)
        still_claimed(name, found, mark, valid)
        if not self._put_if(f"{MANIFESTS}/{place}", data, "" if before is None else before.state):
            raise PublishFault(
                f"another writer is publishing {name.short()} at this moment: nothing was replaced"
            )

    def _begin(self, key: str) -> str:
        answer = self._client.ask("POST", key, query=[("uploads", "")], most=_MOST_SMALL)
        upload = listing(answer).upload
        if not upload:
            raise S3Fault("it began an upload without a number")
        return upload

    def _part(self, key: str, upload: str, number: int, data: bytes, within_s: float) -> str:
        query = [("partNumber", str(number)), ("uploadId", upload)]
        answer = self._client.ask("PUT", key, query=query, body=data, most=_MOST_SMALL, within_s=within_s)
        if not answer.etag:
            raise S3Fault("it took a part and gave it no ETag")
        return answer.etag

    def _complete(self, key: str, upload: str, tags: Sequence[str], size: int) -> None:
        parts = "".join(
            f"<Part><PartNumber>{number}</PartNumber><ETag>{_escaped(tag)}</ETag></Part>"
            for number, tag in enumerate(tags, 1)
        )
        body = f"<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>".encode()
        listing(
            self._client.ask(
                "POST",
                key,
                query=[("uploadId", upload)],
                body=body,
                most=_MOST_SMALL,
                again=False,
                within_s=_COMPLETE_S,
            )
        )
        found = head(self._client, key)
        if found is None or found.size != size:
            raise S3Fault("what it has after the upload is not of the size that was sent")

    def _give_up(self, key: str, upload: str) -> None:
        self._client.ask("DELETE", key, query=[("uploadId", upload)], most=_MOST_SMALL)

    def _tidy(self) -> None:
        settings = self._client.file.read()
        prefix = settings.name("blobs/sha256-")
        query = [("uploads", ""), ("prefix", prefix)]
        try:
            found = listing(self._client.ask("GET", "", query=query, most=listing_rules.MOST_BYTES))
            for entry in found.entries:
                if entry.key.startswith(prefix) and self._is_old(entry):
                    self._give_up(entry.key.removeprefix(settings.name("")), entry.upload)
        except S3Fault as fault:
            if fault.status not in (404, *_NOT_FOR_US):
                raise

    def _is_old(self, entry: Entry) -> bool:
        try:
            begun = dt.datetime.fromisoformat(entry.begun)
        except ValueError:
            return False
        return begun.tzinfo is not None and begun.timestamp() < self._wall() - _OLD_S


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
