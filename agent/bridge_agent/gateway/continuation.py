"""Continuing a stream whose owner, engine or runner died, hung or was cut off.

The rest of a stream is asked for as any request is, through the same pipeline, so it is admitted, queued
and retried like the others; the client's connection stays with the request whose stream died.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import structlog

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.asked import AskedBody
from bridge_agent.gateway.config import ResumePolicy
from bridge_agent.gateway.grpc_adapter.in_process import InProcessExchange
from bridge_agent.gateway.request import RoutedRequest, Trail
from bridge_agent.gateway.routes import ROUTES
from bridge_agent.gateway.state import GatewayState
from bridge_agent.gateway.stream_filter import StreamFilter
from bridge_agent.routing import resume
from bridge_agent.routing.admission_rules import Priority
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.request_rules import FailedAttempt, RequestLife
from bridge_agent.routing.resume import Continuation, ContinuationPlace, NotResumable, Tracker
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError
from bridge_core.http1 import Headers, Request

log = structlog.get_logger()

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_LOOK_S: Final = 0.5  # how often one that waits looks for a better place
_AVOID_S: Final = 2.0  # until an engine that died may be back
_MESSAGE_MOST: Final = 1 << 20
_PROMPT_MOST: Final = 100 << 20
_ROUTES: Final = {route.path: route for route in ROUTES}


class _AttemptLost(Exception):
    """An attempt to continue ended before the stream did; another one may do better."""


class _BetterElsewhere(Exception):
    """An attempt to continue waits in a queue, and elsewhere it would not."""


class StreamDeath(msgspec.Struct, frozen=True):
    """A stream that died.

    Attributes:
        target: Where.
        reason: How.
        sought: What its rest needs.
        asked: What was asked, in Ollama's own words.
        body: What was asked, as its engine got it.
        tracker: What the client has of it.
    """

    target: Target
    reason: str
    sought: ContinuationPlace
    asked: resume.ResumableRequest
    body: bytes
    tracker: Tracker


class StreamContinuation:
    """The rest of one stream: sought, generated, passed on, until it is whole or nobody can.

    Attributes:
        instance: Where it came from last.
    """

    def __init__(
        self,
        state: GatewayState,
        policy: ResumePolicy,
        request: RoutedRequest,
        stream: StreamFilter,
        death: StreamDeath,
    ) -> None:
        self._state = state
        self._policy = policy
        self._request = request
        self._stream = stream
        self._tracker = death.tracker
        self._asked = death.asked
        self._sought = death.sought
        self._body = death.body
        self._reason = death.reason
        # A process that hangs is not back soon: until it is found and restarted, it takes requests.
        pause = policy.first_record if death.reason == "stalled" else _AVOID_S
        self._avoid = {death.target.id: state.now() + pause}
        self._queued_s = 0.0
        self._resumed = 0
        self._rendered: str | None = None
        self._died_at = state.now()
        self._task: asyncio.Task[None] | None = None
        self.instance = ""

    def start(self) -> None:
        """Begins; the answer is told how it ends."""
        name = f"resume {self._request.arrival.request_id}"
        self._task = self._state.group.create_task(self._run(), name=name)

    def stop(self) -> None:
        """See `ContinuationTask`."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        try:
            await self._until_whole()
        except NotResumable as why:
            self._give_up(str(why))
        except Exception:
            # The task's root: a fault of ours in one stream must end neither the group, which is the
            # whole gateway, nor leave its client waiting.
            log.exception("stream_resumption_failed", request_id=self._request.arrival.request_id)
            self._give_up("the stream could not be continued")

    async def _until_whole(self) -> None:
        state, policy, tracker = self._state, self._policy, self._tracker
        moved_at, deaths, pause = state.now(), 1, _FIRST_PAUSE_S
        while True:
            fed = tracker.fed
            try:
                await self._attempt()
            except _BetterElsewhere:
                continue
            except _AttemptLost as fault:
                detail = str(fault)
            else:
                self._request.carried()
                return
            now = state.now()
            tracker.settle()
            if tracker.fed != fed:
                moved_at, deaths, pause, self._died_at = now, 1, _FIRST_PAUSE_S, now
                self._queued_s = 0.0
                resume.check(self._asked, tracker)
                # An owner behind a hop can only cut a stream that its engine ended on purpose, so the
                # first time that is not told from a death. It must not go on for ever.
                resume.check_ending(tracker)
                continue
            if not self._candidates():
                # Everybody has been asked: those that died may be back after a while.
                self._avoid.clear()
                gone = state.view.index.pool(self._sought.model) is None
                if now - moved_at - self._queued_s > (policy.patience_gone if gone else policy.patience):
                    raise NotResumable(detail)
                await asyncio.sleep(pause)
                pause = min(_LONGEST_PAUSE_S, pause * 2)
            elif detail.startswith(_DEATH):
                deaths += 1
                if deaths > policy.deaths:
                    raise NotResumable(detail)

    async def _attempt(self) -> None:
        """Asks one instance for the rest, and passes it on as it comes.

        Raises:
            _AttemptLost: the stream is not whole.
        """
        if not self._tracker.begun:
            await self._again()
            return
        if self._rendered is None:
            self._rendered = await self._render()
        body = resume.continuation_body(self._asked, self._rendered or None, self._tracker)
        spent = self._died_at - self._request.arrival.began
        spoke = self._died_at - self._request.head_at
        rest = Continuation(
            self._asked,
            self._tracker,
            resumed=self._resumed + 1,
            spent_ns=int(spent * 1e9),
            decoded_ns=int(spoke * 1e9),
        )
        first = True
        with self._internal(resume.GENERATE, body) as (trail, reader):
            await self._head(trail, reader)
            async for line in reader.lines():
                if first:
                    first = False
                    self._note(trail)
                data = rest.take(_record(line))
                if data:
                    self._request.carry(data)
                    await self._request.exchange.drain()
                if rest.done:
                    return
        raise _AttemptLost(f"{_DEATH} the rest of the answer ended early")

    async def _again(self) -> None:
        """Asks for the whole stream: nothing of it was delivered."""
        first = True
        with self._internal(self._request.route.path, self._body) as (trail, reader):
            await self._head(trail, reader)
            async for raw in reader.parts():
                if first:
                    first = False
                    self._note(trail)
                data = self._stream.renamed(raw)
                self._tracker.feed(data)
                self._request.carry(data)
                await self._request.exchange.drain()

    async def _render(self) -> str:
        """The prompt as the engine would have it; empty where the request brought it."""
        body = resume.render_body(self._asked)
        if body is None:
            return ""
        with self._internal(self._asked.path, body) as (trail, reader):
            await self._head(trail, reader)
            prompt = resume.rendered_prompt(await reader.whole(_PROMPT_MOST))
        if prompt is None:
            raise NotResumable("the engine does not render prompts")
        return prompt

    async def _head(self, trail: Trail, reader: InProcessExchange) -> None:
        """Waits for the answer to begin, for as long as a model may need to be loaded.

        Time in a queue does not count: the queue has its own limit, and who waits there is not dead.

        Raises:
            _BetterElsewhere: it waits in a queue, and somebody else has a free slot now.
            _AttemptLost: it will not, or not here.
            NotResumable: nobody will answer this.
        """
        state, waited = self._state, 0.0
        while True:
            began = state.now()
            try:
                async with asyncio.timeout(_LOOK_S):
                    status = await reader.head()
                break
            except TimeoutError:
                passed = state.now() - began
            index, load = state.view.index, state.load(state.now())
            if resume.better(index, self._sought, load, trail.last, self._avoided()):
                raise _BetterElsewhere
            asked = index.targets.get(trail.last)
            if asked is not None and resume.crowded(asked, load.work):
                self._queued_s += passed
            else:
                waited += passed
            if waited > self._policy.first_record:
                raise _AttemptLost(f"{_DEATH} no answer came in time")
        if status == 200:
            return
        message = (await reader.whole(_MESSAGE_MOST))[:500].decode("utf-8", "replace")
        if status == 400:
            raise NotResumable(f"the rest was refused: {message}")
        raise _AttemptLost(message if status in (404, 503) else f"{_DEATH} {message}")

    @contextlib.contextmanager
    def _internal(self, path: str, body: bytes) -> Iterator[tuple[Trail, InProcessExchange]]:
        """An internal request under way; cancelled when the block is left early."""
        candidates = self._candidates()
        if not candidates:
            raise _AttemptLost("no other instance has the model")
        outer = self._request.arrival
        asked = Request("POST", path.encode(), Headers([(b"content-type", b"application/json")]))
        asked.body = body
        exchange = InProcessExchange(asked)
        began = self._state.now()
        arrival = Arrival(
            exchange,
            outer.caller,
            None,
            began,
            outer.request_id,
            deadline=outer.deadline,
            # Its client is in the middle of a sentence: it goes before what has not begun.
            priority=Priority(max(Priority.HIGH, outer.priority - 1)),
            trace=outer.trace,
        )
        trail = self._send(arrival, path, candidates)
        try:
            with exchange as reader:
                yield trail, reader
        except BridgeError as fault:
            self._failed_at(trail, began, fault.message)
            raise _AttemptLost(f"{_DEATH} {fault.message}") from fault
        except _AttemptLost as fault:
            self._failed_at(trail, began, str(fault).removeprefix(_DEATH).strip())
            raise

    def _send(self, arrival: Arrival, path: str, candidates: tuple[Target, ...]) -> Trail:
        """Sends an internal request on: the stream was admitted, and a node that drains finishes it."""
        state, route, trail = self._state, _ROUTES[path], Trail()
        policy = state.view.index.defaults
        asked = AskedBody(self._sought.model, arrival.exchange.request.body)
        came_by = self._request.decision.route  # by which its owner lets it in
        decision = Decision(self._sought.model, candidates, True, came_by, strategy="node", policy=policy)
        life = RequestLife(candidates, arrival.deadline, policy.retries)
        RoutedRequest(state, arrival, route, asked, decision=decision, life=life, trail=trail).begin()
        return trail

    def _failed_at(self, trail: Trail, began: float, detail: str) -> None:
        now = self._state.now()
        self._avoid.update(dict.fromkeys(trail.instances, now + _AVOID_S))
        if trail.last:
            self._request.rest_failed(FailedAttempt(trail.last, began, Failure.CUT, detail))

    def _avoided(self) -> set[str]:
        now = self._state.now()
        return {instance for instance, until in self._avoid.items() if now < until}

    def _candidates(self) -> tuple[Target, ...]:
        """Whom to ask, in order."""
        state = self._state
        return resume.places(state.view.index, self._sought, state.load(state.now()), self._avoided())

    def _note(self, trail: Trail) -> None:
        """The stream moves again."""
        self.instance = trail.last
        self._resumed += 1
        self._state.counters.streams_resumed[self._reason] += 1
        log.info(
            "stream_resumed",
            request_id=self._request.arrival.request_id,
            died=self._reason,
            died_on=sorted(self._avoid),
            continued_on=trail.last,
            tokens=self._tracker.tokens,
            gap_ms=round((self._state.now() - self._died_at) * 1000),
        )
        self._reason = "cut"  # of the next death nothing more is known

    def _give_up(self, why: str) -> None:
        self._state.counters.streams_not_resumed[self._reason] += 1
        log.warning("stream_not_resumed", request_id=self._request.arrival.request_id, why=why)
        self._request.given_up("the engine stopped before the answer was complete, and nobody could go on")


_DEATH: Final = "died:"


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError) as fault:
        raise _AttemptLost(f"{_DEATH} a record that cannot be read") from fault
    if "error" in record:
        raise _AttemptLost(f"{_DEATH} {record['error']}")
    return record
