"""What a collector's answer means for a batch of spans: OTLP/HTTP. Pure.

Rules (https://opentelemetry.io/docs/specs/otlp/#otlphttp-response):
1. Of a batch that was taken (2xx) the answer may say that some spans were not: they are not sent again.
2. 429, 502, 503 and 504 say "later": the same batch is sent again after `Retry-After`, else after a pause
   that grows. So is one that nobody answered. Every other answer is final: again would change nothing.
3. A batch that was not taken within `KEEP_S` is dropped: the ones after it are of more use.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated, Final

import msgspec

RETRIED: Final = frozenset({429, 502, 503, 504})
KEEP_S: Final = 300.0
FIRST_PAUSE_S: Final = 1.0
LAST_PAUSE_S: Final = 60.0
_MOST_SAID: Final = 1000
_MOST_DIGITS: Final = 5


class Drop(Enum):
    """Why a span came to nothing."""

    RATE = "rate"  # more of its kind than are kept a second
    QUEUE = "queue"  # more than may wait
    REFUSED = "refused"  # the collector's final word
    REJECTED = "rejected"  # single ones of a batch that was taken
    GIVEN_UP = "given_up"  # the collector was away for too long
    UNREADABLE = "unreadable"  # it cannot be written as JSON


class Answer(msgspec.Struct, frozen=True):
    """What a collector answered.

    Attributes:
        status: Its code.
        retry_after: The field of that name, as it came.
        body: The body's first bytes.
    """

    status: int
    retry_after: bytes = b""
    body: bytes = b""


class Verdict(msgspec.Struct, frozen=True):
    """What becomes of a batch.

    Attributes:
        again: Whether it is sent again.
        pause_s: How long the collector is left alone before that, or before the next one.
        dropped: Spans of it that came to nothing.
        why: Of those.
        says: What to tell of it; empty: all is well.
    """

    again: bool = False
    pause_s: float = 0.0
    dropped: int = 0
    why: Drop = Drop.REFUSED
    says: str = ""


class _Partial(msgspec.Struct, rename="camel"):
    rejected_spans: int | Annotated[str, msgspec.Meta(max_length=20)] = 0
    error_message: str = ""


class _Response(msgspec.Struct, rename="camel"):
    partial_success: _Partial | None = None


def judged(answer: Answer, spans: int, *, pause_s: float, waited_s: float) -> Verdict:
    """What an answer to a batch of so many spans means.

    Args:
        answer: It.
        spans: How many the batch has.
        pause_s: How long to wait where the collector does not say.
        waited_s: For how long the batch has been tried.
    """
    status = answer.status
    if 200 <= status < 300:
        return _taken(answer.body, spans)
    if status in RETRIED:
        asked = answer.retry_after.strip()
        digits = asked.isdigit() and len(asked) <= _MOST_DIGITS
        again = float(asked) if digits else pause_s
        return unheard(f"it answered {status}", spans, pause_s=again, waited_s=waited_s)
    words = f"it answered {status}, which is final: {_said(answer.body)}"
    return Verdict(dropped=spans, why=Drop.REFUSED, says=words)


def unheard(why: str, spans: int, *, pause_s: float, waited_s: float) -> Verdict:
    """What it means that a batch was not taken for now: nobody answered, or it was asked to come later."""
    if waited_s + pause_s > KEEP_S:
        return Verdict(pause_s=min(pause_s, KEEP_S), dropped=spans, why=Drop.GIVEN_UP, says=why)
    return Verdict(again=True, pause_s=pause_s, says=why)


def _taken(body: bytes, spans: int) -> Verdict:
    try:
        partial = msgspec.json.decode(body or b"{}", type=_Response).partial_success or _Partial()
        rejected = int(partial.rejected_spans)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return Verdict()  # it was taken: that it cannot be read how is the collector's affair
    if rejected <= 0:
        return Verdict()
    words = f"it took all but {rejected} of {spans} spans: {_said(partial.error_message.encode())}"
    return Verdict(dropped=min(rejected, spans), why=Drop.REJECTED, says=words)


def _said(text: bytes) -> str:
    return text[:_MOST_SAID].decode("utf-8", "replace")
