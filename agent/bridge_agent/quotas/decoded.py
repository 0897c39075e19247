"""What quotas read of requests and answers; apart, since what is decoded is not compiled."""

from __future__ import annotations

from typing import Final

import msgspec


class Options(msgspec.Struct):
    """A request's `options` of Ollama's own shape."""

    num_predict: int | None = None


class Usage(msgspec.Struct, gc=False):
    """What OpenAI's and Anthropic's answers say that they came to."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None

    @property
    def prompt(self) -> int | None:
        """Tokens read; None: it does not say."""
        if self.prompt_tokens is not None:
            return self.prompt_tokens
        if self.input_tokens is None:
            return None
        return (
            self.input_tokens + (self.cache_read_input_tokens or 0) + (self.cache_creation_input_tokens or 0)
        )

    @property
    def output(self) -> int | None:
        """Tokens generated; None: it does not say."""
        return self.completion_tokens if self.completion_tokens is not None else self.output_tokens


class Inner(msgspec.Struct):
    """What of an answer has the usage within it."""

    usage: Usage | None = None


class Answer(msgspec.Struct):
    """A whole answer, or a record of a stream."""

    prompt_eval_count: int | None = None
    eval_count: int | None = None
    usage: Usage | None = None
    message: Inner | None = None  # Anthropic's message_start
    response: Inner | str | None = None  # OpenAI's response.completed; Ollama's text


decode_options: Final = msgspec.json.Decoder(Options | None).decode
"""Reads a request's options."""
decode_number: Final = msgspec.json.Decoder(int | None).decode
"""Reads one count."""
decode_answer: Final = msgspec.json.Decoder(Answer).decode
"""Reads an answer or a record."""
