"""Whether a Join or a Renew is granted, and with what: pure.

Rules:
1. A token is good while it proves its secret, names a root of this mesh, is not revoked, has not expired and
   has uses left; the first of these that fails, in this order, is what the caller is told. Who
   cannot prove the secret learns nothing but that.
2. A token made for a node name enrols that name alone, and may enrol it again: the older
   certificates of the name are then revoked. Any other token enrols only a name that is free.
3. The same node with the same key and the same token is a repetition of a Join whose answer was
   lost: it is granted again and costs no further use.
4. A certificate names its holder's node name, loopback, and the address that it advertises; a host
   name only where an admin allowed it with the token. Whatever else is asked for is left out, and what
   is somebody else's in the mesh or the Bridge's own is refused. All of it is compared in one spelling.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.addresses import join_address
from bridge_core.errors import BridgeError
from bridge_core.identity import IdentityFault, JoinToken
from bridge_core.identity.host_names import address_of, canonical_host, is_reserved
from bridge_registry.records import NodeRecord, TokenRecord

_MAX_DNS_NAMES: Final = 64
_LABEL_KEY: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?")
_LOOPBACK_NAMES: Final = ("localhost", "127.0.0.1", "::1")


class JoinRefusal(enum.Enum):
    """Why a request is refused; each becomes one gRPC status."""

    UNAUTHENTICATED = "unauthenticated"
    TAKEN = "taken"
    INVALID = "invalid"
    DENIED = "denied"
    TOO_OFTEN = "too often"


class EnrolmentRefused(BridgeError):
    """A Join, Renew or Leave that is not granted."""

    def __init__(self, refusal: JoinRefusal, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.refusal = refusal


class Names(msgspec.Struct, frozen=True):
    """What a certificate's holder is dialled by, and what it asked for besides and does not get."""

    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]
    left_out: tuple[str, ...] = ()


def check_pin(ca_pin: str, pins: Collection[str]) -> None:
    """Returns when who joins knows this mesh's CA, and not another's.

    Raises:
        EnrolmentRefused: it does not.
    """
    if ca_pin not in pins:
        raise EnrolmentRefused(
            JoinRefusal.UNAUTHENTICATED,
            "the join token is of another mesh: it names another CA",
            hint="make one with `bridgectl token create` against this registry",
        )


def check_token(token: JoinToken, record: TokenRecord | None, pins: Collection[str]) -> TokenRecord:
    """The record, when the token is of this mesh and genuine (rule 1, first half).

    Raises:
        EnrolmentRefused: it is not.
    """
    check_pin(token.ca_pin, pins)
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
    node: str,
    peer_address: str,
    asked: Iterable[str],
    others: Mapping[str, NodeRecord],
    allowed: Iterable[str],
) -> Names:
    """The names that `node`'s certificate carries (rule 4).

    Args:
        node: Its name.
        peer_address: Where others reach it; empty: not known yet.
        asked: The names and addresses of its request.
        others: The mesh's nodes.
        allowed: The host names that an admin lets it have, see `check_dns_names`.

    Raises:
        EnrolmentRefused: it asks for a name that belongs to somebody else.
    """
    own_host = canonical(host_of(peer_address)) if peer_address else ""
    theirs = {_host_as_stored(other.peer) for name, other in others.items() if name != node and other.peer}
    names, left_out = dict.fromkeys([node, *_LOOPBACK_NAMES]), []
    patterns = tuple(allowed)
    for host in dict.fromkeys([*filter(None, [own_host]), *map(canonical, asked)]):
        if host in names:
            continue
        if (host in others and host != node) or (host in theirs and host != own_host):
            raise EnrolmentRefused(
                JoinRefusal.DENIED,
                f"the certificate request asks for {host}, which is another node's",
                hint="advertise this machine's address, or a name of its own",
            )
        if is_reserved(host):
            raise EnrolmentRefused(
                JoinRefusal.DENIED, f"the certificate request asks for {host}, a name of the Bridge's own"
            )
        may = host == own_host if address_of(host) else _allowed(host, patterns)
        if may:
            names[host] = None
        else:
            left_out.append(host)
    granted = [(address_of(name), name) for name in names]
    return Names(
        tuple(name for address, name in granted if not address),
        tuple(address for address, _ in granted if address),
        tuple(left_out),
    )


