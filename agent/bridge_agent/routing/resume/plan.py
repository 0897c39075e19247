"""Whether a stream can be continued, and the requests that continue it.

A conversation is continued in two steps: an instance renders it without generating, then generates
`raw` from the rendered prompt and the text delivered. Rules:

1. What cannot be told from the text alone is not continued: a tool call, thinking, a grammar's state.
2. Everything that decides how tokens are chosen stays as the client asked; only the limit of tokens
   shrinks by those delivered.
3. A stream of which nothing was delivered is not continued but asked again, as it was.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

from bridge_agent.routing.resume.messages import MessageTracker
from bridge_agent.routing.resume.native import NativeTracker
from bridge_agent.routing.resume.openai_chunks import ChunkTracker
from bridge_agent.routing.resume.responses import ResponseTracker
from bridge_agent.routing.resume.tracker import Tracker
from bridge_core.dialects import translate
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.wire import Stamp

CHAT: Final = "/api/chat"
GENERATE: Final = "/api/generate"
_COMPLETIONS: Final = ("/v1/chat/completions", "/v1/completions")
_ANY_STAMP: Final = Stamp(0, "0" * 64)  # ids are the stream's own, not the translator's
_KEPT: Final = ("keep_alive", "truncate", "shift", "logprobs", "top_logprobs")
_RENDER_ONLY: Final = b'"_debug_render_only":true}'
_REPEATS: Final = re.compile(r"(.{1,24}?)\1{29,}\s*\Z", re.DOTALL)
_REPEATS_TAIL: Final = 31 * 24
_PICTURES: Final = ("images", "width", "height", "steps")


class NotResumable(Exception):
    """Why a stream cannot be continued."""


class ResumableRequest(msgspec.Struct, frozen=True):
    """What was asked, in Ollama's own words.

    Attributes:
        path: `/api/chat` or `/api/generate`.
        native: The body.
        usage: Whether the client wants the token counts at the end.
    """

    path: str
    native: dict[str, Any]
    usage: bool = False

    @property
    def limit(self) -> int | None:
        """How many tokens the answer may have; None: no limit of the request's own."""
        limit = self._options.get("num_predict")
        return limit if isinstance(limit, int) and limit > 0 else None

    @property
    def stops(self) -> Sequence[str]:
        """The client's stop sequences."""
        stop = self._options.get("stop")
        found = [stop] if isinstance(stop, str) else stop if isinstance(stop, list) else []
        return [one for one in found if isinstance(one, str) and one]

    @property
    def _options(self) -> Mapping[str, Any]:
        options = self.native.get("options")
        return options if isinstance(options, dict) else {}

    def left(self, tokens: int) -> int | None:
        """How many tokens are still allowed after `tokens`; None: no limit."""
        return None if self.limit is None else max(0, self.limit - tokens)


def tracker_for(path: str) -> Tracker | None:
    """A tracker for the streams of a path; None where they are never continued."""
    if path in (CHAT, GENERATE):
        return NativeTracker(chat=path == CHAT)
    if path in _COMPLETIONS:
        return ChunkTracker(chat=path == _COMPLETIONS[0])
    if path == "/v1/messages":
        return MessageTracker()
    return ResponseTracker() if path == "/v1/responses" else None


def request_of(path: str, body: bytes) -> ResumableRequest:
    """Reads what was asked.

    Raises:
        NotResumable: it cannot be read.
    """
    try:
        if path in (CHAT, GENERATE):
            native = msgspec.json.decode(body, type=dict[str, Any])
            return ResumableRequest(path, native)
        exchange = translate(path, body, _ANY_STAMP)
    except (ApiError, msgspec.DecodeError, UnicodeError, RecursionError, ValueError) as fault:
        raise NotResumable("the request cannot be read") from fault
    return ResumableRequest(exchange.path, exchange.native, bool(getattr(exchange, "wants_usage", False)))


def check(request: ResumableRequest, tracker: Tracker) -> None:
    """Returns when the rest of the stream can be generated from its text.

    Raises:
        NotResumable: it cannot, and why.
    """
    native = request.native
    if tracker.lost:
        raise NotResumable("what was delivered is not known")
    if tracker.tools or native.get("tools"):
        raise NotResumable("tool calls may be in progress")
    if tracker.thinking or (native.get("think") and not tracker.tokens):
        raise NotResumable("the model was thinking")
    if native.get("format"):
        raise NotResumable("the output is bound to a format whose grammar cannot be continued")
    if native.get("context"):
        raise NotResumable("the context that the client wants back cannot be made")
    messages = native.get("messages")
    turns = messages if isinstance(messages, list) else ()
    if any(native.get(key) for key in _PICTURES) or any(
        isinstance(turn, dict) and turn.get("images") for turn in turns
    ):
        raise NotResumable("images have no place in a raw prompt")


def check_ending(tracker: Tracker) -> None:
    """Returns unless a stream that ended in good order, but for its last record, ended on purpose.

    Ollama ends an answer so that says one token more than 30 times: another instance would say it
    30 times more, and then end likewise.

    Raises:
        NotResumable: it repeats itself.
    """
    if _REPEATS.search(tracker.text[-_REPEATS_TAIL:]):
        raise NotResumable("the engine ends answers that repeat one token")


def render_body(request: ResumableRequest) -> bytes | None:
    """Asks for the prompt without generating; None where the request's own prompt is raw already."""
    native = request.native
    if request.path == GENERATE and native.get("raw"):
        return None
    return msgspec.json.encode(native | {"stream": False, "_debug_render_only": True})


def renders_only(body: bytes) -> bool:
    """Whether a body is one of `render_body`'s: nothing is generated for it.

    It is its last key that says so: whatever else a body holds, the engine goes by that, and a request
    that does generate cannot pass for one that does not.
    """
    return body.endswith(_RENDER_ONLY)


def rendered_prompt(answer: bytes) -> str | None:
    """The prompt in the answer to `render_body`; None where there is none."""
    try:
        prompt = msgspec.json.decode(answer)["_debug_info"]["rendered_template"]
    except (msgspec.DecodeError, UnicodeError, RecursionError, KeyError, TypeError):
        return None
    return prompt if isinstance(prompt, str) else None


def continuation_body(request: ResumableRequest, rendered: str | None, tracker: Tracker) -> bytes:
    """Asks for what comes after the text delivered.

    Where nothing comes after it, one token is asked for all the same: the count of the prompt's
    tokens is still to be told.

    Args:
        request: What was asked.
        rendered: The prompt; None: the request's own.
        tracker: What was delivered, settled.
    """
    native = request.native
    prompt = str(native.get("prompt") or "") if rendered is None else rendered
    options = dict(native.get("options") or {})
    left = request.left(tracker.tokens)
    if is_whole(request, tracker):
        options["num_predict"] = 1
    elif left is not None:
        options["num_predict"] = left
    body = {"model": native.get("model"), "prompt": prompt + tracker.text, "raw": True, "stream": True}
    body |= {"options": options, "think": False}
    return msgspec.json.encode(body | {key: native[key] for key in _KEPT if key in native})


def is_whole(request: ResumableRequest, tracker: Tracker) -> bool:
    """Whether the client has all of the text, and only the end is missing."""
    return tracker.finished or request.left(tracker.tokens) == 0
