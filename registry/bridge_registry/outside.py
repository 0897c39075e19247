"""Where a registry may send to outside the mesh.

An admin writes the address, but whoever answers for its name decides where it leads: a registry that followed
it anywhere could be made to ask the services beside it. So the address that is connected to is the one that
was looked at.
"""

from __future__ import annotations

import asyncio
import ipaddress
from typing import Final

from bridge_core.addresses import without_localhost
from bridge_core.errors import Unavailable

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")


async def resolve(host: str, port: int, *, private: bool) -> tuple[str, int]:
    """The address of a host that a document names; where `private` is not given, a public one.

    Raises:
        Unavailable: there is none.
    """
    try:
        found = await asyncio.get_running_loop().getaddrinfo(without_localhost(host), port, proto=6)
    except (OSError, UnicodeError) as fault:
        raise Unavailable(f"the name {host} does not resolve: {fault}") from fault
    addresses = [str(one[4][0]) for one in found]
    for address in addresses:
        if private or is_public(ipaddress.ip_address(address.partition("%")[0])):
            return address, port
    raise Unavailable(
        f"{host} is {addresses[0]}, which is no public address",
        hint="spec.allowPrivateAddress lets the registry ask it",
    )


def is_public(address: _Address) -> bool:
    """Whether an address is one of the public Internet, also by what is embedded in it."""
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None:
            return False
    return address.is_global and not address.is_multicast
