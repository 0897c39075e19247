"""How a registry stands: what admins and the console are told of it."""

from __future__ import annotations

import msgspec


class Standing(msgspec.Struct, frozen=True):
    """How this registry stands.

    Attributes:
        leader: Whether it leads.
        store_fault: Why the store does not answer, if so.
        concerns: What an admin should look after.
        name: Its own.
        leader_name: Who leads, as far as it knows; empty: nobody.
        leader_address: Where that one is reached.
    """

    leader: bool
    store_fault: str
    concerns: tuple[str, ...] = ()
    name: str = ""
    leader_name: str = ""
    leader_address: str = ""
