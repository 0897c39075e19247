"""The engine's composition root: store, scheduler, routes, listener."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar

import msgspec
import structlog

from bridge_core import dialects
from bridge_core.dialects.errors import ApiError
from bridge_core.dialects.gojson import Struct
from bridge_core.http1 import Exchange, Pair, Request, coroutine_app, json_error, serve
from bridge_core.http_access import (
    FETCH,
    Origins,
    by_foreign_page,
    cors_headers,
    host_allowed,
    is_address,
    preflight_headers,
    same_origin,
)
from bridge_core.large_json import LARGE
from bridge_core.model_store.layout import BlobWriter, ModelStore
from bridge_core.model_store.registry import Registry, refuse_plain
from bridge_core.names import InvalidName, ModelName
from bridge_core.route_rules import Match, location, match, redirect_body
from bridge_engine import bodies, requests
from bridge_engine.answers import TEXT, EngineAnswer
from bridge_engine.catalog import Catalog
from bridge_engine.embedding import Embedding
from bridge_engine.generation import Generation
from bridge_engine.native import Json
from bridge_engine.pools import Pool, Pools
from bridge_engine.runner.scheduler import Loaded, Scheduler, SchedulerOptions
from bridge_engine.store.blob_keys import AskedKeys
from bridge_engine.store.create import check, create, must_pull
from bridge_engine.store.details import details, listed, shown, timestamp
from bridge_engine.store.pull import pull
from bridge_engine.store.push import push

log = structlog.get_logger()

API_VERSION: Final = "0.32.15"
"""The version of Ollama whose API this is; clients decide by it what they may use."""

SLOTS_PATH: Final = "/bridge/slots"
_SLOTS_ANSWER_S: Final = 2.0
_FOREVER_S: Final = 9_223_372_036  # what Ollama shows for a model that never expires: 292 years
_ORIGINS: Final = Origins()
T = TypeVar("T")
P = ParamSpec("P")
Handle = Callable[["EngineCall"], Awaitable[None]]


class EngineCall:
    """One request on its way through the engine."""

    def __init__(self, exchange: Exchange, answer: EngineAnswer, parameter: str, decode: Pool) -> None:
        self.exchange = exchange
        self.answer = answer
        self.parameter = parameter
        self._decode = decode

    async def read(self, shape: Struct) -> Json:
        """The body.

        Raises:
            ApiError: 400; it is not what `shape` says.
        """
        body = self.exchange.request.body
        return await self.off_loop(len(body), bodies.read, body, shape)

    async def off_loop(self, size: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What `work` makes of so many bytes: in a thread where that takes the loop too long."""
        if size < LARGE:
            return work(*args, **kwargs)
        return await self._decode.run(work, *args, **kwargs)


