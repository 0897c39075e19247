"""How a connection of one's own to another node is made, where the pool's are not the right ones."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import msgspec

from bridge_core.tls import SslObject


class PeerWay(msgspec.Struct, frozen=True):
    """The way to a node's peer listener.

    Attributes:
        node: Its name.
        address: Host and port.
        context: What TLS is spoken with; None: none is.
        check: Returns when the verified certificate is that node's, or raises PeerRefused; for any thread.
    """

    node: str
    address: tuple[str, int]
    context: ssl.SSLContext | None
    check: Callable[[SslObject | None], object]
