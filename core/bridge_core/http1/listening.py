"""What all connections of one listener share: its settings, its clock, and which of them are open."""

from __future__ import annotations

import asyncio
import ssl as ssl_module
from collections.abc import Callable
from typing import Protocol

from bridge_core.http1.exchange import App
from bridge_core.http1.limits import HttpLimits
from bridge_core.http1.request import Request

ErrorBody = Callable[[int, str, str], tuple[bytes, bytes]]
Identify = Callable[[ssl_module.SSLObject], str | None]


class OpenConnection(Protocol):
    """A connection, as its listener sees it."""

    @property
    def deadline(self) -> float:
        """Loop time at which `expire` is to be called."""

    @property
    def identity(self) -> str | None:
        """Who the client's verified certificate names."""

    @property
    def shown(self) -> str | None:
        """Who the client's last request proved to be, where it was not the certificate that said so."""

    def expire(self, now: float) -> None:
        """Its time is over."""

    def too_slow(self, now: float) -> bool:
        """Whether a body that is read whole drips in; answers it then."""

    def drain(self) -> None:
        """Ends it now where it is idle, else after its answer."""

    def cut(self) -> None:
        """Ends it."""


class Listening:
    """One listener, as its connections see it.

    Attributes:
        app: What answers requests.
        name: The listener's name; requests carry it.
        limits: See `HttpLimits`.
        stream_body: Which bodies are passed on as they come; None: none.
        identify: Who a verified certificate names; None: nobody is asked for one.
        error_body: Renders what the listener refuses by itself.
        varying: Names of fields that differ from one request of a connection to the next.
        connections: What is open now.
        bodies_held: Bytes of bodies that are read whole and are not whole yet, of all connections.
        leaving: Answers say that their connection ends with them; who connects is still served.
        closing: No answer keeps its connection open any more.
        now: The loop's time at the last tick; what deadlines are counted from.
        date_line: The Date field, as of the last tick.
    """

    def __init__(
        self,
        app: App,
        *,
        name: str,
        limits: HttpLimits,
        stream_body: Callable[[Request], bool] | None,
        identify: Identify | None,
        error_body: ErrorBody,
        varying: frozenset[bytes],
    ) -> None:
        self.app = app
        self.name = name
        self.limits = limits
        self.stream_body = stream_body
        self.identify = identify
        self.error_body = error_body
        self.varying = varying
        self.connections: set[OpenConnection] = set()
        self.bodies_held = 0
        self.leaving = False
        self.closing = False
        self.now = 0.0
        self.date_line = b""
        self._empty: asyncio.Future[None] | None = None

    def add(self, connection: OpenConnection) -> None:
        """A connection was accepted."""
        self.connections.add(connection)

    def known(self, connection: OpenConnection) -> None:
        """A connection without a certificate turned out to be of somebody known."""

    def remove(self, connection: OpenConnection) -> None:
        """A connection has ended."""
        self.connections.discard(connection)
        if not self.connections and self._empty is not None and not self._empty.done():
            self._empty.set_result(None)