class Engine:
    """Ollama's HTTP API over one store and one scheduler."""

    def __init__(self, store: ModelStore, scheduler: Scheduler, pools: Pools) -> None:
        self._store = store
        self._scheduler = scheduler
        self._pools = pools
        self._catalog = Catalog(store, pools.disk)
        self._generation = Generation(self._catalog, scheduler, pools.decode)
        self._embedding = Embedding(self._catalog, scheduler, pools.decode)
        self._own_name = socket.gethostname()
        self._routes = self._table()

    # The four calls of native.NativeApi.

    def native(self, path: str, body: Json) -> Any:
        """The records that answer a native request to an inference route."""
        calls = {
            "/api/generate": self._generation.generate,
            "/api/chat": self._generation.chat,
            "/api/embed": self._embedding.embed,
            "/api/embeddings": self._embedding.embeddings,
        }
        return calls[path](body)

    def _table(self) -> dict[str, dict[str, Handle]]:
        table: dict[str, dict[str, Handle]] = {
            "/": _both(self._root),
            "/api/version": _both(self._version),
            "/api/tags": _both(self._tags),
            "/api/status": {"GET": self._status},
            "/api/ps": {"GET": self._ps},
            SLOTS_PATH: {"GET": self._slots},
            "/api/show": {"POST": self._show},
            "/api/create": {"POST": self._create},
            "/api/copy": {"POST": self._copy},
            "/api/delete": {"DELETE": self._delete},
            "/api/pull": {"POST": self._pull},
            "/api/push": {"POST": self._push},
            "/api/blobs/": {"POST": self._put_blob, "HEAD": self._head_blob},
            "/v1/models": {"GET": self._v1_models},
            "/v1/models/": {"GET": self._v1_model},
            "/v1/audio/transcriptions": {"POST": self._no_audio},
            "/api/experimental/model-recommendations": {"GET": self._recommendations},
        }
        for path, shape in (
            ("/api/generate", requests.GENERATE),
            ("/api/chat", requests.CHAT),
            ("/api/embed", requests.EMBED),
            ("/api/embeddings", requests.EMBEDDINGS),
        ):
            table[path] = {"POST": self._inference(path, shape)}
        for path in dialects.PATHS:
            table[path] = {"POST": self._compatible}
        for path in (
            "/api/me",
            "/api/signout",
            "/api/experimental/web_search",
            "/api/experimental/web_fetch",
        ):
            table[path] = {"POST": self._no_cloud}
        table["/api/user/keys/"] = {"DELETE": self._no_cloud}
        return table

    # -- dispatch

    async def handle(self, exchange: Exchange) -> None:
        """Answers one request."""
        request = exchange.request
        handle, found = match(self._routes, request.method, request.path)
        allow: list[Pair] = []
        if handle is None and found.allow:
            allow = [(b"allow", ", ".join(found.allow).encode())]
        host = request.headers.get(b"host") or b""
        if not host_allowed(host.decode("latin-1"), self._own_name):
            exchange.respond(403, allow)
            return
        origin = request.headers.get(b"origin")
        fetch = (request.headers.get(name) for name in FETCH)
        if not origin and by_foreign_page(request.method, *fetch):
            exchange.respond(403, allow)
            return
        extra: tuple[Pair, ...] = ()
        if origin and not same_origin(origin, host):
            if not _ORIGINS.allows(origin.decode("latin-1")):
                exchange.respond(403, allow)
                return
            if request.method == "OPTIONS":
                exchange.respond(204, [*preflight_headers(origin), *allow])
                return
            extra = cors_headers(origin)
        if request.method == "OPTIONS" and not is_address(host.decode("latin-1")):
            exchange.respond(204, allow)
            return
        answer = EngineAnswer(exchange, extra)
        if handle is not None:
            try:
                await handle(EngineCall(exchange, answer, found.parameter, self._pools.decode))
            except ApiError as fault:
                answer.json({"error": fault.message}, status=fault.status)
            except OverflowError:
                exchange.fail(400, bodies.OUT_OF_RANGE)
        elif found.redirect:
            _redirect(answer, request, found)
        elif allow:
            answer.raw(405, TEXT, b"405 method not allowed", allow)
        else:
            answer.raw(404, TEXT, b"404 page not found")

    # -- inference

    def _inference(self, path: str, shape: Struct) -> Handle:
        streams = path in ("/api/generate", "/api/chat")

        async def handle(call: EngineCall) -> None:
            body = await call.read(shape)
            await call.answer.records(self.native(path, body), stream=streams and body.get("stream", True))

        return handle

    async def _compatible(self, call: EngineCall) -> None:
        request = call.exchange.request
        stamp = _stamp()

        try:
            translated = await call.off_loop(len(request.body), bodies.translated, request, stamp)
        except ApiError as fault:
            call.answer.reply(dialects.refusal(request.path, fault.status, fault.message, stamp))
            return
        await call.answer.translated(translated, self.native(translated.path, translated.native))

    # -- what there is

    async def _root(self, call: EngineCall) -> None:
        call.answer.raw(200, b"text/plain; charset=utf-8", b"Ollama is running")

    async def _version(self, call: EngineCall) -> None:
        call.answer.json({"version": API_VERSION})

    async def _status(self, call: EngineCall) -> None:
        call.answer.json({"cloud": {"disabled": True, "source": "env"}})

    async def _recommendations(self, call: EngineCall) -> None:
        call.answer.json({"recommendations": []})

    def _listed(self) -> list[Json]:
        return [listed(model) for model in self._catalog.all()]

    async def _tags(self, call: EngineCall) -> None:
        call.answer.json({"models": await self._pools.disk.run(self._listed)})

    async def _v1_models(self, call: EngineCall) -> None:
        call.answer.reply(dialects.model_list({"models": await self._pools.disk.run(self._listed)}))

    async def _v1_model(self, call: EngineCall) -> None:
        try:
            about = await self._about({"model": call.parameter})
        except ApiError as fault:
            call.answer.reply(dialects.failure(fault.status, fault.message))
            return
        call.answer.reply(dialects.model(call.parameter, about))

    async def _ps(self, call: EngineCall) -> None:
        call.answer.json({"models": [_process(loaded) for loaded in self._scheduler.loaded()]})

    async def _slots(self, call: EngineCall) -> None:
        """Not Ollama's: what each loaded model's slots do, also for requests that were given up."""
        loaded = [(one, one.runner) for one in self._scheduler.loaded() if one.runner is not None]
        busy = await asyncio.gather(*(runner.busy(_SLOTS_ANSWER_S) for _, runner in loaded))
        about = [
            {
                "name": one.model.name.short(),
                "slots": runner.spec.parallel,
                "busy": count,
                "running": runner.running,
            }
            for (one, runner), count in zip(loaded, busy, strict=True)
        ]
        call.answer.json({"models": about})

    async def _show(self, call: EngineCall) -> None:
        call.answer.json(await self._about(await call.read(requests.SHOW)))

    async def _about(self, body: Json) -> Json:
        name = requests.model_field(body)
        if not name:
            raise ApiError(400, "model is required")
        model = await self._catalog.find(name, missing=f"model '{_tagged(name)}' not found")
        return await self._pools.disk.run(
            shown, model, verbose=body.get("verbose", False), system=body.get("system") or None
        )

    # -- changing the store

    async def _create(self, call: EngineCall) -> None:
        body = await call.read(requests.CREATE)
        name = check(body)
        steps = create(self._store, name, body, lambda source: pull(self._store, source, Registry(source)))
        pulls = await self._pools.disk.run(must_pull, self._store, body)
        pool = self._pools.network if pulls else self._pools.disk
        await call.answer.progress(steps, pool, stream=body.get("stream", True))

    async def _copy(self, call: EngineCall) -> None:
        body = await call.read(requests.COPY)
        names = []
        for field in ("source", "destination"):
            text = body.get(field, "")
            try:
                names.append(ModelName.parse(text))
            except InvalidName as fault:
                raise ApiError(400, f'{field} "{text}" is invalid') from fault
        source = await self._pools.disk.run(self._store.find, names[0])
        if source is None:
            raise ApiError(404, f'model "{body["source"]}" not found')
        await self._pools.disk.run(self._store.copy, source, names[1])
        call.answer.raw(200, b"", b"")

    async def _delete(self, call: EngineCall) -> None:
        asked = requests.model_field(await call.read(requests.DELETE))
        if not asked:
            raise ApiError(400, "model is required")
        name = _name(asked, f"name {json.dumps(asked, ensure_ascii=False)} is invalid")
        model = await self._pools.disk.run(self._store.find, name)
        if model is None:
            raise ApiError(404, f"model '{asked}' not found")
        self._scheduler.expire_name(model)
        await self._pools.disk.run(self._store.delete, model)
        call.answer.raw(200, b"", b"")

    async def _pull(self, call: EngineCall) -> None:
        body = await call.read(requests.PULL)
        asked = requests.model_field(body)
        name = _name(asked, "invalid model name")
        insecure = body.get("insecure", False)
        refuse_plain(asked, insecure=insecure)
        steps = pull(self._store, name, Registry(name, insecure=insecure))
        await call.answer.progress(steps, self._pools.network, stream=body.get("stream", True))

    async def _push(self, call: EngineCall) -> None:
        body = await call.read(requests.PUSH)
        asked = requests.model_field(body)
        if not asked:
            raise ApiError(400, "model is required")
        name = _name(asked, "invalid model name")
        insecure = body.get("insecure", False)
        refuse_plain(asked, insecure=insecure)
        steps = push(self._store, name, Registry(name, insecure=insecure))
        await call.answer.progress(steps, self._pools.network, stream=body.get("stream", True))

    async def _head_blob(self, call: EngineCall) -> None:
        path = self._store.blob_path(call.parameter)
        if not path.is_file():
            raise ApiError(404, f'blob "{call.parameter}" not found')
        call.answer.raw(200, b"", b"")

    async def _put_blob(self, call: EngineCall) -> None:
        if self._store.blob_path(call.parameter).is_file():
            call.answer.raw(200, b"", b"")
            return
        writer = await self._pools.disk.run(BlobWriter, self._store, call.parameter)
        try:
            async for part in call.exchange.request.body_parts():
                await self._pools.disk.run(writer.write, part)
            await self._pools.disk.run(writer.commit)
        finally:
            writer.close()
        call.answer.raw(201, b"", b"")

    # -- what this engine has not

    async def _no_cloud(self, call: EngineCall) -> None:
        raise ApiError(403, "there is no cloud behind this engine: it runs models on this machine only")

    async def _no_audio(self, call: EngineCall) -> None:
        call.answer.reply(dialects.failure(501, "this engine does not transcribe audio"))


