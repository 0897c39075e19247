"""Principals out of their texts, by the snapshot: pure."""

from __future__ import annotations

from math import inf

import msgspec

from bridge_core.clients import Client
from bridge_core.errors import BridgeError
from bridge_core.identity.principal import LOCAL_TEXT, ROLE, Kind, Principal, local
from bridge_core.identity.spiffe import IdentityFault, SpiffeId
from bridge_core.snapshot import Snapshot

_KINDS: dict[str, Kind] = {"client": "client", "admin": "admin", "node": "node"}


class UnknownPrincipal(BridgeError):
    """A text that names nobody who may call here."""


class NotToldYet(UnknownPrincipal):
    """Whom it names cannot be told here at present: another node may, or this one in a moment."""


class Proven(msgspec.Struct, frozen=True, gc=False):
    """Whom a credential names, and the Unix time from which on it no longer does."""

    principal: Principal
    until: float = inf


def principal_of(text: str, snapshot: Snapshot, entry: str, now: float) -> Principal:
    """Whom a text names, as this node's own snapshot has them.

    Args:
        text: What a hop says.
        snapshot: The mesh.
        entry: The node that the request came in at.
        now: Unix seconds.

    Raises:
        UnknownPrincipal: nobody; the message says why.
    """
    return local(entry) if text == LOCAL_TEXT else identified(text, snapshot, now)


def identified(text: str, snapshot: Snapshot, now: float) -> Principal:
    """Whom an identity of the mesh names at `now`, Unix seconds.

    Raises:
        UnknownPrincipal: nobody; the message says why.
    """
    try:
        identity = SpiffeId.parse(text)
    except IdentityFault as fault:
        raise UnknownPrincipal(f"{text[:200]!r} names nobody") from fault
    text = str(text)  # without the certificate of a `CertifiedName`: it is written into records
    kind = _KINDS.get(identity.kind)
    if kind is None or identity.trust_domain != snapshot.mesh.trust_domain:
        raise UnknownPrincipal(f"{text} is nobody of this mesh")
    if kind == "admin":
        admin = snapshot.admins.get(identity.name)
        if admin is None:
            raise UnknownPrincipal(f"{text} is no admin of this mesh, or not any more")
        return Principal(kind, identity.name, text, (), {ROLE: admin.role})
    if kind != "client":
        return Principal(kind, identity.name, text)
    known = snapshot.clients.get(identity.name)
    if known is None:
        raise UnknownPrincipal(f"there is no client {identity.name} in this mesh")
    refusal = why_refused(known, now)
    if refusal:
        raise UnknownPrincipal(refusal)
    return Principal(kind, identity.name, text, known.groups, known.attributes)


def why_refused(client: Client, now: float) -> str:
    """Why a client may not call at `now` (Unix seconds), whatever it shows; empty: it may."""
    if client.blocked:
        return f"client {client.name} is blocked"
    if client.expires and now >= client.expires:
        return f"client {client.name} has expired"
    return ""
