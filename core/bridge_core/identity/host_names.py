"""Host names and addresses in their one spelling: they are compared in no other.

Rules:
1. An address is written as `ipaddress` does; an IPv4 address mapped into IPv6 is the IPv4 address.
2. A name is lower case, in ASCII (IDNA's A-labels) and without a trailing dot.
3. What a resolver would take for an address in a spelling of its own ("127.1", "0x7f.1") is no name.
4. Names under `RESERVED` are the Bridge's own: callers believe whoever shows one.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Final

from bridge_core.identity.spiffe import IdentityFault

RESERVED: Final = "bridge.internal"
_LABEL: Final = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME: Final = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_NUMBER: Final = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)")


def canonical_host(host: str) -> str:
    """The one spelling of an address or a host name.

    Raises:
        IdentityFault: it is neither.
    """
    try:
        return address_of(host) or _canonical_name(host)
    except ValueError as fault:  # UnicodeError is one
        raise IdentityFault(f"{host[:260]!r} is neither a host name nor an address") from fault


def address_of(host: str) -> str:
    """The address that `host` is, in its one spelling; empty: it is none."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return ""
    if isinstance(address, ipaddress.IPv6Address):
        if address.scope_id is not None:
            raise ValueError("an address with a zone is this machine's alone")
        return str(address.ipv4_mapped or address)
    return str(address)


def is_reserved(host: str) -> bool:
    """Whether the canonical name `host` is one of the Bridge's own."""
    return host == RESERVED or host.endswith(f".{RESERVED}")


def _canonical_name(host: str) -> str:
    if len(host) > 254:
        raise ValueError("too long")
    name = (host if host.isascii() else host.encode("idna").decode("ascii")).lower().removesuffix(".")
    if not _NAME.fullmatch(name) or len(name) > 253 or _NUMBER.fullmatch(name.rpartition(".")[2]):
        raise ValueError("not a name")
    return name
