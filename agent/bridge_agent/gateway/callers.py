"""Callers whom other nodes forward for, made once for all their requests while the snapshot is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bridge_agent.authentication.authenticator import TokenVerifier
from bridge_agent.authentication.principals import principal_of
from bridge_agent.gateway.config import Caller, ListenerKind
from bridge_agent.routing.view import MeshView
from bridge_core.identity.principal import is_user
from bridge_core.snapshot import Snapshot

_MOST: Final = 4096  # principals that are remembered
_AGE_S: Final = 1.0  # for so long a client that expires meanwhile is still served


class Callers:
    """Who asks, by the text of a principal.

    Args:
        view: Has the snapshot.
        tokens: Proves users, whom no snapshot has.
        now: Unix seconds.
    """

    def __init__(self, view: MeshView, tokens: TokenVerifier, now: Callable[[], float] = time.time) -> None:
        self._view = view
        self._tokens = tokens
        self._now = now
        self._snapshot: Snapshot = view.current
        self._until = 0.0
        self._known: dict[tuple[str, str], Caller] = {}

    def over_hop(self, text: str, entry: str, proof: bytes = b"") -> Caller:
        """Whom another node forwards for.

        Args:
            text: The principal's, as that node says it.
            entry: That node.
            proof: The token that a user has shown to it.

        Raises:
            UnknownPrincipal: nobody who may call.
        """
        snapshot, now = self._view.current, self._now()
        if is_user(text):
            return Caller(self._tokens.proven(text, proof, snapshot, now), ListenerKind.PEER, entry)
        if snapshot is not self._snapshot or now >= self._until or len(self._known) >= _MOST:
            self._snapshot, self._until, self._known = snapshot, now + _AGE_S, {}
        known = self._known.get((text, entry))
        if known is None:
            who = principal_of(text, snapshot, entry, now)
            known = self._known[text, entry] = Caller(who, ListenerKind.PEER, entry)
        return known
