"""What a request shows to say who it is: pure.

Rules:
1. Credentials are `Authorization: Bearer`, `x-api-key` and `api-key`, which the clients of OpenAI, Ollama
   and Anthropic send; each field may come once.
2. What has neither the form of a key of ours nor that of a token is nobody's: programs that were told to
   send a key send any word where none is needed. It proves nothing and hinders nothing.
3. A key or a token that is shown must be a right one, also beside a certificate.
"""

from __future__ import annotations

from typing import Final

from bridge_core.http1 import Headers
from bridge_core.identity.api_keys import is_meant

_BEARER: Final = b"bearer "
FIELDS: Final = (b"authorization", b"x-api-key", b"api-key")
"""The fields that a credential may come in."""

_TOKEN_MOST: Final = 16 * 1024
_TOKEN_START: Final = b"eyJ"  # '{"' in base64, with which the head of every JWT begins


class Shown:
    """The keys and tokens of one request, each once."""

    __slots__ = ("keys", "tokens")

    def __init__(self, keys: tuple[bytes, ...], tokens: tuple[bytes, ...]) -> None:
        self.keys = keys
        self.tokens = tokens


NOTHING: Final = Shown((), ())


def shown_by(headers: Headers) -> Shown | None:
    """What a request shows; None: a field comes twice, and two readers could take it for two callers."""
    values: list[bytes] = []
    for name in FIELDS:
        value = headers.get(name)
        if value is None:
            continue
        if len(headers.get_all(name)) > 1:
            return None
        if name == b"authorization":
            if value[:7].lower() != _BEARER:
                continue
            value = value[7:]
        values.append(value.strip(b" \t"))
    if not values:
        return NOTHING
    if len(values) == 1:  # as nearly always
        (only,) = values
        if is_meant(only):
            return Shown((only,), ())
        return Shown((), (only,)) if is_token(only) else NOTHING
    found = tuple(dict.fromkeys(values))
    return Shown(tuple(one for one in found if is_meant(one)), tuple(one for one in found if is_token(one)))


def is_token(text: bytes) -> bool:
    """Whether somebody means a signed token (JWT) by this."""
    return text.startswith(_TOKEN_START) and text.count(b".") == 2 and len(text) <= _TOKEN_MOST
