"""Whether a Join or a Renew is granted, and with what: pure.

Rules:
1. A token is good while it proves its secret, names this CA, is not revoked, has not expired and
   has uses left; the first of these that fails, in this order, is what the caller is told. Who
   cannot prove the secret learns nothing but that.
2. A token made for a node name enrols that name alone, and may enrol it again: the older
   certificates of the name are then revoked. Any other token enrols only a name that is free.
3. The same node with the same key and the same token is a repetition of a Join whose answer was
   lost: it is granted again and costs no further use.
4. A certificate names what its holder is dialled by, as far as nobody else in the mesh is and it
   is not one of the Bridge's own names.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.errors import BridgeError
from bridge_core.identity import IdentityFault, JoinToken
from bridge_registry.records import NodeRecord, TokenRecord

RESERVED_SUFFIX: Final = ".bridge.internal"
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?")
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class JoinRefusal(enum.Enum):
    """Why a request is refused; each becomes one gRPC status."""

    UNAUTHENTICATED = "unauthenticated"
    TAKEN = "taken"
    INVALID = "invalid"
    DENIED = "denied"


class EnrolmentRefused(BridgeError):
    """A Join, Renew or Leave that is not granted."""

    def __init__(self, refusal: JoinRefusal, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal


class Names(msgspec.Struct, frozen=True):
    """What a certificate's holder is dialled by."""

    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]


def check_token(token: JoinToken, record: TokenRecord | None, ca_pin: str) -> TokenRecord:
    """The record, when the token is of this mesh and genuine (rule 1, first half).

    Raises:
        EnrolmentRefused: it is not.
    """
    if token.ca_pin != ca_pin:
        raise EnrolmentRefused(
            JoinRefusal.UNAUTHENTICATED,
            "the join token is of another mesh: it names another CA",
            hint="make one with `bridgectl token create` against this registry",
        )
    if record is None or not token.proves(record.secret_hash):
        raise EnrolmentRefused(
            JoinRefusal.UNAUTHENTICATED,
            "the join token is wrong: this registry did not make it",
            hint="make one with `bridgectl token create` against this registry",
        )
    return record


def check_use(record: TokenRecord, now: float) -> None:
    """Returns when the token can be used now (rule 1, second half).

    Raises:
        EnrolmentRefused: it is revoked, expired or used.
    """
    hint = "make a new one with `bridgectl token create`"
    if record.revoked:
        raise EnrolmentRefused(JoinRefusal.UNAUTHENTICATED, "the join token was revoked", hint=hint)
    if now >= record.expires:
        ago = int(now - record.expires)
        raise EnrolmentRefused(JoinRefusal.UNAUTHENTICATED, f"the join token expired {ago} s ago", hint=hint)
    if record.uses_left < 1:
        raise EnrolmentRefused(JoinRefusal.UNAUTHENTICATED, "the join token was already used", hint=hint)


def is_repetition(existing: NodeRecord | None, token_id: str, key: str) -> bool:
    """Whether this Join was granted before (rule 3)."""
    return (
        existing is not None
        and existing.state != "revoked"
        and (existing.token, existing.key) == (token_id, key)
    )


def check_name(name: str, record: TokenRecord, existing: NodeRecord | None) -> None:
    """Returns when the token may enrol `name` (rule 2).

    Raises:
        EnrolmentRefused: it may not.
    """
    if record.node_name not in {"", name}:
        raise EnrolmentRefused(
            JoinRefusal.UNAUTHENTICATED,
            f"the join token is for the node {record.node_name}, not {name}",
            hint=f"join as {record.node_name}, or make a token for {name}",
        )
    if existing is not None and record.node_name != name:
        raise EnrolmentRefused(
            JoinRefusal.TAKEN,
            f"the node name {name} is taken",
            hint=f"choose another --name, or make a token with --node {name} to replace that node",
        )


def grantable_names(
    node: str, peer_address: str, asked: Iterable[str], others: Mapping[str, NodeRecord]
) -> Names:
    """The names that `node`'s certificate carries: asked for, implied, and never another's (rule 4).

    Raises:
        EnrolmentRefused: it asks for a name that belongs to somebody else.
    """
    theirs = {name for name in others if name != node}
    theirs |= {host_of(other.peer) for name, other in others.items() if name != node and other.peer}
    theirs -= {"", *_LOOPBACK_NAMES}
    hosts = dict.fromkeys([node, *_LOOPBACK_NAMES])
    own_host = host_of(peer_address)
    for host in [own_host, *asked]:
        if host in theirs and host != own_host:
            raise EnrolmentRefused(
                JoinRefusal.DENIED, f"the certificate request asks for {host}, which is another node's"
            )
        if host.endswith(RESERVED_SUFFIX):
            raise EnrolmentRefused(
                JoinRefusal.DENIED, f"the certificate request asks for {host}, a name of the Bridge's own"
            )
        if host:
            hosts[host] = None
    return _by_kind(hosts)


def _by_kind(hosts: Iterable[str]) -> Names:
    dns_names, addresses = [], []
    for host in hosts:
        try:
            addresses.append(str(ipaddress.ip_address(host)))
        except ValueError:
            if len(host) > 253 or not _HOST_NAME.fullmatch(host):  # no wildcards either
                raise EnrolmentRefused(
                    JoinRefusal.INVALID, f"the certificate request asks for {host!r}, which is no host name"
                ) from None
            dns_names.append(host)
    return Names(tuple(dns_names), tuple(addresses))


def check_peer_address(address: str) -> None:
    """Returns when others can dial `address`.

    Raises:
        EnrolmentRefused: it is not host:port.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        raise EnrolmentRefused(JoinRefusal.INVALID, f"{address!r} is not a peer address", hint="host:port")
    if any(mark in host for mark in "/ @,") or len(host) > 253:
        raise EnrolmentRefused(JoinRefusal.INVALID, f"{address!r} is not a peer address", hint="host:port")


def check_labels(labels: Mapping[str, str]) -> None:
    """Returns when the labels are few and short: every agent gets them in every snapshot.

    Raises:
        EnrolmentRefused: they are not.
    """
    if len(labels) > 64 or any(
        not key or len(key) > 128 or len(value) > 256 for key, value in labels.items()
    ):
        raise EnrolmentRefused(
            JoinRefusal.INVALID, "too many or too long labels", hint="64 at most, keys of 128, values of 256"
        )


def host_of(address: str) -> str:
    """The host of host:port, without brackets; empty for an empty address."""
    return address.rpartition(":")[0].strip("[]")


def as_refusal(fault: IdentityFault) -> EnrolmentRefused:
    """The refusal that a bad name or request is."""
    return EnrolmentRefused(JoinRefusal.INVALID, fault.message, hint=fault.hint)
