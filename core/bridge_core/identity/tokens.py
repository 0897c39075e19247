"""What nodes join with: join tokens, and what a pod of Kubernetes has in their place.

Join tokens: `brj1.<id>.<secret>.<sha256 of the CA>`.

The id finds the token's record, the secret proves it was handed out, the hash lets whoever joins
recognise the mesh's CA before anything secret is sent. Only a hash of the secret is ever stored;
it has 256 random bits, so a plain SHA-256 cannot be searched.

Pods: `brk1.<sha256 of the CA>.<the pod's service account token>`. The registry has Kubernetes say whose
it is.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Final

import msgspec

from bridge_core.errors import BridgeError

PREFIX: Final = "brj1"
POD_PREFIX: Final = "brk1"
_ID: Final = re.compile(r"[0-9a-f]{16}")
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_LONGEST_POD_TOKEN: Final = 16 * 1024
_JWT: Final = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class TokenFault(BridgeError):
    """A join token that cannot be used; the message says why and never repeats the secret."""


class JoinToken(msgspec.Struct, frozen=True):
    """A token as handed out.

    Attributes:
        id: 16 hexadecimal digits.
        secret: 64 hexadecimal digits.
        ca_pin: SHA-256 of the CA certificate's DER, hexadecimal.
    """

    id: str
    secret: str
    ca_pin: str

    def __str__(self) -> str:
        return f"{PREFIX}.{self.id}.{self.secret}.{self.ca_pin}"

    def __repr__(self) -> str:
        return f"JoinToken(id={self.id!r}, secret=…)"  # a repr ends up in logs

    @property
    def secret_hash(self) -> str:
        """What the registry stores in the secret's place."""
        return hashlib.sha256(bytes.fromhex(self.secret)).hexdigest()

    def proves(self, stored_hash: str) -> bool:
        """Whether the secret is the one that `stored_hash` was made of; in constant time."""
        return hmac.compare_digest(self.secret_hash, stored_hash)

    @classmethod
    def mint(cls, ca_pin: str, randomness: bytes) -> JoinToken:
        """A new token out of 40 random bytes."""
        if len(randomness) != 40:
            raise ValueError("a token needs 40 random bytes")
        return cls(randomness[:8].hex(), randomness[8:].hex(), ca_pin)

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """The token that `text` spells; white space around it is ignored.

        Raises:
            TokenFault: it is none; the message says what is wrong with it.
        """
        parts = text.strip().split(".")
        hint = "copy the whole line that `bridgectl token create` printed"
        if parts[0] != PREFIX:
            raise TokenFault(f"this is not a join token: it does not begin with {PREFIX}.", hint=hint)
        if len(parts) != 4:
            word = "truncated" if len(parts) < 4 else "too long"
            raise TokenFault(f"the join token is {word}: {len(parts)} of 4 parts", hint=hint)
        for name, value, pattern in zip(
            ("id", "secret", "CA hash"), parts[1:], (_ID, _HASH, _HASH), strict=True
        ):
            if pattern.fullmatch(value):
                continue
            digits = 16 if pattern is _ID else 64
            if len(value) < digits:
                raise TokenFault(f"the join token is truncated: its {name} is too short", hint=hint)
            raise TokenFault(f"the join token is damaged: its {name} is malformed", hint=hint)
        return cls(*parts[1:])


class PodToken(msgspec.Struct, frozen=True):
    """A pod's service account token, and which CA the mesh is known by.

    Attributes:
        ca_pin: SHA-256 of the CA certificate's DER, hexadecimal.
        token: As the kubelet wrote it.
    """

    ca_pin: str
    token: str

    def __str__(self) -> str:
        return f"{POD_PREFIX}.{self.ca_pin}.{self.token}"

    def __repr__(self) -> str:
        return f"PodToken(ca_pin={self.ca_pin!r}, token=…)"  # a repr ends up in logs

    @classmethod
    def parse(cls, text: str) -> PodToken:
        """The token that `text` spells; white space around it is ignored.

        Raises:
            TokenFault: it is none.
        """
        prefix, _, rest = text.strip().partition(".")
        pin, _, token = rest.partition(".")
        if prefix != POD_PREFIX or not _HASH.fullmatch(pin):
            raise TokenFault("this is not a pod's join token", hint="bridge-agent join makes it of its files")
        if len(token) > _LONGEST_POD_TOKEN or not _JWT.fullmatch(token):
            raise TokenFault(
                "the service account's token is none",
                hint="it has three parts with dots between, as the kubelet writes it",
            )
        return cls(pin, token)


def parse_token(text: str) -> JoinToken | PodToken:
    """Either of them, by its prefix.

    Raises:
        TokenFault: it is none of the two.
    """
    return PodToken.parse(text) if text.strip().startswith(f"{POD_PREFIX}.") else JoinToken.parse(text)
