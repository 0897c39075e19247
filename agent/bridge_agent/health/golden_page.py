"""Answers other nodes' golden prompts from this node's instances: what the peer listener serves at
`bridge_core.golden.PATH`.

An answer comes the way that every forwarded request's does, over the mutual TLS of the peer link, and from
the engine's own door. Beside policies, quotas and the audit log it has no part: nobody's words are in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from bridge_agent.engines.view import LocalInstance
from bridge_agent.health.golden_rules import models_to_ask, not_now, reference_to_load
from bridge_core.bounds import Count, Name, Small, Text
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError
from bridge_core.golden import MAX_TOKENS, QUESTIONS, Token
from bridge_core.http1 import App, Exchange, coroutine_app
from bridge_core.names import canonical_or_same

ANSWER_S: Final = 15.0
LOADED_S: Final = 120.0  # where it has to be loaded first
_JSON: Final = ((b"content-type", b"application/json"),)
_TEXT: Final = ((b"content-type", b"text/plain; charset=utf-8"),)
_MOST: Final = 4096
_MOST_USED: Final = 4096


class GoldenQuestion(msgspec.Struct, frozen=True):
    """What a node asks; see `bridge_core.golden`."""

    instance: Text
    round: Count
    question: Small
    reference: Name = ""  # a model to be loaded for it, where nothing is


class ModelAnswer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one model answered, or why it did not."""

    model: Text
    tokens: tuple[Token, ...] = ()
    fault: Text = ""


class GoldenReply(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a node answers; `not_asked` says why it did not ask its instance at all."""

    answers: tuple[ModelAnswer, ...] = ()
    not_asked: Text = ""


class Continuing(Protocol):
    """An engine that continues a prompt."""

    async def first_tokens(self, model: str, prompt: str, *, most: int) -> tuple[Token, ...]:
        """The first tokens, taken greedily. Raises BridgeError."""

    async def close(self) -> None:
        """Lets go of its connections."""


class GoldenPage:
    """See the module.

    Args:
        instances: This node's, as they are now.
        connect: Opens an engine's API.
        work: Requests at an instance.
        is_out: Whether an instance was taken out of the mesh's rotation.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        instances: Callable[[], tuple[LocalInstance, ...]],
        connect: Callable[[LocalInstance], Continuing],
        *,
        work: Callable[[str], int],
        is_out: Callable[[str], bool],
        now: Callable[[], float],
    ) -> None:
        self._instances = instances
        self._connect = connect
        self._work = work
        self._is_out = is_out
        self._now = now
        self._used: dict[str, dict[str, float]] = {}  # by instance and model
        self._asked: dict[str, float] = {}
        self._given: dict[tuple[str, str], float] = {}  # when a model was loaded to be compared with

    def used(self, instance: str, model: str) -> None:
        """A request of a client's ended there."""
        used = self._used.setdefault(instance, {})
        if len(used) < _MOST_USED or model in used:
            used[model] = self._now()

    def app(self, group: asyncio.TaskGroup) -> App:
        """What serves the page."""
        return coroutine_app(self._serve, group)

    async def answer(self, asked: GoldenQuestion) -> GoldenReply:
        """Asks the instance, if it may be asked now."""
        instance = next((one for one in self._instances() if one.id == asked.instance), None)
        if instance is None or instance.state != "ready":
            return GoldenReply(not_asked="it is not ready")
        now, out = self._now(), self._is_out(instance.id)
        last = self._asked.get(instance.id, float("-inf"))
        work = self._work(instance.id)
        if why := not_now(work=work, slots=instance.slots, asked=last, now=now, out=out):
            return GoldenReply(not_asked=why)
        used = self._used.setdefault(instance.id, {})
        loaded = [canonical_or_same(name) for name in instance.loaded]
        for model in loaded:
            used.setdefault(model, now)  # loading it is a use, too
        models = models_to_ask(instance.models, loaded, used, round_=asked.round, now=now, out=out)
        patience_s = ANSWER_S
        if not models and (model := self._reference(instance, asked.reference, work, now)):
            models, patience_s = (model,), LOADED_S
        if not models:
            return GoldenReply(not_asked="none of its models is in use")
        self._asked[instance.id] = now
        engine = self._connect(instance)
        try:
            return GoldenReply(
                tuple([await self._ask(engine, model, asked.question, patience_s) for model in models])
            )
        finally:
            await engine.close()

    def _reference(self, instance: LocalInstance, wanted: str, work: int, now: float) -> str:
        key = (instance.id, wanted)
        given = self._given.get(key, float("-inf"))
        model = reference_to_load(wanted, instance.models, instance.loaded, work=work, given=given, now=now)
        if model:
            self._given[key] = now
        return model

    @staticmethod
    async def _ask(engine: Continuing, model: str, question: int, patience_s: float) -> ModelAnswer:
        try:
            async with asyncio.timeout(patience_s):
                tokens = await engine.first_tokens(model, QUESTIONS[question], most=MAX_TOKENS)
        except TimeoutError:
            return ModelAnswer(model, fault=f"its engine did not answer within {patience_s:.0f} s")
        except BridgeError as fault:
            return ModelAnswer(model, fault=str(fault)[:256])
        return ModelAnswer(model, tokens)

    async def _serve(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method != "POST":
            exchange.respond(405, [(b"allow", b"POST")], b"")
            return
        try:
            asked = decode_json(request.body, GoldenQuestion, most=_MOST)
        except Undecodable as fault:
            exchange.respond(400, _TEXT, fault.message.encode())
            return
        if asked.question >= len(QUESTIONS):
            exchange.respond(400, _TEXT, b"there is no such question")
            return
        exchange.respond(200, _JSON, msgspec.json.encode(await self.answer(asked)))
