"""What a request will come to, before it is answered: pure.

Rules:
1. A prompt is taken for one token in four bytes of the body, and for no more than the longest that any
   model reads.
2. An answer is taken for as long as the request allows it to be; without a limit of its own, for as long
   as 19 in 20 of the client's last answers were, and for DEFAULT_OUTPUT tokens until there are some.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Final

import msgspec

from bridge_agent.quotas.decoded import decode_number, decode_options

DEFAULT_OUTPUT: Final = 512
LONGEST_PROMPT: Final = 131_072
LONGEST_OUTPUT: Final = 131_072
_BYTES: Final = 4  # of a token
_REMEMBERED: Final = 40  # answers of a client
_MOST_CLIENTS: Final = 4096
_LIMITS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")

_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def prompt_estimate(size: int) -> int:
    """Tokens that a body of so many bytes is taken for."""
    return min(LONGEST_PROMPT, max(1, size // _BYTES))


def stated_limit(fields: Mapping[str, msgspec.Raw], *, native: bool) -> int | None:
    """The most tokens that a request allows its answer; None: it does not say, or says "no limit".

    Args:
        fields: The body's, undecoded.
        native: It is in Ollama's own shape, where `options` say so.
    """
    if native:
        return _in_options(fields.get("options"))
    # Which of two an engine keeps is its own affair: the larger one covers both.
    return max((limit for key in _LIMITS if (limit := _positive(fields.get(key))) is not None), default=None)


def _in_options(raw: msgspec.Raw | None) -> int | None:
    try:
        read = None if raw is None else decode_options(raw)
    except _UNREADABLE:
        return None  # the engine refuses it
    limit = None if read is None else read.num_predict
    return None if limit is None or limit <= 0 else limit


def _positive(raw: msgspec.Raw | None) -> int | None:
    try:
        limit = None if raw is None else decode_number(raw)
    except _UNREADABLE:
        return None
    return None if limit is None or limit <= 0 else limit


class Outputs:
    """How long each client's answers lately were."""

    def __init__(self) -> None:
        self._lengths: dict[str, deque[int]] = {}
        self._expected: dict[str, int] = {}

    def expected(self, client: str) -> int:
        """As long as 19 in 20 of them were."""
        return self._expected.get(client, DEFAULT_OUTPUT)

    def observed(self, client: str, tokens: int) -> None:
        """An answer without a limit of its own was this long."""
        lengths = self._lengths.get(client)
        if lengths is None:
            if len(self._lengths) >= _MOST_CLIENTS:  # the one that was first is forgotten first
                gone = next(iter(self._lengths))
                del self._lengths[gone], self._expected[gone]
            lengths = self._lengths[client] = deque(maxlen=_REMEMBERED)
        lengths.append(tokens)
        ordered = sorted(lengths)
        self._expected[client] = max(1, min(LONGEST_OUTPUT, ordered[(len(ordered) * 19 - 1) // 20]))
