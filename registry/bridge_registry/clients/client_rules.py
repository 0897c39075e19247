"""What a client may be called, belong to and be given: pure.

Rules:
1. Names, groups and attributes have one spelling, and are compared as they are; what could look like
   another one is refused.
2. A further key ends those before it after the overlap, never later than they would have ended anyhow.
3. Keys that have ended are forgotten with the next change, and a client has few at a time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from bridge_core.clients import ApiKey, Client
from bridge_core.errors import BridgeError
from bridge_core.identity.spiffe import SpiffeId
from bridge_registry.enrolment.join_rules import check_labels

MAX_CLIENTS: Final = 10_000
MAX_KEYS: Final = 8  # of one client that have not ended
MAX_GROUPS: Final = 32
MAX_ATTRIBUTES: Final = 32
MAX_OVERLAP_S: Final = 90 * 86_400
MAX_CERTIFICATE_S: Final = 366 * 86_400
CERTIFICATE_S: Final = 90 * 86_400
_LATEST: Final = 1e11  # what a snapshot can say
_GROUP: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._:/@+-]{0,62}[A-Za-z0-9])?")


def new_client(
    name: str,
    groups: Iterable[str],
    attributes: Mapping[str, str],
    expires: float,
    *,
    trust_domain: str,
    now: float,
) -> Client:
    """A client without keys.

    Raises:
        BridgeError: a name, group, attribute or time is not acceptable.
    """
    SpiffeId.make(trust_domain, "client", name)
    groups = tuple(dict.fromkeys(groups))
    wrong = next((one for one in groups if _GROUP.fullmatch(one) is None), None)
    if wrong is not None:
        raise BridgeError(
            f"{wrong[:80]!r} cannot be a group", hint="1 to 64 letters, digits and signs of . _ : / @ + -"
        )
    if len(groups) > MAX_GROUPS or len(attributes) > MAX_ATTRIBUTES:
        raise BridgeError(f"a client has {MAX_GROUPS} groups and {MAX_ATTRIBUTES} attributes at most")
    check_labels(attributes)
    if expires and not now < expires <= _LATEST:
        raise BridgeError("the end of a client has to be in the future", hint="--expires 90d")
    return Client(name, groups, dict(attributes), expires=expires)


def with_key(client: Client, key: ApiKey, overlap_s: float, now: float) -> Client:
    """The client with a further key.

    Raises:
        BridgeError: the overlap is too long, or it has too many.
    """
    if overlap_s > MAX_OVERLAP_S:
        raise BridgeError(f"keys overlap for {MAX_OVERLAP_S // 86_400} days at most", hint="lower --overlap")
    ends = now + overlap_s
    kept = [
        msgspec.structs.replace(one, expires=min(one.expires or ends, ends))
        for one in client.keys
        if overlap_s and not ended(one, now)
    ]
    if len(kept) >= MAX_KEYS:
        raise BridgeError(
            f"client {client.name} has {len(kept)} keys that still count, and {MAX_KEYS} is the most",
            hint="rotate with a shorter --overlap; 0s ends them at once",
        )
    return msgspec.structs.replace(client, keys=(*kept, key))


def ended(key: ApiKey, now: float) -> bool:
    """Whether a key no longer counts."""
    return bool(key.expires) and now >= key.expires


def certificate_ttl_s(asked_s: float, client: Client, now: float) -> float:
    """How long a certificate of a client lives; 0 as `asked_s`: 90 days, and no longer than the client.

    Raises:
        BridgeError: too long, or the client may have none.
    """
    if client.blocked:
        raise BridgeError(f"client {client.name} is blocked", hint="`bridgectl client unblock` first")
    if client.expires and now >= client.expires:
        raise BridgeError(f"client {client.name} has expired", hint="delete it and create it anew")
    if asked_s > MAX_CERTIFICATE_S:
        raise BridgeError(
            f"a certificate lives {MAX_CERTIFICATE_S // 86_400} days at most", hint="lower --cert-ttl"
        )
    ttl_s = asked_s or float(CERTIFICATE_S)
    return min(ttl_s, client.expires - now) if client.expires else ttl_s