def check_dns_names(names: Iterable[str]) -> tuple[str, ...]:
    """What an admin lets nodes be called, in canonical spelling: host names, and `*.` before a name for
    any one label below it.

    Raises:
        EnrolmentRefused: one is no host name, or the Bridge's own, or there are too many.
    """
    result = []
    for name in names:
        star, host = ("*.", name[2:]) if name.startswith("*.") else ("", name)
        host = canonical(host)
        if is_reserved(host) or address_of(host):
            raise EnrolmentRefused(JoinRefusal.INVALID, f"{name!r} cannot be given to a node")
        result.append(star + host)
    if len(result) > _MAX_DNS_NAMES:
        raise EnrolmentRefused(JoinRefusal.INVALID, f"more than {_MAX_DNS_NAMES} host names")
    return tuple(dict.fromkeys(result))


def check_peer_address(address: str) -> str:
    """The host:port at which others dial a node, its host in canonical spelling.

    Raises:
        EnrolmentRefused: it is not host:port.
    """
    host, _, port = address.rpartition(":")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    digits = port.isascii() and port.isdecimal() and len(port) <= 5
    if not digits or not 0 < int(port) < 65_536 or (":" in bare) != host.startswith("["):
        raise EnrolmentRefused(
            JoinRefusal.INVALID, f"{address[:300]!r} is not a peer address", hint="host:port"
        )
    found = canonical(bare)
    if (literal := address_of(found)) and (
        ipaddress.ip_address(literal).is_unspecified or ipaddress.ip_address(literal).is_multicast
    ):
        raise EnrolmentRefused(
            JoinRefusal.INVALID,
            f"nobody can be reached at {found}",
            hint="advertise an address of this machine",
        )
    return join_address(found, int(port))


def canonical(host: str) -> str:
    """The one spelling of a host name or address.

    Raises:
        EnrolmentRefused: it is neither.
    """
    try:
        return canonical_host(host)
    except IdentityFault as fault:
        raise as_refusal(fault) from fault


def _host_as_stored(peer: str) -> str:
    # A record from before hosts were checked is no reason to refuse somebody else.
    try:
        return canonical_host(host_of(peer))
    except IdentityFault:
        return ""


def _allowed(host: str, patterns: Iterable[str]) -> bool:
    return any(
        host.partition(".")[2] == pattern[2:] if pattern.startswith("*.") else host == pattern
        for pattern in patterns
    )


def check_version(version: str) -> str:
    """`version`, when it can be what an agent is.

    Raises:
        EnrolmentRefused: it cannot.
    """
    if len(version) > 64 or not version.isprintable():
        raise EnrolmentRefused(JoinRefusal.INVALID, "the agent's version is none")
    return version


def check_labels(labels: Mapping[str, str]) -> None:
    """Returns when the labels are few, short and plain: every agent gets them in every snapshot.

    Raises:
        EnrolmentRefused: they are not.
    """
    if len(labels) > 64 or any(len(key) > 128 or len(value) > 256 for key, value in labels.items()):
        raise EnrolmentRefused(
            JoinRefusal.INVALID, "too many or too long labels", hint="64 at most, keys of 128, values of 256"
        )
    for key, value in labels.items():
        # Labels are compared as they are: two that look alike and differ would be a trap.
        if not _LABEL_KEY.fullmatch(key) or not value.isprintable() or value != value.strip():
            raise EnrolmentRefused(
                JoinRefusal.INVALID,
                f"{key!r}={value!r} cannot be a label",
                hint="a key of letters, digits and ._/-, a value of printable characters",
            )


def host_of(address: str) -> str:
    """The host of host:port, without brackets; empty for an empty address."""
    return address.rpartition(":")[0].strip("[]")


def as_refusal(fault: IdentityFault) -> EnrolmentRefused:
    """The refusal that a bad name or request is."""
    return EnrolmentRefused(JoinRefusal.INVALID, fault.message, hint=fault.hint)
