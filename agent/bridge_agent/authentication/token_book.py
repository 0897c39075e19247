"""The tokens that were looked at: a signature is checked once, not with each request that shows it."""

from __future__ import annotations

import hashlib
from typing import Final, TypeVar

from bridge_agent.authentication.principals import Proven, UnknownPrincipal
from bridge_agent.authentication.refusal import Refused
from bridge_agent.authentication.tokens import (
    SKEW_S,
    Issuer,
    TokenRejected,
    Verified,
    check_time,
    issuers_of,
    verify,
)
from bridge_core.identity.principal import Principal
from bridge_core.providers import IdentityProvider
from bridge_core.snapshot import Snapshot

T = TypeVar("T")

# A request may wait in its entry's queue after its token was looked at there.
HOP_GRACE_S: Final = 300.0
_MOST: Final = 4096  # tokens that are remembered, of those that count and of those that never will
_NOT_OURS: Final = frozenset({"malformed", "issuer"})
# What will be no better later, while the providers are the same.
_LASTING: Final = frozenset({"signature", "expired", "audience", "claims"})


class TokenBook:
    """Knows the issuers of a snapshot, and the tokens that were looked at; by SHA-256, not by themselves."""

    def __init__(self) -> None:
        self._snapshot: Snapshot | None = None
        self._providers: tuple[IdentityProvider, ...] = ()
        self._issuers: dict[str, Issuer] = {}
        self._verified: dict[bytes, Verified] = {}
        self._rejected: dict[bytes, TokenRejected] = {}

    def verify(self, token: bytes, snapshot: Snapshot, now: float) -> Proven | None:
        """Whom a token names at `now`, Unix seconds; None: its issuer is none of the mesh's.

        Raises:
            Refused: it is of such an issuer, or cannot be read, and does not count.
        """
        self._follow(snapshot)
        if not self._issuers:
            return None
        try:
            verified = self._look(token, now)
        except TokenRejected as fault:
            if fault.reason in _NOT_OURS:
                return None
            raise Refused(401, fault.message, reason=f"token_{fault.reason}") from fault
        return Proven(verified.principal, verified.expires + SKEW_S)

    def proven(self, text: str, proof: bytes, snapshot: Snapshot, now: float) -> Principal:
        """Whom another node forwards for, who has shown it this token.

        Raises:
            UnknownPrincipal: the token does not prove that, whatever the node says.
        """
        self._follow(snapshot)
        if not proof:
            raise UnknownPrincipal(f"{text} is not proven: the token is missing that the user has shown")
        try:
            verified = self._look(proof, now, HOP_GRACE_S)
        except TokenRejected as fault:
            raise UnknownPrincipal(f"{text} is not proven: {fault.message}") from fault
        if verified.principal.text != text:
            raise UnknownPrincipal(f"{text} is not proven: the token is another user's")
        return verified.principal

    def concerns(self, snapshot: Snapshot) -> list[str]:
        """What an operator should know, in a mesh of which this is the snapshot."""
        self._follow(snapshot)
        return [
            f"no token of the identity provider {one.provider.name} counts here: {one.fault}"
            for one in self._issuers.values()
            if one.fault
        ]

    def _follow(self, snapshot: Snapshot) -> None:
        if snapshot is self._snapshot:
            return
        self._snapshot = snapshot
        if snapshot.providers != self._providers:
            self._providers, self._issuers = snapshot.providers, issuers_of(snapshot.providers)
            self._verified.clear()
            self._rejected.clear()

    def _look(self, token: bytes, now: float, grace_s: float = 0.0) -> Verified:
        name = hashlib.sha256(token).digest()
        verified = self._verified.get(name)
        if verified is not None:
            check_time(verified, now, grace_s)
            return verified
        if (known := self._rejected.get(name)) is not None and not (grace_s and known.reason == "expired"):
            raise TokenRejected(known.reason, known.message)
        try:
            verified = verify(token, self._issuers, now, grace_s)
        except TokenRejected as fault:
            if fault.reason in _LASTING:
                _remember(self._rejected, name, TokenRejected(fault.reason, fault.message))
            raise
        _remember(self._verified, name, verified)
        return verified


def _remember(known: dict[bytes, T], name: bytes, value: T) -> None:
    while len(known) >= _MOST:
        del known[next(iter(known))]
    known[name] = value
