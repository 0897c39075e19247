"""Streams that may be continued: which of them fell silent, and who takes over what died.

`docs/resumable-requests.md` says which streams can be continued.
"""

from __future__ import annotations

import asyncio
from typing import Final

import structlog

from bridge_agent.gateway.config import ResumePolicy
from bridge_agent.gateway.continuation import StreamContinuation, StreamDeath
from bridge_agent.gateway.request import RoutedRequest
from bridge_agent.gateway.state import GatewayState
from bridge_agent.routing import resume
from bridge_agent.routing.resume import ContinuationPlace, NotResumable, Stalls
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError

log = structlog.get_logger()

_TICK_S: Final = 1.0


class ResumingKeeper:
    """All streams of a gateway that may be continued: finds the stalled ones, takes over the dead.

    Args:
        state: What the gateway's requests share.
        policy: When and how long.
    """

    def __init__(self, state: GatewayState, policy: ResumePolicy) -> None:
        self._state = state
        self._policy = policy
        self._stalls = Stalls(policy.stall_floor, policy.stall_ceiling)
        self._requests: dict[RoutedRequest, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, request: RoutedRequest) -> None:
        """See `StreamKeeper`."""
        self._stalls.open(request)
        self._requests[request] = request.asked.model
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def closed(self, request: RoutedRequest) -> None:
        """See `StreamKeeper`."""
        self._stalls.close(request)
        self._requests.pop(request, None)
        if not self._requests and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take_over(self, request: RoutedRequest, target: Target, reason: str) -> StreamContinuation | None:
        """See `StreamKeeper`."""
        counters, stream = self._state.counters, request.stream
        if stream is None or stream.tracker is None or request.exchange.disconnected:
            return None
        tracker, decision = stream.tracker, request.serving
        try:
            body = request.asked.readable(self._state.config.max_body)
            tracker.settle()
            asked = resume.request_of(request.route.path, body)
            if tracker.begun or tracker.lost:
                resume.check(asked, tracker)
            if reason == "truncated":
                resume.check_ending(tracker)
        except (NotResumable, BridgeError) as why:
            counters.streams_not_resumed[reason] += 1
            log.info("stream_not_resumable", request_id=request.arrival.request_id, died=reason, why=str(why))
            return None
        self.closed(request)
        model = decision.model
        sought = ContinuationPlace(
            model,
            resume.digest_of(target, model),
            decision.route,
            decision.backend,
            target.failure_domain,
        )
        death = StreamDeath(target, reason, sought, asked, body, tracker)
        job = StreamContinuation(self._state, self._policy, request, stream, death)
        job.start()
        return job

    def _tick(self) -> None:
        """One timer looks at all streams; it runs only while there are any."""
        self._timer = None
        for request, model in list(self._requests.items()):
            stream = request.stream
            fed = 0 if stream is None or stream.tracker is None else stream.tracker.fed
            if self._stalls.tick(request, model, fed, waits=request.exchange.write_paused):
                self.closed(request)
                request.stalled()
        if self._requests and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)