async def run_engine(
    models: Path,
    settings: SchedulerOptions,
    *,
    host: str,
    port: int,
    ready: Callable[[str, int], None],
    stop: asyncio.Event,
    grace_s: float = 10.0,
) -> None:
    """Serves until `stop` is set, then finishes what runs within `grace_s` and ends every runner.

    Args:
        models: Ollama's models directory; made where it is missing.
        settings: How models are loaded.
        host: Address to listen on.
        port: Port; 0 for any.
        ready: Called with host and port once it listens.
        stop: Set from outside.
        grace_s: See above.

    Raises:
        Fatal: the port is taken.
        OSError: the models directory cannot be made.
    """
    unseal = AskedKeys(models)
    store = ModelStore(models, unseal)
    # The threads outlive the requests: what is cancelled still cleans up in one.
    with contextlib.closing(Pools()) as pools:
        async with asyncio.TaskGroup() as group, Scheduler(settings, unseal) as scheduler:
            engine = Engine(store, scheduler, pools)
            server = await serve(
                coroutine_app(engine.handle, group),
                name="engine",
                host=host,
                port=port,
                stream_body=_is_upload,
                error_body=error_body,
            )
            try:
                ready(host, server.port)
                await stop.wait()
            finally:
                await server.close(grace_s)


def error_body(status: int, message: str, path: str) -> tuple[bytes, bytes]:
    """What the listener itself answers, a fault of ours included, in the protocol of the path."""
    if path in dialects.PATHS:
        reply = dialects.refusal(path, status, message, _stamp())
        return reply.content_type.encode(), reply.body
    return json_error(status, message, path)


