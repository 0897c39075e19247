"""A client of an engine's HTTP API: what supervising it needs."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
import structlog

from bridge_agent.engines.address import engine_address
from bridge_agent.loading.load_options import LoadOptions
from bridge_core.errors import BridgeError, Reaction
from bridge_core.golden import Token
from bridge_core.http1 import Pool
from bridge_core.names import canonical_or_same
from bridge_core.snapshot import MemberModel

T = TypeVar("T")

log = structlog.get_logger()

_LONGEST_TOKEN = 256  # characters
_WIDEST = 1e6  # nats
_ANSWER_LIMIT = 64 * 1024 * 1024  # bytes; /api/tags of thousands of models is some MiB


class EngineFault(BridgeError):
    """An engine refused a request, or answered what is not an answer to it.

    Attributes:
        status: The HTTP status of its answer.
        reason: What it says itself.
    """

    reaction = Reaction.ELSEWHERE

    def __init__(self, message: str, status: int, reason: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason or message


class ResidentModel(msgspec.Struct, frozen=True):
    """A model in an engine's memory, as /api/ps lists it."""

    name: str
    digest: str = ""
    size: int = 0
    size_vram: int = 0
    expires_at: str = ""
    context_length: int = 0

    def expires_in_s(self, now: datetime) -> float:
        """How long it stays loaded without being used: infinite where for ever, or not known."""
        try:
            expires_at = datetime.fromisoformat(self.expires_at)
        except ValueError:
            return math.inf
        # A keep_alive below zero is listed as a time 292 years ahead.
        if expires_at.year >= 2100:
            return math.inf
        return (expires_at.replace(tzinfo=expires_at.tzinfo or UTC) - now).total_seconds()


class _Version(msgspec.Struct):
    version: str


class _Tags(msgspec.Struct):
    models: tuple[msgspec.Raw, ...] | None = ()


class _Ps(msgspec.Struct):
    models: tuple[ResidentModel, ...] | None = ()


class _Likely(msgspec.Struct):
    token: str = ""
    logprob: float = 0.0


class _Generated(_Likely):
    top_logprobs: tuple[_Likely, ...] | None = ()


class _Continued(msgspec.Struct):
    response: str = ""
    logprobs: tuple[_Generated, ...] | None = ()


class _Message(msgspec.Struct):
    content: str = ""


class _Chat(msgspec.Struct):
    message: _Message


class _Error(msgspec.Struct):
    error: str


