"""The key that keeps a conversation where its KV cache is.

The key of a request is, in this order: the session that its client names; its conversation's
beginning (model, system prompt, first user turn), which stays the same from turn to turn and
needs nothing of the client; the client itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

_PREFIX: Final = 512  # bytes of a bare prompt that count as its beginning
_TURNS: Final = msgspec.json.Decoder(list[msgspec.Raw])


class _Turn(msgspec.Struct):
    role: str = ""


_TURN: Final = msgspec.json.Decoder(_Turn)


def affinity_key(
    model: str, fields: Mapping[str, msgspec.Raw], *, session: bytes | None, client: bytes
) -> bytes:
    """The key of a request for `model` (canonical) with these undecoded top-level fields."""
    prefix = model.encode() + b"\0"
    if session:
        return prefix + b"session\0" + session
    beginning = _beginning(fields)
    return prefix + (beginning or b"client\0" + client)


def _beginning(fields: Mapping[str, msgspec.Raw]) -> bytes:
    parts = [bytes(fields[key]) for key in ("system", "instructions") if key in fields]
    for key in ("messages", "prompt", "input"):
        if key in fields:
            raw = bytes(fields[key])
            parts.append(_first_turns(raw) if raw[:1] == b"[" and key != "prompt" else raw[:_PREFIX])
    return b"\0".join(part for part in parts if part not in (b'""', b"[]", b"null"))


def _first_turns(raw: bytes) -> bytes:
    """Every message up to and with the first of the user, as written."""
    try:
        turns = _TURNS.decode(raw)
    except msgspec.DecodeError:
        return b""
    kept = []
    for turn in turns:
        kept.append(bytes(turn))
        try:
            if _TURN.decode(turn).role == "user":
                break
        except (msgspec.DecodeError, UnicodeDecodeError):
            break  # not a message: an embedding's input, say
    return b"".join(kept)[: 64 * _PREFIX]
