"""A bucket as a tier: the same names as in a folder, as keys below a prefix."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from bridge_agent.models.manifest_rules import MOST_MANIFEST
from bridge_agent.models.shared.patience import Patience
from bridge_agent.models.shared.s3 import listing_rules
from bridge_agent.models.shared.s3.client import S3Client
from bridge_agent.models.shared.s3.objects import head, listing, read
from bridge_agent.models.shared.s3.writes import S3Writer
from bridge_agent.models.shared.storage import Listed, Stamp, TooMany, listed_at
from bridge_agent.models.shared.tier_files import MANIFESTS

AHEAD: Final = 4
_MOST_PAGES: Final = 17  # of a thousand: as many as are looked through in a folder


class S3Blob:
    """An object that is open: its ETag is known; see `OpenBlob`."""

    def __init__(self, client: S3Client, key: str, stamp: Stamp) -> None:
        self._client = client
        self._key = key
        self._stamp = stamp

    @property
    def stamp(self) -> Stamp:
        """See `OpenBlob`."""
        return self._stamp

    def read(self, offset: int, length: int) -> bytes:
        """See `OpenBlob`; may be called in several threads at one time."""
        left = min(length, self._stamp.size - offset)
        return self._client.read(self._key, self._stamp.state, self._stamp.size, offset, max(0, left))

    def close(self) -> None:
        """See `OpenBlob`."""


class S3Storage:
    """The bucket; see `Storage`.

    Args:
        client: Asks it.
    """

    def __init__(self, client: S3Client) -> None:
        self._client = client

    @property
    def where(self) -> str:
        """See `Storage`."""
        settings = self._client.file.last
        if settings is None:
            return f"S3 ({self._client.file.source})"
        return f"s3://{settings.bucket}/{settings.prefix} at {settings.host}".replace("/ at", " at")

    @property
    def ahead(self) -> int:
        """See `Storage`."""
        return AHEAD

    def manifest_at(self, place: str) -> bytes | None:
        """See `Storage`: one of no bytes says that the model was removed."""
        return read(self._client, f"{MANIFESTS}/{place}", most=MOST_MANIFEST) or None

    def listed(self) -> Iterator[Listed]:
        """See `Storage`."""
        settings, goes_on = self._client.file.read(), ""
        prefix = settings.name(f"{MANIFESTS}/")
        for _ in range(_MOST_PAGES):
            query = [("list-type", "2"), ("prefix", prefix)]
            if goes_on:
                query.append(("continuation-token", goes_on))
            page = listing(self._client.ask("GET", "", query=query, most=listing_rules.MOST_BYTES))
            for entry in page.entries:
                if entry.size and entry.key.startswith(prefix):
                    yield listed_at(entry.key.removeprefix(prefix))
            if not page.next or page.next == goes_on:
                return
            goes_on = page.next
        raise TooMany(f"more than {_MOST_PAGES - 1},000 objects lie below {prefix}")

    def open(self, hex_: str) -> S3Blob | None:
        """See `Storage`."""
        found = head(self._client, f"blobs/sha256-{hex_}")
        return None if found is None else S3Blob(self._client, f"blobs/sha256-{hex_}", found)

    def writer(self, patience: Patience) -> S3Writer:
        """See `Storage`."""
        return S3Writer(self._client, patience, lambda: self.where)
