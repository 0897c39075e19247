"""The rest of a stream: native records in, the client's own framing out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_agent.routing.resume.openai_chunks import ChunkTracker
from bridge_agent.routing.resume.plan import ResumableRequest, is_whole
from bridge_agent.routing.resume.stops import StopGuard
from bridge_agent.routing.resume.tracker import Tracker

_DURATIONS: Final = ("total_duration", "eval_duration")


class Continuation:
    """Turns the records of one raw `/api/generate` into the rest of a stream.

    Rules:
    1. What is returned was fed to the tracker: should this continuation die too, the next one
       starts where it ended.
    2. Tokens of the text that was delivered before count as the answer's, not as the prompt's.
    3. After the last record nothing more is returned.

    Args:
        request: What the client asked.
        tracker: What it has, settled.
        resumed: How often the stream was continued, this time included.
        spent_ns: How long the earlier parts took, from the request to the death.
        decoded_ns: How long of that they were speaking.
    """

    def __init__(
        self, request: ResumableRequest, tracker: Tracker, *, resumed: int, spent_ns: int, decoded_ns: int
    ) -> None:
        if isinstance(tracker, ChunkTracker):
            tracker.wants_usage(request.usage)
        self._tracker = tracker
        self._before = tracker.tokens
        self._whole = is_whole(request, tracker)
        self._cut_short = self._whole and not tracker.finished
        self._resumed = resumed
        self._earlier = {"total_duration": spent_ns, "eval_duration": decoded_ns}
        self._guard = StopGuard(tracker.text, request.stops)
        self.done = False

    def take(self, native: Mapping[str, Any]) -> bytes:
        """What the client gets for one record."""
        if self.done:
            return b""
        text = "" if self._whole else self._guard.feed(str(native.get("response") or ""))
        last = bool(native.get("done"))
        if last and not self._whole:
            text += self._guard.finish()
        out = self._pass(self._tracker.more(text, dict(native))) if text else b""
        if not last and not self._guard.stopped:
            return out
        self.done = True
        self._tracker.settle()
        return out + self._pass(self._tracker.end(self._summed(native), self._resumed))

    def _pass(self, data: bytes) -> bytes:
        data = self._tracker.lead + data
        self._tracker.feed(data)
        # `lead` is read for the next piece, too.
        self._tracker.settle()
        return data

    def _summed(self, native: Mapping[str, Any]) -> dict[str, Any]:
        summed = dict(native)
        new = 0 if self._whole else int(native.get("eval_count") or 0)
        summed["eval_count"] = self._before + new
        if native.get("prompt_eval_count"):
            summed["prompt_eval_count"] = max(1, int(native["prompt_eval_count"]) - self._before)
        for name in _DURATIONS:
            summed[name] = self._earlier[name] + int(native.get(name) or 0)
        if self._guard.stopped or self._whole:
            summed["done_reason"] = "length" if self._cut_short else "stop"
        return summed
