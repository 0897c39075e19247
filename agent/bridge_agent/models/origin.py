"""A model's registry outside the mesh, as the transfers of its blobs see it. Blocks: run it in threads."""

from __future__ import annotations

import contextlib
import http.client
import time
import urllib.error
from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from bridge_agent.models.manifest_rules import MOST_MANIFEST
from bridge_agent.models.piece_rules import span
from bridge_core.errors import BridgeError, Reaction
from bridge_core.model_store.layout import MANIFEST_MEDIA
from bridge_core.model_store.registry import Registry, reason
from bridge_core.names import ModelName

_CHUNK: Final = 1 << 20
PIECE_S: Final = 300.0  # for a piece: a registry that sends a byte now and then never stalls, and never ends
_HOPELESS: Final = (400, 401, 403, 404)


class OriginFault(BridgeError):
    """The registry did not give what it was asked for.

    Attributes:
        hopeless: Asking again changes nothing.
        login: It wants to know who asks.
    """

    reaction = Reaction.ELSEWHERE

    def __init__(self, message: str, *, hopeless: bool = False, login: bool = False) -> None:
        super().__init__(message)
        self.hopeless = hopeless
        self.login = login


class Stream(Protocol):
    """A blob on its way from outside, from some piece on."""

    def read(self, piece: int) -> bytes:
        """The bytes of a piece; pieces are read in order, none before the first. Raises OriginFault."""

    def close(self) -> None:
        """Ends it."""


class OriginPort(Protocol):
    """Where a model comes from."""

    def manifest(self) -> bytes:
        """The manifest as it is there. Raises OriginFault."""

    def open(self, digest: str, size: int, piece: int) -> Stream:
        """The blob of a digest from a piece on. Raises OriginFault."""

    def kept(self, digest: str) -> None:
        """A blob is whole, has its digest, and is in the store."""

    def doubted(self, digest: str, size: int, stopped: Callable[[], bool]) -> None:
        """A whole of which pieces came from here had another digest; ends early once `stopped` says so."""


class Origin:
    """The registry that a model's name names."""

    def __init__(self, name: ModelName, *, insecure: bool = False) -> None:
        self._registry = Registry(name, insecure=insecure)
        self._tag = name.tag

    def manifest(self) -> bytes:
        """See `OriginPort`."""
        url = f"{self._registry.base}/manifests/{self._tag}"
        try:
            with self._registry.open("GET", url, headers={"Accept": MANIFEST_MEDIA}) as answer:
                data: bytes = answer.read(MOST_MANIFEST + 1)
        except (OSError, ValueError, http.client.HTTPException) as fault:
            raise _fault(fault, url) from fault
        return data

    def open(self, digest: str, size: int, piece: int) -> Stream:
        """See `OriginPort`."""
        return Download(self._registry, digest, size, piece)

    def kept(self, digest: str) -> None:
        """See `OriginPort`: nobody counts."""

    def doubted(self, digest: str, size: int, stopped: Callable[[], bool]) -> None:
        """See `OriginPort`: it is asked again, and what it sends is not believed more than before."""


class _Asked(Protocol):
    """A registry's repository, as a download needs it: see `bridge_core.model_store.registry.Registry`."""

    base: str

    def open(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, data: bytes | None = None
    ) -> Any:
        """Asks."""


class Download:
    """A blob on its way from a registry; see `Stream`.

    Args:
        registry: Whose it is.
        digest: Its digest.
        size: Its bytes.
        piece: From which one on.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        registry: _Asked,
        digest: str,
        size: int,
        piece: int,
        *,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._now = now
        self._url = f"{registry.base}/blobs/{digest}"
        self._size = size
        begin, _ = span(size, piece)
        wanted = {"Range": f"bytes={begin}-{size - 1}"} if begin else {}
        try:
            self._answer: Any = registry.open("GET", self._url, headers=wanted)
        except (OSError, ValueError, http.client.HTTPException) as fault:
            raise _fault(fault, self._url) from fault
        # A registry that knows no ranges sends all of it.
        self._at = begin if self._answer.status == 206 else 0

    def read(self, piece: int) -> bytes:
        """See `Stream`."""
        begin, length = span(self._size, piece)
        try:
            while self._at < begin:
                self._at += len(self._some(min(_CHUNK, begin - self._at)))
            parts, left, until = [], length, self._now() + PIECE_S
            while left:
                parts.append(self._some(min(_CHUNK, left)))
                left -= len(parts[-1])
                if left and self._now() >= until:
                    raise OriginFault(
                        f'Get "{self._url}": {length - left} bytes within {PIECE_S:g} s are too few'
                    )
        except (OSError, ValueError, http.client.HTTPException) as fault:
            raise _fault(fault, self._url) from fault
        self._at = begin + length
        return b"".join(parts)

    def _some(self, most: int) -> bytes:
        data: bytes = self._answer.read1(most)  # what is there, however little: time is looked at in between
        if not data:
            raise http.client.IncompleteRead(b"")
        return data

    def close(self) -> None:
        """See `Stream`."""
        with contextlib.suppress(OSError, http.client.HTTPException):
            self._answer.close()


def _fault(fault: Exception, url: str) -> OriginFault:
    code = fault.code if isinstance(fault, urllib.error.HTTPError) else 0
    why = "file does not exist" if code == 404 else reason(fault, url)
    if isinstance(fault, urllib.error.HTTPError):
        fault.close()  # it holds the connection
    return OriginFault(f'Get "{url}": {why}', hopeless=code in _HOPELESS, login=code in (401, 403))