def _stamp() -> dialects.Stamp:
    return dialects.Stamp(created=int(time.time()), token=secrets.token_hex(32))


def _is_upload(request: Request) -> bool:
    return request.method == "POST" and request.path.startswith("/api/blobs/")


def _both(handle: Handle) -> dict[str, Handle]:
    return {"HEAD": handle, "GET": handle}


def _redirect(answer: EngineAnswer, request: Request, found: Match) -> None:
    where = location(found.redirect, request.query)
    body = redirect_body(request.method, found.status, where)
    kind = b"text/html; charset=utf-8" if body else b""
    answer.raw(found.status, kind, body, [(b"location", where.encode())])


def _process(loaded: Loaded) -> Json:
    """One entry of `/api/ps`."""
    runner = loaded.runner
    if runner is None:
        raise RuntimeError("a model that is listed as loaded has no runner")
    total, gpu = runner.memory
    left = loaded.keep_alive_s if loaded.users else loaded.expires_at - time.monotonic()
    expires = time.time_ns() + int(min(max(left, 0.0), _FOREVER_S) * 1e9)
    name = loaded.model.name.short()
    return {
        "name": name,
        "model": name,
        "size": total or loaded.model.stored.size,
        "digest": loaded.model.stored.digest,
        "details": details(loaded.model),
        "expires_at": timestamp(expires),
        "size_vram": gpu,
        "context_length": runner.spec.num_ctx,
    }


def _name(text: str, otherwise: str) -> ModelName:
    try:
        return ModelName.parse(text)
    except InvalidName as fault:
        raise ApiError(400, otherwise) from fault


def _tagged(name: str) -> str:
    """A name as `show` repeats it: short, with its tag."""
    try:
        return ModelName.parse(name).short()
    except InvalidName:
        return name


def ready_record(host: str, port: int, pid: int) -> bytes:
    """What the ready file holds."""
    return msgspec.json.encode({"host": host, "port": port, "pid": pid})
