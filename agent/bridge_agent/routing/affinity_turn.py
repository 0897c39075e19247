"""A turn of a conversation, as far as affinity reads it; apart, since what is decoded is not compiled."""

from __future__ import annotations

from typing import Any, Final

import msgspec


class Turn(msgspec.Struct):
    """One message."""

    role: str = ""
    content: Any = None


decode_turn: Final = msgspec.json.Decoder(Turn).decode
"""Reads one message."""
