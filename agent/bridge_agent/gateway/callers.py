"""Callers, made once for all requests of a principal while the snapshot is the same."""

from __future__ import annotations

from typing import Final

from bridge_agent.authentication.principals import principal_of
from bridge_agent.gateway.config import Caller, ListenerKind
from bridge_agent.routing.view import MeshView
from bridge_core.identity.principal import local
from bridge_core.snapshot import Snapshot

_MOST: Final = 4096  # principals that are remembered


class Callers:
    """Who asks, by the text of a principal.

    Args:
        view: Has the snapshot.
        node: This node's name.

    Attributes:
        local: Whoever calls the loopback listener.
    """

    def __init__(self, view: MeshView, node: str) -> None:
        self._view = view
        self._node = node
        self._snapshot: Snapshot = view.current
        self._known: dict[tuple[str, str], Caller] = {}
        self.local = Caller(local(node), ListenerKind.LOCAL)

    def at_tls(self, text: str) -> Caller:
        """Who came with this identity at a client listener.

        Raises:
            UnknownPrincipal: nobody who may.
        """
        return self._of(text, ListenerKind.TLS, "")

    def over_hop(self, text: str, entry: str) -> Caller:
        """Whom another node forwards for.

        Raises:
            UnknownPrincipal: nobody who may.
        """
        return self._of(text, ListenerKind.PEER, entry)

    def _of(self, text: str, listener: ListenerKind, via: str) -> Caller:
        snapshot = self._view.current
        if snapshot is not self._snapshot or len(self._known) >= _MOST:
            self._snapshot, self._known = snapshot, {}
        known = self._known.get((text, via))
        if known is None:
            who = principal_of(text, snapshot, via or self._node)
            known = self._known[text, via] = Caller(who, listener, via)
        return known
