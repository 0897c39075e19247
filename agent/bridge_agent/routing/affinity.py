"""The key that keeps a conversation where its KV cache is.

The key of a request is, in this order: the session that its client names; its conversation's
beginning (model, system prompt, first user turn), which stays the same from turn to turn and
needs nothing of the client; the client itself. A conversation has the same key whether it comes by
Ollama's, OpenAI's or Anthropic's API, and however its JSON is written.

A key is a digest: it says nothing of the prompt, and can be kept for `explain` and `replay`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec

from bridge_agent.routing.affinity_turn import decode_turn
from bridge_core.traffic import Affinity

_PREFIX: Final = 512  # bytes of a bare prompt that count as its beginning
BEGINNING: Final = 64 * _PREFIX
"""Bytes of a conversation that count: what comes after them may be anything."""
_TURNS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_ANY: Final = msgspec.json.Decoder(Any)
_SYSTEM: Final = frozenset({"system", "developer"})


def affinity_key(
    model: str,
    fields: Mapping[str, msgspec.Raw],
    *,
    session: bytes | None,
    client: bytes,
    affinity: Affinity = "conversation",
    nonce: bytes = b"",
) -> bytes:
    """The key of a request for `model` (canonical) with these undecoded top-level fields.

    Args:
        model: Canonical name of what was asked for.
        fields: The body's.
        session: What the client calls its session; it wins over the conversation.
        client: Who asks.
        affinity: What may make up the key.
        nonce: What tells the request from others: the key where nothing is to keep them together.
    """
    if affinity == "none":
        return _digest(model, b"request", nonce)
    if session and affinity != "client":
        return _digest(model, b"session", session)
    beginning = _beginning(fields) if affinity == "conversation" else b""
    if beginning:
        return _digest(model, b"conversation", beginning)
    return _digest(model, b"client", client)


def _digest(model: str, kind: bytes, value: bytes) -> bytes:
    return hashlib.blake2b(b"\0".join((model.encode(), kind, value)), digest_size=16).digest()


def _beginning(fields: Mapping[str, msgspec.Raw]) -> bytes:
    parts = [_text_of(fields[key]) for key in ("system", "instructions") if key in fields]
    for key in ("messages", "prompt", "input"):
        if key in fields:
            raw = bytes(fields[key])
            parts += _first_turns(raw) if raw[:1] == b"[" and key != "prompt" else [_bare(raw)]
    return b"\0".join(part for part in parts if part)[:BEGINNING]


def _bare(raw: bytes) -> bytes:
    """A prompt's beginning. It may be long, so it is cut before it is decoded."""
    if raw[:1] != b'"':
        return b"" if raw in (b"null", b"[]") else raw[:_PREFIX]
    return _text_of(raw)[:_PREFIX] if len(raw) <= 2 * _PREFIX else raw[1:_PREFIX]


def _text_of(raw: bytes | msgspec.Raw) -> bytes:
    try:
        return _text(_ANY.decode(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return bytes(raw)[:_PREFIX]


def _first_turns(raw: bytes) -> list[bytes]:
    """The text of each message up to and with the first of the user."""
    try:
        turns = _TURNS.decode(raw)
    except (msgspec.DecodeError, RecursionError):
        return []
    parts: list[bytes] = []
    for turn in turns:
        try:
            read = decode_turn(turn)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return [*parts, bytes(turn)[:_PREFIX]]  # not a message: an embedding's input, say
        if read.role == "user":
            return [*parts, b"user:" + _text(read.content)]
        # The system prompt stands first, as in the APIs where it is no message.
        parts.append((b"" if read.role in _SYSTEM else read.role.encode() + b":") + _text(read.content))
    return parts


def _text(content: Any) -> bytes:
    """The text of a content that is a string or a list of parts."""
    if isinstance(content, str):
        return content.encode("utf-8", "surrogatepass")
    if isinstance(content, list):
        return b"\0".join(_parts(content))
    return b""


def _parts(content: Iterable[Any]) -> Iterable[bytes]:
    for part in content:
        if isinstance(part, str):
            yield part.encode("utf-8", "surrogatepass")
        elif isinstance(part, dict):
            text = part.get("text")
            yield text.encode("utf-8", "surrogatepass") if isinstance(text, str) else _encoded(part)


def _encoded(part: dict[str, Any]) -> bytes:
    return msgspec.json.encode(part, order="sorted")[:_PREFIX]
