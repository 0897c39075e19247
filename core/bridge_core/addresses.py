"""host:port, in one and in two; and whose an address is."""

from __future__ import annotations

import ipaddress
from typing import Final

from bridge_core.errors import BridgeError, Fatal

LOOPBACK: Final = "127.0.0.1"
_MAX_PLACE: Final = 256  # as bounds.Text


def parse_address(text: str) -> tuple[str, int] | None:
    """Host and port of "host:port", "[v6]:port" or ":port" (an empty host); None: it is none of these."""
    host, colon, port = text.rpartition(":")
    if not colon or not port.isascii() or not port.isdecimal() or len(port) > 5 or int(port) > 65_535:
        return None
    bracketed = host.startswith("[") and host.endswith("]")
    inner = host[1:-1] if bracketed else host
    if (":" in inner) is not bracketed or "[" in inner or "]" in inner:
        return None  # of "::1:80" nobody knows where the address ends
    return inner, int(port)


def split_address(address: str, *, flag: str = "") -> tuple[str, int]:
    """Host and port of "host:port" or "[v6]:port".

    Args:
        address: As a person or another part of the mesh gave it.
        flag: Where a person gave it, to be named. It may then be one to listen on: ":port", all
            interfaces, and port 0, any.

    Raises:
        Fatal: a flag's value is none.
        BridgeError: what is to be dialled is none.
    """
    found = parse_address(address)
    if flag:
        if found is None:
            raise Fatal(
                f"{flag} {address!r} is not HOST:PORT",
                hint=f"for example {flag} 127.0.0.1:11434, or {flag} [::1]:11434",
            )
        return found[0] or "0.0.0.0", found[1]
    if found is None or not all(found):
        raise BridgeError(f"{address!r} is not an address", hint="host:port, e.g. registry.example:11400")
    return found


def without_localhost(host: str) -> str:
    """`host`, or the loopback for `localhost`, which it is also where no /etc/hosts says so (RFC 6761)."""
    return LOOPBACK if host == "localhost" else host


def can_be_dialled(place: str) -> bool:
    """Whether it is a host and a port to connect to, perhaps with https:// in front."""
    found = parse_address(place.removeprefix("https://"))
    return found is not None and all(found) and len(place) <= _MAX_PLACE


def join_address(host: str, port: int) -> str:
    """The "host:port" of the two, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def source_of(address: str) -> str:
    """Whose bounds count for what comes from an address: an IPv4 address, also one mapped into IPv6, or the
    network of 64 bits that a host of IPv6 has to itself. What is no address is itself.
    """
    try:
        found = ip_of(address)
    except ValueError:
        return address[:64]
    if isinstance(found, ipaddress.IPv4Address):
        return str(found)
    return str(ipaddress.ip_network((found, 64), strict=False))


def ip_of(address: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """An address as sockets tell it: without its zone, and one of IPv4 not as mapped into IPv6.

    Raises:
        ValueError: it is none.
    """
    found = ipaddress.ip_address(address.partition("%")[0])
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return found if mapped is None else mapped


def is_loopback(host: str) -> bool:
    """Whether a host, by name or address, is this machine's loopback. No name but `localhost` counts."""
    if host.lower() == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
