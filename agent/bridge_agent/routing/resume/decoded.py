"""What trackers read of a stream's records; apart, since what is decoded is not compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

import msgspec


def _decoder(kind: type[Any]) -> Callable[[bytes], Any]:
    """A function that reads JSON into `kind`, ignoring what it does not name."""
    return msgspec.json.Decoder(kind).decode


class Message(msgspec.Struct):
    """The message in a record of `/api/chat`."""

    content: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Record(msgspec.Struct):
    """A record of Ollama's own streams."""

    model: str = ""
    response: str | None = None
    thinking: str | None = None
    tool_calls: list[msgspec.Raw] | None = None
    message: Message | None = None


decode_record: Final = _decoder(Record)
"""Reads one `Record`."""
decode_records: Final = msgspec.json.Decoder(Record).decode_lines
"""Reads a `Record` of each line."""


class Delta(msgspec.Struct):
    """What a chunk adds to a chat."""

    content: str | None = None
    reasoning: str | None = None
    tool_calls: list[msgspec.Raw] | None = None


class Choice(msgspec.Struct):
    """One answer's part of a chunk."""

    delta: Delta | None = None
    text: str | None = None
    finish_reason: str | None = None


class Chunk(msgspec.Struct):
    """A chunk of OpenAI's completions."""

    choices: list[Choice] = []


decode_chunk: Final = _decoder(Chunk)
"""Reads one `Chunk`."""
decode_chunks: Final = _decoder(list[Chunk])
"""Reads an array of them."""


class Part(msgspec.Struct):
    """A block of Anthropic's message, or what is added to one."""

    type: str = ""
    text: str | None = None


class MessageEvent(msgspec.Struct):
    """An event of `/v1/messages`."""

    type: str = ""
    index: int = 0
    delta: Part | None = None
    content_block: Part | None = None


decode_message_event: Final = _decoder(MessageEvent)
"""Reads one `MessageEvent`."""


class ResponseEvent(msgspec.Struct):
    """An event of `/v1/responses`."""

    type: str = ""
    sequence_number: int = -1
    delta: str | None = None
    item_id: str = ""
    output_index: int = 0
    item: msgspec.Raw = msgspec.Raw()


class Item(msgspec.Struct):
    """An item of a response's output."""

    id: str = ""
    type: str = ""


class Created(msgspec.Struct):
    """The event that begins a response."""

    response: dict[str, Any]


decode_response_event: Final = _decoder(ResponseEvent)
"""Reads one `ResponseEvent`."""
decode_item: Final = _decoder(Item)
"""Reads one `Item`."""
decode_created: Final = _decoder(Created)
"""Reads one `Created`."""
