"""An engine that answers with what a real Ollama was recorded to answer, and fails on demand.

In-process, on a real socket. Streams come chunk by chunk as recorded, the model's name replaced
by the one that was asked for. `faults` says what goes wrong with inference; each fault counts down.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from bridge_agent.engines.view import LocalInstance
from bridge_core.http1 import Exchange, Server, coroutine_app, serve
from bridge_core.names import InvalidName, canonical, display
from bridge_core.snapshot import MemberModel, ModelDetails

RECORDINGS = Path(__file__).parent.parent / "contract" / "recordings"
DIED = "an error was encountered while running the model: unexpected EOF"
RECORDED_NAME = "smollm2:135m"


def recording(file: str) -> list[dict[str, Any]]:
    return json.loads((RECORDINGS / f"{file}.json").read_text())


def case(file: str, name: str) -> dict[str, Any]:
    return next(entry for entry in recording(file) if entry.get("case") == name)


_ANSWERS = {
    ("/api/generate", True): case("generate", "stream"),
    ("/api/generate", False): case("generate", "non-stream"),
    ("/api/chat", True): case("chat", "stream"),
    ("/api/chat", False): case("chat", "non-stream"),
    ("/v1/chat/completions", True): case("openai", "chat stream"),
    ("/v1/chat/completions", False): case("openai", "chat"),
    ("/v1/completions", True): case("openai", "completions stream"),
    ("/v1/completions", False): case("openai", "completions"),
    ("/v1/responses", True): case("openai", "responses stream"),
    ("/v1/responses", False): case("openai", "responses"),
    ("/v1/messages", True): case("anthropic", "messages stream"),
    ("/v1/messages", False): case("anthropic", "messages"),
    ("/api/embed", False): case("embed", "one"),
    ("/v1/embeddings", False): case("openai", "embeddings"),
    ("/api/show", False): case("show", "show"),
}
_CRUMB = 11
_STREAMS_BY_DEFAULT = ("/api/generate", "/api/chat")
_LOAD_UNLOAD = {"model": "", "created_at": "2026-11-23T21:35:30.065954458Z", "done": True}


@dataclass
class Fault:
    """What goes wrong: `kind` after `after` chunks, `times` times; `slow`: not before `release`.

    Kinds: "cut" (the connection ends), "silent" (the stream ends without its terminal record),
    "torn" (as "silent", in the middle of a record), "hang", "error" (the engine's own error
    record), "busy" (503), "later" (503 with Retry-After: 30), "died" (500, the runner's death
    before a byte), "close" (before the head), "crumbs" (all is well, but comes a few bytes at a time).
    """

    kind: str
    after: int = 2
    times: int = 1_000_000
    slow: bool = False


@dataclass
class Asked:
    """A request as it arrived."""

    method: str
    target: bytes
    headers: dict[bytes, bytes]
    body: bytes


@dataclass
class RecordedEngine:
    """One engine with these models; `instance(id)` is what a supervisor would publish."""

    models: tuple[str, ...] = ("smollm2:135m",)
    digest: str = "f" * 64  # of all its models
    lacks: tuple[str, ...] = ()  # models that cannot be deleted
    slots: int = 4
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    cancelled: int = 0
    running: int = 0
    blobs: dict[str, bytes] = field(default_factory=dict)
    server: Server | None = None
    release: asyncio.Event = field(default_factory=asyncio.Event)
    busy: int | None = None  # slots that it says it works in; None: it does not tell, as a real Ollama

    async def start(self, group: asyncio.TaskGroup) -> None:
        self.release.set()
        app = coroutine_app(self._handle, group)
        self.server = await serve(
            app, name="engine", stream_body=lambda request: request.path.startswith("/api/blobs/")
        )

    async def stop(self) -> None:
        if self.server is not None:
            await self.server.close()
            self.server = None

    def instance(self, id_: str, state: str = "ready") -> LocalInstance:
        models = tuple(
            MemberModel(
                display(name),
                self.digest,
                42,
                "2026-11-23T21:35:30.065954458Z",
                ModelDetails(format="gguf", family="llama", families=("llama",)),
                ("completion",),
            )
            for name in self.models
        )
        port = self.server.port if self.server is not None else 1
        return LocalInstance(id_, "127.0.0.1", port, state, models, (), self.slots)  # type: ignore[arg-type]

    def inferences(self) -> list[Asked]:
        return [one for one in self.asked if (one.target.decode(), False) in _ANSWERS]

    async def _handle(self, exchange: Exchange) -> None:
        request = exchange.request
        if request.method == "POST" and request.path.rpartition("/")[2] in self.blobs:
            exchange.respond(200)  # as engines do: what they have they do not read
            return
        body = b"".join([part async for part in exchange.request.body_parts()])
        self.asked.append(Asked(request.method, request.target, dict(request.headers), body))
        host = request.headers.get(b"host") or b""
        if not host.startswith(b"127.0.0.1:"):
            exchange.respond(403)
            return
        path = request.path
        if path == "/api/version":
            self._json(exchange, {"version": "0.0.0"})
        elif path == "/api/ps":
            self._json(exchange, {"models": [{"name": name, "model": name} for name in self.models]})
        elif path == "/bridge/slots":
            about = {"models": [{"busy": self.busy, "running": self.running}]}
            self._json(exchange, about, 404 if self.busy is None else 200)
        elif path.startswith("/api/blobs/"):
            self._blob(exchange, path.rpartition("/")[2], body)
        elif path == "/api/delete" and json.loads(body).get("model") in self.lacks:
            self._json(exchange, {"error": "model not found"}, 404)
        elif path in ("/api/delete", "/api/copy"):
            exchange.respond(200)
        elif path in ("/api/pull", "/api/create", "/api/push"):
            await self._progress(exchange, json.loads(body).get("stream", True))
        else:
            self.running += 1
            try:
                await self._infer(exchange, path, body)
            except asyncio.CancelledError:
                self.cancelled += 1
                raise
            finally:
                self.running -= 1

    def _blob(self, exchange: Exchange, digest: str, body: bytes) -> None:
        if exchange.request.method == "HEAD":
            exchange.respond(200 if digest in self.blobs else 404)
            return
        self.blobs[digest] = body
        exchange.respond(201)

    async def _progress(self, exchange: Exchange, stream: bool) -> None:
        fault = self._fault()
        if not stream:
            self._json(exchange, {"status": "success"})
            return
        exchange.start(200, [(b"content-type", b"application/x-ndjson")])
        exchange.write(b'{"status":"pulling manifest"}\n')
        if fault is None:
            exchange.write(b'{"status":"success"}\n')
        exchange.finish()

    async def _infer(self, exchange: Exchange, path: str, body: bytes) -> None:
        if exchange.request.headers.get(b"content-encoding") == b"zstd":
            body = zstandard.decompress(body)
        asked = json.loads(body)
        model = asked.get("model") or asked.get("name") or ""
        if not self._has(model):
            self._json(exchange, {"error": f"model '{model}' not found"}, 404)
            return
        stream = bool(asked.get("stream", path in _STREAMS_BY_DEFAULT))
        answer = _ANSWERS[path, stream and (path, True) in _ANSWERS]
        chunks = [
            chunk.replace(f'"{RECORDED_NAME}"', json.dumps(model)).encode() for chunk in answer["chunks"]
        ]
        await self._play(exchange, answer["headers"]["Content-Type"].encode(), chunks, stream)

    async def _play(self, exchange: Exchange, kind: bytes, chunks: list[bytes], stream: bool) -> None:
        fault = self._fault()
        if fault is not None and fault.slow:
            await self.release.wait()
            fault = fault if fault.kind else None
        if fault is not None and fault.kind in ("busy", "later"):
            patience = ((b"retry-after", b"30"),) if fault.kind == "later" else ()
            self._json(exchange, {"error": "server busy, please try again."}, 503, patience)
            return
        if fault is not None and fault.kind == "died":
            self._json(exchange, {"error": DIED}, 500)
            return
        if fault is not None and fault.kind == "close":
            exchange.abort()
            return
        pairs = [(b"content-type", kind)]
        if not stream:
            if fault is not None and fault.kind == "hang":
                await asyncio.Event().wait()
            data = b"".join(chunks)
            if fault is not None and fault.kind == "crumbs":
                exchange.start(200, pairs)
                await self._crumble(exchange, data)
                exchange.finish()
            elif fault is not None:
                exchange.start(200, pairs, len(data))
                exchange.write(data[:10])
                exchange.abort()
            else:
                await self.release.wait()
                exchange.respond(200, pairs, data)
            return
        exchange.start(200, pairs)
        if fault is not None and fault.kind == "crumbs":
            await self._crumble(exchange, b"".join(chunks))
            exchange.finish()
            return
        for chunk in self._until(chunks, fault):
            exchange.write(chunk)
            await exchange.drain()
            await asyncio.sleep(0)
        if fault is not None and fault.kind == "torn":
            exchange.write(chunks[fault.after][:30])
        await self._end(exchange, fault)

    @staticmethod
    async def _crumble(exchange: Exchange, data: bytes) -> None:
        for at in range(0, len(data), _CRUMB):
            exchange.write(data[at : at + _CRUMB])
            await exchange.drain()
            await asyncio.sleep(0)

    async def _end(self, exchange: Exchange, fault: Fault | None) -> None:
        if fault is None or fault.kind in ("silent", "torn"):
            await self.release.wait()
            exchange.finish()
        elif fault.kind == "cut":
            exchange.abort()
        elif fault.kind == "hang":
            await asyncio.Event().wait()
        else:
            exchange.finish(json.dumps({"error": DIED}).encode() + b"\n")

    @staticmethod
    def _until(chunks: list[bytes], fault: Fault | None) -> Iterable[bytes]:
        return chunks if fault is None else chunks[: fault.after]

    def _fault(self) -> Fault | None:
        for fault in self.faults:
            if fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def _has(self, model: str) -> bool:
        try:
            return canonical(model) in {canonical(name) for name in self.models}
        except InvalidName:
            return False

    @staticmethod
    def _json(
        exchange: Exchange, value: Any, status: int = 200, more: Iterable[tuple[bytes, bytes]] = ()
    ) -> None:
        pairs = [(b"content-type", b"application/json; charset=utf-8"), *more]
        exchange.respond(status, pairs, json.dumps(value, separators=(",", ":")).encode())
