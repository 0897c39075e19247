"""Continuing streams whose owner, engine or runner died, hung or was cut off.

The rest of a stream is asked for as any request is, through the same pipeline (`Part`), so it is
chosen, admitted, queued and retried like the others; the client's connection stays with the answer
that died. `docs/resumable-requests.md` says which streams can be continued.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any, Final

import msgspec
import structlog

from bridge_agent.gateway.answer import Answer
from bridge_agent.gateway.config import Outcome, ResumePolicy
from bridge_agent.gateway.core import Arrival, Core
from bridge_agent.gateway.grpc_adapter.in_process import AnswerReader, InProcessExchange
from bridge_agent.gateway.inference import Inference
from bridge_agent.gateway.routes import ROUTES
from bridge_agent.routing import resume
from bridge_agent.routing.admission_rules import Priority
from bridge_agent.routing.attempts import Attempt
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.resume import Continuation, ContinuationPlace, NotResumable, Stalls, Tracker
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError
from bridge_core.http1 import Headers, Request

log = structlog.get_logger()

_TICK_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_LOOK_S: Final = 0.5  # how often one that waits looks for a better place
_AVOID_S: Final = 2.0  # until an engine that died may be back
_ROUTES: Final = {route.path: route for route in ROUTES}


class Part(Inference):
    """One internal request for the rest of a stream. Its answer is whole or it is cut.

    Attributes:
        instances: Where it was sent.
        instance: Where it was sent last.
    """

    part = True

    __slots__ = ("instance", "instances")

    def __init__(self, core: Core, arrival: Arrival, path: str) -> None:
        super().__init__(core, arrival, _ROUTES[path])
        self.instances: set[str] = set()
        self.instance = ""

    def _admitted(self, names: tuple[str, ...]) -> bool:
        """The stream was admitted; a node that drains finishes what it began."""
        return True

    def _send(self, target: Target) -> tuple[Failure, str] | None:
        self.instance = target.id
        self.instances.add(target.id)
        return super()._send(target)

    def _record(self, status: int, outcome: Outcome, target: Target | None) -> None:
        """The stream's own record is the only one."""


class Lost(Exception):
    """An attempt to continue ended before the stream did; another one may do better."""


class Better(Exception):
    """An attempt to continue waits in a queue, and elsewhere it would not."""


class Resumptions:
    """All streams of a gateway that may be continued: finds the stalled ones, takes over the dead.

    Args:
        core: What the gateway's requests share.
        group: Where the tasks run that continue streams.
        policy: When and how long.
    """

    def __init__(self, core: Core, group: asyncio.TaskGroup, policy: ResumePolicy) -> None:
        self._core = core
        self._group = group
        self._policy = policy
        self._stalls = Stalls(policy.stall_floor, policy.stall_ceiling)
        self._answers: dict[Answer, str] = {}
        self._timer: asyncio.TimerHandle | None = None

    def opened(self, answer: Answer) -> None:
        """See `Resume`."""
        self._stalls.open(answer)
        self._answers[answer] = answer.model
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)

    def closed(self, answer: Answer) -> None:
        """See `Resume`."""
        self._stalls.close(answer)
        self._answers.pop(answer, None)
        if not self._answers and self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def take_over(self, answer: Answer, target: Target, reason: str) -> Resumption | None:
        """See `Resume`."""
        counters, tracker = self._core.counters, answer.tracker
        if tracker is None or answer.exchange.disconnected:
            return None
        try:
            model, body = answer.what_was_asked()
            tracker.settle()
            request = resume.request_of(answer.route.path, body)
            if tracker.begun or tracker.lost:
                resume.check(request, tracker)
            if reason == "truncated":
                resume.check_ending(tracker)
        except (NotResumable, BridgeError) as why:
            counters.streams_not_resumed[reason] += 1
            log.info("stream_not_resumable", request_id=answer.arrival.request_id, died=reason, why=str(why))
            return None
        self.closed(answer)
        decision = answer.decision
        sought = ContinuationPlace(
            model,
            resume.digest_of(target, model),
            "" if decision is None else decision.route,
            "" if decision is None else decision.backend,
            target.failure_domain,
        )
        death = Death(target, reason, sought, request, body)
        job = Resumption(self._core, self._policy, answer, tracker, death)
        job.start(self._group)
        return job

    def _tick(self) -> None:
        """One timer looks at all streams; it runs only while there are any."""
        self._timer = None
        for answer, model in list(self._answers.items()):
            tracker = answer.tracker
            fed = 0 if tracker is None else tracker.fed
            if self._stalls.tick(answer, model, fed, waits=answer.exchange.write_paused):
                self.closed(answer)
                answer.stalled()
        if self._answers and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_TICK_S, self._tick)


