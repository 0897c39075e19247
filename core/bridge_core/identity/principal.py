"""Who asks, as every decision and every record sees it.

A principal's text is what travels over a hop and stands in records. What it may is never read from that
text alone: the owner of a request looks the name up in its own snapshot, so that a node that forwards can
name nobody who is not there, and can give nobody a group.

| kind | text | who |
|---|---|---|
| local | `local` | a program on the entry node's loopback |
| client | `spiffe://<mesh>/client/<name>` | an API key or certificate of a Client |
| admin | `spiffe://<mesh>/admin/<name>` | an admin's certificate |
| node | `spiffe://<mesh>/node/<name>` | a node that asks for itself |
| user | `<provider>#<subject>` | a token of an IdentityProvider |
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal, TypeAlias

import msgspec

Kind: TypeAlias = Literal["local", "client", "admin", "node", "user"]

LOCAL_TEXT: Final = "local"
ROLE: Final = "role"
"""The attribute that says what an admin may: `viewer`, `operator` or `admin`."""
USER_MARK: Final = "#"  # between provider and subject; no other text has it


class Principal(msgspec.Struct, frozen=True, gc=False):
    """Who asks.

    Attributes:
        kind: See the module's table.
        name: Of its kind: a client's, an admin's, a node's, a token's subject; of `local` the node's.
        text: As it travels and is recorded.
        groups: That it belongs to.
        attributes: What policies' conditions may ask about it.
        service_account: It is a program's identity of Kubernetes.
    """

    kind: Kind
    name: str
    text: str
    groups: tuple[str, ...] = ()
    attributes: Mapping[str, str] = {}
    service_account: bool = False


def local(node: str) -> Principal:
    """Whoever calls the loopback listener of a node."""
    return Principal("local", node, LOCAL_TEXT)


def user_text(provider: str, subject: str) -> str:
    """The text of whom a provider's token names."""
    return f"{provider}{USER_MARK}{subject}"


def is_user(text: str) -> bool:
    """Whether a text is that of a token's user, whom only the token itself can prove."""
    return USER_MARK in text
