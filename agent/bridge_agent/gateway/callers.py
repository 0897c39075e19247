"""Callers whom other nodes forward for, made once for all their requests while the snapshot is the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from bridge_agent.authentication.hop_proofs import HopProofs
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
        proofs: Says whom other nodes forward for.
        now: Unix seconds.
    """

    def __init__(self, view: MeshView, proofs: HopProofs, now: Callable[[], float] = time.time) -> None:
        self._view = view
        self._proofs = proofs
        self._now = now
        self._snapshot: Snapshot = view.current
        self._until = 0.0
        self._known: dict[tuple[str, str, bytes], Caller] = {}

    def over_hop(self, text: str, entry: str, proof: bytes = b"") -> Caller:
        """Whom another node forwards for.

        Args:
            text: The principal's, as that node says it.
            entry: That node.
            proof: What proves that they have called there.

        Raises:
            NotToldYet: it cannot be told at present.
            UnknownPrincipal: nobody who may call, or nobody proven.
        """
        snapshot, now = self._view.current, self._now()
        if is_user(text):
            return Caller(self._proofs.principal(text, entry, proof, snapshot, now), ListenerKind.PEER, entry)
        if snapshot is not self._snapshot or now >= self._until or len(self._known) >= _MOST:
            self._snapshot, self._until, self._known = snapshot, now + _AGE_S, {}
        known = self._known.get((text, entry, proof))
        if known is None:
            who = self._proofs.principal(text, entry, proof, snapshot, now)
            known = self._known[text, entry, proof] = Caller(who, ListenerKind.PEER, entry)
        return known