class Death(msgspec.Struct, frozen=True):
    """A stream that died.

    Attributes:
        target: Where.
        reason: How.
        sought: What its rest needs.
        request: What was asked, in Ollama's own words.
        body: What was asked, as its engine got it.
    """

    target: Target
    reason: str
    sought: ContinuationPlace
    request: resume.ResumableRequest
    body: bytes


class Resumption:
    """The rest of one stream: sought, generated, passed on, until it is whole or nobody can."""

    def __init__(
        self, core: Core, policy: ResumePolicy, answer: Answer, tracker: Tracker, death: Death
    ) -> None:
        self._core = core
        self._policy = policy
        self._answer = answer
        self._tracker = tracker
        self._request = death.request
        self._sought = death.sought
        self._body = death.body
        self._reason = death.reason
        # A process that hangs is not back soon: until it is found and restarted, it takes requests.
        pause = policy.first_record if death.reason == "stalled" else _AVOID_S
        self._avoid = {death.target.id: core.now() + pause}
        self._queued_s = 0.0
        self._resumed = 0
        self._rendered: str | None = None
        self._died_at = core.now()
        self._task: asyncio.Task[None] | None = None

    def start(self, group: asyncio.TaskGroup) -> None:
        """Begins; the answer is told how it ends."""
        self._task = group.create_task(self._run(), name=f"resume {self._answer.arrival.request_id}")

    def stop(self) -> None:
        """See `Rest`."""
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
            log.exception("stream_resumption_failed", request_id=self._answer.arrival.request_id)
            self._give_up("the stream could not be continued")

    async def _until_whole(self) -> None:
        core, policy, tracker = self._core, self._policy, self._tracker
        moved_at, deaths, pause = core.now(), 1, _FIRST_PAUSE_S
        while True:
            fed = tracker.fed
            try:
                await self._attempt()
            except Better:
                continue
            except Lost as fault:
                detail = str(fault)
            else:
                self._answer.carried()
                return
            now = core.now()
            tracker.settle()
            if tracker.fed != fed:
                moved_at, deaths, pause, self._died_at = now, 1, _FIRST_PAUSE_S, now
                self._queued_s = 0.0
                resume.check(self._request, tracker)
                # An owner behind a hop can only cut a stream that its engine ended on purpose, so the
                # first time that is not told from a death. It must not go on for ever.
                resume.check_ending(tracker)
                continue
            if not self._candidates():
                # Everybody has been asked: those that died may be back after a while.
                self._avoid.clear()
                gone = core.view.index.pool(self._sought.model) is None
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
            Lost: the stream is not whole.
        """
        if not self._tracker.begun:
            await self._again()
            return
        if self._rendered is None:
            self._rendered = await self._render()
        body = resume.continuation_body(self._request, self._rendered or None, self._tracker)
        spent = self._died_at - self._answer.arrival.began
        spoke = self._died_at - self._answer.head_at
        rest = Continuation(
            self._request,
            self._tracker,
            resumed=self._resumed + 1,
            spent_ns=int(spent * 1e9),
            decoded_ns=int(spoke * 1e9),
        )
        first = True
        with self._asked(resume.GENERATE, body) as (part, reader):
            await self._head(part, reader)
            async for line in reader.lines():
                if first:
                    first = False
                    self._note(part)
                data = rest.take(_record(line))
                if data:
                    self._answer.carry(data)
                    await self._answer.exchange.drain()
                if rest.done:
                    return
        raise Lost(f"{_DEATH} the rest of the answer ended early")

    async def _again(self) -> None:
        """Asks for the whole stream: nothing of it was delivered."""
        first = True
        with self._asked(self._answer.route.path, self._body) as (part, reader):
            await self._head(part, reader)
            async for raw in reader.parts():
                if first:
                    first = False
                    self._note(part)
                data = self._answer.renamed(raw)
                self._tracker.feed(data)
                self._answer.carry(data)
                await self._answer.exchange.drain()

    async def _render(self) -> str:
        """The prompt as the engine would have it; empty where the request brought it."""
        body = resume.render_body(self._request)
        if body is None:
            return ""
        with self._asked(self._request.path, body) as (part, reader):
            await self._head(part, reader)
            prompt = resume.rendered_prompt(await reader.read())
        if prompt is None:
            raise NotResumable("the engine does not render prompts")
        return prompt

    async def _head(self, part: Part, reader: AnswerReader) -> None:
        """Waits for the answer to begin, for as long as a model may need to be loaded.

        Time in a queue does not count: the queue has its own limit, and who waits there is not dead.

        Raises:
            Better: it waits in a queue, and somebody else has a free slot now.
            Lost: it will not, or not here.
            NotResumable: nobody will answer this.
        """
        core, waited = self._core, 0.0
        while True:
            began = core.now()
            try:
                async with asyncio.timeout(_LOOK_S):
                    status = await reader.head()
                break
            except TimeoutError:
                passed = core.now() - began
            index, load = core.view.index, core.load(core.now())
            if resume.better(index, self._sought, load, part.instance, self._avoided()):
                raise Better
            asked = index.targets.get(part.instance)
            if asked is not None and resume.crowded(asked, load.work):
                self._queued_s += passed
            else:
                waited += passed
            if waited > self._policy.first_record:
                raise Lost(f"{_DEATH} no answer came in time")
        if status == 200:
            return
        message = (await reader.read())[:500].decode("utf-8", "replace")
        if status == 400:
            raise NotResumable(f"the rest was refused: {message}")
        raise Lost(message if status in (404, 503) else f"{_DEATH} {message}")

    @contextlib.contextmanager
    def _asked(self, path: str, body: bytes) -> Iterator[tuple[Part, AnswerReader]]:
        """An internal request under way; cancelled when the block is left early."""
        candidates = self._candidates()
        if not candidates:
            raise Lost("no other instance has the model")
        outer = self._answer.arrival
        asked = Request("POST", path.encode(), Headers([(b"content-type", b"application/json")]))
        asked.body = body
        exchange = InProcessExchange(asked)
        arrival = Arrival(
            exchange,
            outer.caller,
            None,
            self._core.now(),
            outer.request_id,
            deadline=outer.deadline,
            # Its client is in the middle of a sentence: it goes before what has not begun.
            priority=Priority(max(Priority.HIGH, outer.priority - 1)),
        )
        part = Part(self._core, arrival, path)
        part.start_at(candidates)
        try:
            with exchange.reader as reader:
                yield part, reader
        except BridgeError as fault:
            self._failed_at(part, fault.message)
            raise Lost(f"{_DEATH} {fault.message}") from fault
        except Lost as fault:
            self._failed_at(part, str(fault).removeprefix(_DEATH).strip())
            raise

    def _failed_at(self, part: Part, detail: str) -> None:
        now = self._core.now()
        self._avoid.update(dict.fromkeys(part.instances, now + _AVOID_S))
        if part.instance:
            self._answer.died_again(Attempt(part.instance, part.arrival.began, Failure.CUT, detail))

    def _avoided(self) -> set[str]:
        now = self._core.now()
        return {instance for instance, until in self._avoid.items() if now < until}

    def _candidates(self) -> tuple[Target, ...]:
        """Whom to ask, in order."""
        core = self._core
        return resume.places(core.view.index, self._sought, core.load(core.now()), self._avoided())

    def _note(self, part: Part) -> None:
        """The stream moves again."""
        self._answer.continued(part.instance)
        self._resumed += 1
        self._core.counters.streams_resumed[self._reason] += 1
        log.info(
            "stream_resumed",
            request_id=self._answer.arrival.request_id,
            died=self._reason,
            died_on=sorted(self._avoid),
            continued_on=part.instance,
            tokens=self._tracker.tokens,
            gap_ms=round((self._core.now() - self._died_at) * 1000),
        )
        self._reason = "cut"  # of the next death nothing more is known

    def _give_up(self, why: str) -> None:
        self._core.counters.streams_not_resumed[self._reason] += 1
        log.warning("stream_not_resumed", request_id=self._answer.arrival.request_id, why=why)
        self._answer.given_up("the engine stopped before the answer was complete, and nobody could go on")


_DEATH: Final = "died:"


def _record(line: bytes) -> dict[str, Any]:
    try:
        record = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError) as fault:
        raise Lost(f"{_DEATH} a record that cannot be read") from fault
    if "error" in record:
        raise Lost(f"{_DEATH} {record['error']}")
    return record
