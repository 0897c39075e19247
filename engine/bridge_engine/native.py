"""The seam between the engine's HTTP routes, the compatible APIs, and what runs models.

A body is the decoded JSON object of Ollama's native API (field names as Ollama documents them).
An answer is a sequence of native records: the last one has `"done": true` (generate, chat), or
there is exactly one (embed, embeddings). `stream` in the body does not matter here: records come
as they are made, and `merged` makes one of them for a client that did not ask for a stream.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any, Protocol

Json = dict[str, Any]


class NativeApi(Protocol):
    """Ollama's inference calls as asynchronous iterators of native records.

    Every call raises `embedded.errors.ApiError` either before its first record (the request was
    refused) or after it (the runner failed). Closing the iterator (`aclose`) cancels the work.
    """

    def generate(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/generate`."""
        ...

    def chat(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/chat`."""
        ...

    def embed(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/embed`: one record."""
        ...

    def embeddings(self, body: Json) -> AsyncIterator[Json]:
        """`POST /api/embeddings`: one record."""
        ...


async def merged(records: AsyncIterator[Json]) -> Json:
    """Makes the one record that `"stream": false` answers of a whole sequence.

    Text, thinking, tool calls and log probabilities are joined; all else is the last record's.

    Raises:
        ApiError: the sequence ended in an error.
    """
    text, thinking = [], []
    calls: list[Any] = []
    logprobs: list[Any] = []
    last: Json = {}
    async for record in records:
        last = record
        logprobs += record.get("logprobs") or []
        source = record.get("message") or record
        text.append(source.get("content" if "message" in record else "response") or "")
        thinking.append(source.get("thinking") or "")
        calls += source.get("tool_calls") or []
    if "message" in last:
        message: Json = {"role": last["message"]["role"], "content": "".join(text)}
        target = message
        last = {**last, "message": message}
    elif "response" in last:
        last = {**last, "response": "".join(text)}
        target = last
    else:
        return last
    if any(thinking):
        target["thinking"] = "".join(thinking)
    if calls:
        target["tool_calls"] = calls
    if logprobs:
        last["logprobs"] = logprobs
    return last
