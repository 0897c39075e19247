"""Clients and admins of the mesh as a snapshot has them: who they are, and by which keys they are known."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Labels, Moment, Word, Words

Role: TypeAlias = Literal["viewer", "operator", "admin"]
KeyHash = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$", max_length=64)]


class ApiKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """One API key of a client, without its secret.

    Attributes:
        id: The part of the key that finds it.
        hash: HMAC-SHA-256 of the key under the mesh's pepper, hexadecimal.
        expires: Unix seconds; 0: never.
    """

    id: Word
    hash: KeyHash
    expires: Moment = 0.0


class Client(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody who may call.

    Attributes:
        name: Its own, unique in the mesh.
        groups: What policies name.
        attributes: What conditions of policies ask about.
        keys: By which it is recognised; a certificate of its name is another way.
        blocked: It is refused, whatever it brings.
        expires: Unix seconds after which it is refused; 0: never.
    """

    name: Word
    groups: Words = ()
    attributes: Labels = {}
    keys: Annotated[tuple[ApiKey, ...], msgspec.Meta(max_length=64)] = ()
    blocked: bool = False
    expires: Moment = 0.0


class Admin(msgspec.Struct, frozen=True, omit_defaults=True):
    """Somebody who may look at the mesh, or change it.

    Attributes:
        name: Its own, unique in the mesh and never given again.
        role: `viewer` sees everything; `operator` changes what nodes, models, clients and documents do;
            `admin` also says who the admins are, restores the store and has authorities replaced.
    """

    name: Word
    role: Role = "viewer"
