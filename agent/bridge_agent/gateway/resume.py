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
from bridge_agent.routing.choose import choose
from bridge_agent.routing.health_rules import Failure
from bridge_agent.routing.resume import Continuation, NotResumable, Stalls, Tracker
from bridge_agent.routing.view import Target
from bridge_core.errors import BridgeError
from bridge_core.http1 import Headers, Request
from bridge_core.names import InvalidName, canonical

log = structlog.get_logger()

_TICK_S: Final = 1.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
_ROUTES: Final = {route.path: route for route in ROUTES}


class Part(Inference):
    """One internal request for the rest of a stream. Its answer is whole or it is cut.

    Attributes:
        instances: Where it was sent.
    """

    part = True

    __slots__ = ("instances",)

    def __init__(self, core: Core, arrival: Arrival, path: str) -> None:
        super().__init__(core, arrival, _ROUTES[path])
        self.instances: set[str] = set()

    def _admitted(self, names: tuple[str, ...]) -> bool:
        """The stream was admitted; a node that drains finishes what it began."""
        return True

    def _send(self, target: Target) -> tuple[Failure, str] | None:
        self.instances.add(target.id)
        return super()._send(target)

    def _record(self, status: int, outcome: Outcome, target: Target | None) -> None:
        """The stream's own record is the only one."""


class Lost(Exception):
    """An attempt to continue ended before the stream did; another one may do better."""


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
        except (NotResumable, BridgeError) as why:
            counters.streams_not_resumed[reason] += 1
            log.info("stream_not_resumable", request_id=answer.arrival.request_id, died=reason, why=str(why))
            return None
        self.closed(answer)
        death = Death(target, reason, model, request, body)
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
        model: Its model, in canonical form.
        request: What was asked, in Ollama's own words.
        body: What was asked, as its engine got it.
    """

    target: Target
    reason: str
    model: str
    request: resume.Request
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
        self._model = death.model
        self._body = death.body
        self._digest = _digest(death.target, death.model)
        self._reason = death.reason
        self._avoid = {death.target.id}
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
            log.exception("stream_resumption_failed", request_id=self._answer.arrival.request_id)
            self._give_up("the stream could not be continued")

    async def _until_whole(self) -> None:
        core, policy, tracker = self._core, self._policy, self._tracker
        moved_at, deaths, pause = core.now(), 1, _FIRST_PAUSE_S
        while True:
            fed = tracker.fed
            try:
                await self._attempt()
            except Lost as fault:
                detail = str(fault)
            else:
                self._answer.carried()
                return
            now = core.now()
            tracker.settle()
            if tracker.fed != fed:
                moved_at, deaths, pause, self._died_at = now, 1, _FIRST_PAUSE_S, now
                resume.check(self._request, tracker)
                continue
            if not self._candidates():
                # Everybody has been asked: those that died may be back after a while.
                self._avoid.clear()
                gone = core.view.index.pool(self._model) is None
                if now - moved_at > (policy.patience_gone if gone else policy.patience):
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
            await self._head(reader)
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
            await self._head(reader)
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
        with self._asked(self._request.path, body) as (_, reader):
            await self._head(reader)
            prompt = resume.rendered_prompt(await reader.read())
        if prompt is None:
            raise NotResumable("the engine does not render prompts")
        return prompt

    async def _head(self, reader: AnswerReader) -> None:
        """Waits for the answer to begin, for as long as a model may need to be loaded.

        Raises:
            Lost: it will not, or not here.
            NotResumable: nobody will answer this.
        """
        try:
            async with asyncio.timeout(self._policy.first_record):
                status = await reader.head()
        except TimeoutError:
            raise Lost(f"{_DEATH} no answer came in time") from None
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
            priority=outer.priority,
        )
        part = Part(self._core, arrival, path)
        part.start_at(candidates)
        try:
            with exchange.reader as reader:
                yield part, reader
        except BridgeError as fault:
            self._avoid |= part.instances
            raise Lost(f"{_DEATH} {fault.message}") from fault
        except Lost:
            self._avoid |= part.instances
            raise

    def _candidates(self) -> tuple[Target, ...]:
        """Whom the pipeline would choose, without those that it died on or that have another model."""
        core = self._core
        index = core.view.index
        pool = index.pool(self._model)
        if pool is None:
            return ()
        chosen: tuple[Target, ...] = ()
        if self._model not in index.routes:
            key = self._model.encode() + self._answer.arrival.request_id.encode()
            chosen = choose(index, self._model, key, core.load(core.now())).candidates
        rest = [target for target in pool.targets.values() if target.available and target not in chosen]
        return tuple(
            target
            for target in (*chosen, *rest)
            if target.id not in self._avoid and self._digest in ("", _digest(target, self._model))
        )

    def _note(self, part: Part) -> None:
        """The stream moves again."""
        self._resumed += 1
        self._core.counters.streams_resumed[self._reason] += 1
        log.info(
            "stream_resumed",
            request_id=self._answer.arrival.request_id,
            died=self._reason,
            died_on=sorted(self._avoid),
            continued_on=sorted(part.instances),
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


def _digest(target: Target, model: str) -> str:
    """The digest of a model (canonical name) as an instance has it; empty when it is not known."""
    for known in target.models:
        with contextlib.suppress(InvalidName):
            if canonical(known.name) == model:
                return known.digest
    return ""