class EngineClient:
    """One engine's API.

    Every method raises `bridge_core.http1` errors (ConnectFailed, IncompleteResponse, …) where
    there is no answer and `EngineFault` where it is one of failure. None sets a time limit: use
    `asyncio.timeout`.
    """

    def __init__(self, host: str, port: int, network_pid: int = 0) -> None:
        # Ollama answers 403 to Host fields that name a public host.
        self._pool = Pool(engine_address(host, port, network_pid), host=f"127.0.0.1:{port}".encode())
        self._left_out = ""

    async def close(self) -> None:
        """Closes its connections."""
        await self._pool.close()

    async def version(self) -> str:
        """Its version; the cheapest sign of life."""
        return (await self._call("GET", "/api/version", _Version)).version

    async def models(self) -> tuple[MemberModel, ...]:
        """The models on its disk."""
        listed = (await self._call("GET", "/api/tags", _Tags)).models or ()
        models, left_out = [], ""
        for raw in listed:
            try:
                models.append(msgspec.json.decode(raw, type=MemberModel))
            except (ValueError, RecursionError) as fault:
                # One with more to it than a mesh takes must not hide the others.
                left_out = str(fault)
        if left_out != self._left_out:  # said once, not at every look
            self._left_out = left_out
            log.warning("models_left_out", count=len(listed) - len(models), reason=left_out)
        return tuple(models)

    async def loaded(self) -> tuple[ResidentModel, ...]:
        """The models in its memory."""
        return (await self._call("GET", "/api/ps", _Ps)).models or ()

    async def show(self, model: str) -> dict[str, Any]:
        """All about a model."""
        return await self._call("POST", "/api/show", dict[str, Any], {"model": model})

    async def load(
        self,
        model: str,
        *,
        keep_alive: str | int | None = None,
        options: LoadOptions | None = None,
        embedding: bool = False,
    ) -> None:
        """Loads a model into memory; returns when it is there. A `keep_alive` of 0 unloads it.

        Args:
            model: Its name.
            keep_alive: How long it stays there; None: as long as usual.
            options: Of its runner.
            embedding: It may be one that generates nothing.
        """
        body: dict[str, Any] = {} if options is None else msgspec.to_builtins(options)
        body["model"] = model
        if keep_alive is not None:
            body["keep_alive"] = keep_alive
        if embedding:
            body["input"] = ""
        else:
            body["stream"] = False
        path = "/api/embed" if embedding else "/api/generate"
        await self._call("POST", path, dict[str, Any], body)

    async def answer(self, model: str, prompt: str, *, system: str = "", max_tokens: int = 64) -> str:
        """What the model answers at temperature 0; the model stays loaded as long as usual."""
        turns = [{"role": "system", "content": system}] if system else []
        body: dict[str, Any] = {
            "model": model,
            "messages": [*turns, {"role": "user", "content": prompt}],
            "stream": False,
            "options": {"temperature": 0, "seed": 0, "num_predict": max_tokens},
        }
        return (await self._call("POST", "/api/chat", _Chat, body)).message.content

    async def first_tokens(self, model: str, prompt: str, *, most: int) -> tuple[Token, ...]:
        """How the model goes on after a prompt that no template touches, always with the likeliest token.

        An engine that tells no log probabilities answers with one token of all its text, and no margin.
        """
        # Whatever an option's default is in this version and that, the answers are to be comparable. The
        # context's size has to be what it was loaded with: any other would load it anew.
        options: dict[str, Any] = {"temperature": 0, "seed": 0, "repeat_penalty": 1.0, "num_predict": most}
        resident = await self._resident(model)
        if resident is not None and resident.context_length:
            options["num_ctx"] = resident.context_length
        body: dict[str, Any] = {"model": model, "prompt": prompt, "raw": True, "stream": False}
        body |= {"logprobs": True, "top_logprobs": 2, "options": options}
        answer = await self._call("POST", "/api/generate", _Continued, body)
        if not answer.logprobs:
            return (Token(answer.response[:_LONGEST_TOKEN], -1.0),)
        return tuple(Token(one.token[:_LONGEST_TOKEN], _margin(one)) for one in answer.logprobs[:most])

    async def generate_one(self, model: str, *, context_length: int = 0, embedding: bool = False) -> None:
        """Makes a loaded model do the least work there is: one token, or one embedding.

        Args:
            model: Its name.
            context_length: What it was loaded with, if known: another value, also the default one,
                would make the engine load it anew.
            embedding: It is an embedding model.
        """
        options: dict[str, Any] = {"num_ctx": context_length} if context_length else {}
        if embedding:
            body: dict[str, Any] = {"model": model, "input": "a", "options": options}
            await self._call("POST", "/api/embed", dict[str, Any], body)
            return
        body = {"model": model, "prompt": "a", "raw": True, "stream": False}
        await self._call(
            "POST", "/api/generate", dict[str, Any], body | {"options": options | {"num_predict": 1}}
        )

    async def warm_up(self, model: str, *, embedding: bool = False) -> None:
        """Has a model that was just loaded do its first work: what that takes longer, no client waits for."""
        one = await self._resident(model)
        if one is not None:
            await self.generate_one(one.name, context_length=one.context_length, embedding=embedding)

    async def _resident(self, model: str) -> ResidentModel | None:
        """A model as it is in memory, however its name is spelled; None where it is not."""
        wanted = canonical_or_same(model)
        return next((one for one in await self.loaded() if canonical_or_same(one.name) == wanted), None)

    async def _call(self, method: str, path: str, kind: type[T], body: dict[str, Any] | None = None) -> T:
        data = None if body is None else msgspec.json.encode(body)
        headers = [] if body is None else [(b"content-type", b"application/json")]
        async with self._pool.request(method, path, headers, data) as response:
            status, answer = response.status, await response.read(_ANSWER_LIMIT)
        if status >= 400:
            reason = _reason(answer)
            raise EngineFault(f"{method} {path} answered {status}: {reason}", status, reason)
        try:
            return msgspec.json.decode(answer, type=kind)
        except (ValueError, RecursionError) as fault:  # msgspec's and Unicode's among them
            raise EngineFault(f"{method} {path} answered what does not decode: {fault}", status) from fault


def _margin(token: _Generated) -> float:
    """By how much it was likelier than the next best; below zero where that is not told."""
    others = [one.logprob for one in token.top_logprobs or () if one.token != token.token]
    if not others:
        return -1.0
    margin = token.logprob - max(others)
    return min(margin, _WIDEST) if margin > 0.0 else 0.0  # also of what is no number


def _reason(answer: bytes) -> str:
    try:
        return msgspec.json.decode(answer, type=_Error).error
    except (ValueError, RecursionError):
        return answer[:200].decode(errors="replace") or "nothing"
