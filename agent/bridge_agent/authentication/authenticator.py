"""Who asks at a client listener: the one place where a request becomes a caller, or is refused.

Rules:
1. Looked at in this order: the certificate of the connection, API keys, tokens. Whatever counts must name
   one and the same principal.
2. On the loopback listener whoever shows nothing that counts is `local`, as far as the mesh's settings let
   it; elsewhere it is refused.
3. An address that failed too often is not looked at for a while (`attempt_rules`). Only what shows a key
   or a token, and is none that counts, is a failure: who shows nothing guesses nothing.
4. What was found out is kept for all requests of a connection that repeat a head, until the snapshot, the
   mesh's secrets or a credential's time end it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from math import ceil, inf
from typing import Final, Protocol

import msgspec

from bridge_agent.authentication.attempt_rules import Attempts
from bridge_agent.authentication.credentials import Shown, shown_by
from bridge_agent.authentication.hop_proofs import HopProofs, of_certificate, of_key
from bridge_agent.authentication.keyring import Keyrings
from bridge_agent.authentication.mesh_secrets import MeshSecrets
from bridge_agent.authentication.principals import Proven, UnknownPrincipal, identified
from bridge_agent.authentication.refusal import Refused
from bridge_agent.authentication.token_book import TokenBook
from bridge_agent.gateway.config import Caller, ListenerKind
from bridge_agent.routing.view import Index, MeshView
from bridge_core.http1 import Request
from bridge_core.identity.certificate_info import CertifiedName
from bridge_core.identity.principal import Principal, local
from bridge_core.snapshot import Snapshot

NEEDED: Final = "a client certificate or API key is needed"
_MOST: Final = 4096  # identities that are remembered


class TokenVerifier(Protocol):
    """Knows the issuers of tokens (JWTs) that the mesh believes."""

    def verify(self, token: bytes, snapshot: Snapshot, now: float) -> Proven | None:
        """Whom a token names at `now`, Unix seconds; None: its issuer is none of the mesh's.

        Raises:
            Refused: it is of such an issuer, or says so, and does not count.
        """
        ...

    def proven(self, text: str, proof: bytes, snapshot: Snapshot, now: float) -> Principal:
        """See `ProvesUsers`."""
        ...


class _Verdict(msgspec.Struct, frozen=True, gc=False):
    caller: Caller
    round: int
    until: float


class Authenticator:
    """Says who asks.

    Args:
        view: Has the snapshot.
        node: This node's name.
        secrets: What the mesh told this node beside the snapshot.
        tokens: Who knows tokens; None: a book of its own.
        now: Unix seconds.
        clock: Monotonic seconds.

    Attributes:
        attempts: Failures by address.
        tokens: Who knows tokens.
        proofs: Says whom other nodes forward for.
    """

    def __init__(
        self,
        view: MeshView,
        node: str,
        secrets: MeshSecrets | None = None,
        *,
        tokens: TokenVerifier | None = None,
        now: Callable[[], float] = time.time,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._view = view
        self._secrets = MeshSecrets() if secrets is None else secrets
        self.tokens: TokenVerifier = TokenBook() if tokens is None else tokens
        self._now = now
        self._clock = clock
        self.attempts = Attempts()
        self._local = Caller(local(node), ListenerKind.LOCAL)
        self._snapshot = view.current
        self._pepper = self._secrets.pepper
        self._keyrings = Keyrings()
        self.proofs = HopProofs(self._secrets, self._keyrings, self.tokens)
        self._identified: dict[str, Proven] = {}  # by identity, of this snapshot
        self._round = 0
        view.subscribe(self._follow)

    def caller(self, request: Request, listener: ListenerKind) -> Caller:
        """Who sent a request to a listener: `LOCAL` or `TLS`.

        Raises:
            Refused: nobody who may call.
        """
        known: _Verdict | None = request.memo.get(Authenticator)
        if self._secrets.pepper is not self._pepper:
            self._begin()
        if (
            known is not None
            and known.round == self._round
            and (known.until == inf or self._now() < known.until)
        ):
            return known.caller
        if Refused in request.memo:
            raise request.memo.pop(Refused)  # held by no name here: it would hold this frame, and so itself
        verdict = self._decide(request, listener)
        request.memo[Authenticator] = verdict
        return verdict.caller

    def refuses(self, request: Request, listener: ListenerKind) -> bool:
        """Whether it is nobody's, and `caller` will say so: what it shows is looked at once."""
        try:
            self.caller(request, listener)
        except Refused as refused:
            request.memo[Refused] = refused.with_traceback(None)  # which holds the request
            return True
        return False

    def challenge(self, refused: Refused) -> bytes:
        """`WWW-Authenticate` of an answer 401."""
        realm = self._view.current.mesh.trust_domain.encode("ascii", "replace")
        return b'Bearer realm="%b"%b' % (realm, b', error="invalid_token"' if refused.shown else b"")

    def _follow(self, index: Index) -> None:
        """Another snapshot may be in force."""
        if index.snapshot is not self._snapshot:
            self._begin()

    def _begin(self) -> None:
        """All that was found out before counts no more."""
        self._snapshot, self._pepper = self._view.current, self._secrets.pepper
        self._identified = {}
        self._round += 1

    def _decide(self, request: Request, listener: ListenerKind) -> _Verdict:
        shown = shown_by(request.headers)
        if shown is None:
            raise Refused(401, "the same credential field comes twice: send one", reason="twice")
        if not shown.keys and not shown.tokens:
            return self._look(request, listener, shown)
        address, fingerprint = request.remote[0] if request.remote else "", hash((shown.keys, shown.tokens))
        wait = self.attempts.wait(address, self._clock())
        if wait and not self.attempts.is_known(fingerprint, self._clock()):
            message = (
                "too many keys and tokens from this address were wrong: nothing is looked at for a while"
            )
            raise Refused(429, message, retry_after=ceil(wait), reason="too_many")
        try:
            verdict = self._look(request, listener, shown)
        except Refused as refused:
            if refused.status == 401:
                self.attempts.failed(address, self._clock())
            raise
        if verdict.caller is not self._local:
            self.attempts.passed(fingerprint, self._clock())
        return verdict

    def _look(self, request: Request, listener: ListenerKind, shown: Shown) -> _Verdict:
        now, identity, proof = self._now(), request.identity, b""
        proven = [self._by_identity(identity, now)] if identity is not None else []
        if isinstance(identity, CertifiedName):
            proof = of_certificate(identity.certificate)
        for key in shown.keys:
            one, proof = self._by_key(key, now)
            proven.append(one)
        found = [self.tokens.verify(token, self._snapshot, now) for token in shown.tokens]
        proven += [one for one in found if one is not None]
        if not proven:
            return self._unproven(listener, shown=bool(shown.tokens))
        who = proven[0].principal
        for other in proven[1:]:
            if other.principal != who:
                raise Refused(401, f"this shows credentials of {who.text} and of {other.principal.text}")
        if who.kind == "user":  # shown by tokens alone, and all that count name the same
            proof = shown.tokens[0]
        caller = Caller(who, listener, proof=proof)
        return _Verdict(caller, self._round, min(one.until for one in proven))

    def _unproven(self, listener: ListenerKind, *, shown: bool) -> _Verdict:
        if listener is not ListenerKind.LOCAL:
            raise Refused(401, NEEDED, shown=shown)
        if self._snapshot.mesh.security.local_listener == "off":
            raise Refused(401, f"{NEEDED} also on this machine: its open listener is off", shown=shown)
        return _Verdict(self._local, self._round, inf)

    def _by_identity(self, identity: str, now: float) -> Proven:
        known = self._identified.get(identity)
        if known is not None and now < known.until:
            return known
        try:
            principal = identified(identity, self._snapshot, now)
        except UnknownPrincipal as fault:
            raise Refused(403, fault.message, reason="not_allowed") from fault
        if len(self._identified) >= _MOST:
            self._identified.clear()
        found = self._identified[identity] = Proven(principal, self._end_of(principal))
        return found

    def _by_key(self, text: bytes, now: float) -> tuple[Proven, bytes]:
        """Whom a key names, and what proves to other nodes that it was shown."""
        owned = self._keyrings.of(self._snapshot.clients).owner(text, self._pepper, now)
        client, key = owned.client, owned.key
        proven = self._by_identity(f"spiffe://{self._snapshot.mesh.trust_domain}/client/{client.name}", now)
        if key.expires:
            proven = Proven(proven.principal, min(proven.until, key.expires))
        return proven, of_key(key.id.encode(), owned.proof)

    def _end_of(self, principal: Principal) -> float:
        client = self._snapshot.clients.get(principal.name) if principal.kind == "client" else None
        return inf if client is None else client.expires or inf
