"""The gRPC calls under way, so that somebody's can be ended."""

from __future__ import annotations

from collections.abc import Collection
from typing import Protocol

from bridge_core.errors import BridgeError
from bridge_core.http1 import IncompleteResponse


class OpenCall(Protocol):
    """One of them."""

    @property
    def caller(self) -> str | None:
        """Who makes it, as the pipeline found out."""

    def give_up(self, fault: BridgeError) -> None:
        """Cancels what is not answered yet; whoever waits for the answer gets `fault`."""


class Calls:
    """Those under way, so that somebody's can be ended."""

    def __init__(self) -> None:
        self._open: set[OpenCall] = set()

    def begun(self, reader: OpenCall) -> None:
        """One is under way."""
        self._open.add(reader)

    def over(self, reader: OpenCall) -> None:
        """It is no more."""
        self._open.discard(reader)

    def cut(self, identities: Collection[str]) -> None:
        """Ends the calls of those who may call no more."""
        for reader in list(self._open):
            if reader.caller in identities:
                reader.give_up(IncompleteResponse("the caller is no longer accepted"))
