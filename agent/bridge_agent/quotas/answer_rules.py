"""What an answer says that it cost, in every dialect: pure.

Rules:
1. The counts are the engine's, out of the fields that its protocol has for them, decoded as JSON: a text
   that looks like a count is none.
2. Of a stream only what may hold counts is kept: the last record of Ollama's, the first and the last piece
   with a `usage` of the others. Of an answer in parts at most WHOLE_MOST bytes are kept.
3. A stream that says nothing (OpenAI's without `stream_options.include_usage`, or one that broke off) is
   taken for one token a record: an estimate, and known as one.
"""

from __future__ import annotations

from typing import Final

import msgspec

from bridge_agent.quotas.decoded import Inner, decode_answer

WHOLE_MOST: Final = 16 << 20
_MOST: Final = 1 << 40  # tokens that any answer can have
_USAGE: Final = b'"usage"'
_DATA: Final = b"data:"
_WRAPPING: Final = 2  # records of a stream around its tokens: what begins it, and what ends it


class Tokens(msgspec.Struct, frozen=True, gc=False):
    """What a request came to.

    Attributes:
        prompt: Tokens read; None: it is not known.
        output: Tokens generated.
        estimated: The output is no engine's word.
    """

    prompt: int | None
    output: int
    estimated: bool = False


class AnswerTokens:
    """Follows one answer; `tokens` says what it came to."""

    __slots__ = ("_first", "_last", "_parts", "_records", "_size", "_whole")

    def __init__(self) -> None:
        self._first = b""
        self._last = b""
        self._records = 0
        self._parts: list[bytes] | None = None
        self._size = 0
        self._whole = b""

    def records(self, data: bytes) -> None:
        """Whole lines of a stream came."""
        if data[:1] == b"{":
            self._records += data.count(b"\n")
            self._last = data
            return
        self._records += data.count(b"\ndata:") + data.startswith(_DATA)
        if _USAGE in data:
            if not self._first:
                self._first = data
            self._last = data

    def part(self, data: bytes) -> None:
        """A part of an answer that is no stream came."""
        if self._parts is None:
            self._parts = []
        self._size += len(data)
        if self._size <= WHOLE_MOST:
            self._parts.append(data)

    def whole(self, body: bytes) -> None:
        """The whole answer came."""
        self._whole = body

    def tokens(self) -> Tokens:
        """What it came to."""
        body = self._whole
        if self._parts is not None and self._size <= WHOLE_MOST:
            body = b"".join(self._parts)
        if body:
            return _said([body]) or Tokens(None, 0, estimated=True)
        said = _said([*self._first.splitlines(), *self._last.splitlines()]) if self._last else None
        if said is not None and not said.estimated:
            return said
        output = max(0, self._records - _WRAPPING)
        return Tokens(None if said is None else said.prompt, output, estimated=True)


def _said(records: list[bytes]) -> Tokens | None:
    """What these records say together, the last word of each count; None where they say nothing."""
    prompt: int | None = None
    output: int | None = None
    for record in records:
        text = record.removeprefix(_DATA)
        if not text.lstrip().startswith(b"{"):
            continue
        try:
            said = decode_answer(text)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        usage = said.usage
        for inner in (said.message, said.response):
            if usage is None and isinstance(inner, Inner):
                usage = inner.usage
        if usage is not None:
            prompt = _later(usage.prompt, prompt)
            output = _later(usage.output, output)
        prompt = _later(said.prompt_eval_count, prompt)
        output = _later(said.eval_count, output)
    if prompt is None and output is None:
        return None
    return Tokens(prompt, output or 0, output is None and _streamed(records))


def _streamed(records: list[bytes]) -> bool:
    return len(records) > 1


def _later(new: int | None, old: int | None) -> int | None:
    return old if new is None else min(_MOST, max(0, new))
