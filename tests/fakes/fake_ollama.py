#!/usr/bin/env python3
"""An engine that knows a few of Ollama's routes and fails on demand; a process of its own.

It is started as the real ones are: `serve` with OLLAMA_HOST, or `serve --listen HOST:PORT`.

Environment:
    FAKE_CRASH: a file: while it exists, the start fails with its content on standard error.
    FAKE_NEVER_LISTEN: a file: while it exists, it runs but never listens.
    FAKE_RUNNER: "1": a loaded model has a process, as with the real ones.
    FAKE_MODELS: models on disk, separated by commas.

    FAKE_WORK: "1": generating takes some processor time, as with the real ones.

POST /fault {"generate": "hang" | "busy" | "ok"} makes generating and embedding wait, in silence or while
others' work computes in a runner, or go on.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

DETAILS = {
    "parent_model": "",
    "format": "gguf",
    "family": "llama",
    "families": ["llama"],
    "parameter_size": "134.52M",
    "quantization_level": "Q4_1",
}


class World:
    def __init__(self) -> None:
        self.models = [name for name in os.environ.get("FAKE_MODELS", "tiny:latest").split(",") if name]
        self.loaded: dict[str, int] = {}
        self.runners: list[subprocess.Popen[bytes]] = []
        self.generating = threading.Event()
        self.generating.set()
        self.generated = 0
        self.worker: subprocess.Popen[bytes] | None = None

    def hang(self) -> None:
        self.generating.clear()

    def busy(self) -> None:
        self.generating.clear()
        self.worker = subprocess.Popen([sys.executable, "-c", "while True: pass"])

    def ok(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()
        self.generating.set()

    def load(self, name: str, context: int) -> None:
        if name not in self.loaded and os.environ.get("FAKE_RUNNER"):
            self.runners.append(subprocess.Popen(["sleep", "3600"]))
        self.loaded[name] = context

    def entry(self, name: str) -> dict[str, object]:
        digest = f"{sum(name.encode()):064x}"
        return {"name": name, "model": name, "size": 98362887, "digest": digest, "details": DETAILS}

    def tags(self) -> list[dict[str, object]]:
        more = {"modified_at": "2026-11-23T21:31:03Z"}
        return [
            self.entry(name)
            | more
            | {"capabilities": ["embedding"] if "embed" in name else ["completion", "tools"]}
            for name in self.models
        ]

    def ps(self) -> list[dict[str, object]]:
        more = {"expires_at": "2318-03-05T00:00:00Z", "size_vram": 0}
        return [
            self.entry(name) | more | {"context_length": context} for name, context in self.loaded.items()
        ]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    world: World

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        world = self.world
        routes = {
            "/api/version": lambda: {"version": "0.0.0"},
            "/api/tags": lambda: {"models": world.tags()},
            "/api/ps": lambda: {"models": world.ps()},
            "/fault": lambda: {"generated": world.generated, "runners": [run.pid for run in world.runners]},
        }
        route = routes.get(self.path)
        self.answer(200, route()) if route else self.answer(404, {"error": "not found"})

    def do_DELETE(self) -> None:
        self.world.models.remove(self.body()["model"])
        self.answer(200, {})

    def do_POST(self) -> None:
        body = self.body()
        if self.path == "/fault":
            {"hang": self.world.hang, "busy": self.world.busy, "ok": self.world.ok}[body["generate"]]()
            return self.answer(200, {})
        name = body.get("model", "")
        name = name if ":" in name else f"{name}:latest"
        if name not in self.world.models:
            return self.answer(404, {"error": f"model '{name}' not found"})
        if self.path == "/api/show":
            shown = {"details": DETAILS, "model_info": {}, "capabilities": ["completion"]}
            return self.answer(200, shown)
        return self.infer(name, body)

    def infer(self, name: str, body: dict) -> None:
        self.world.load(name, body.get("options", {}).get("num_ctx", 4096))
        if body.get("keep_alive") == 0:
            del self.world.loaded[name]
        done = {"model": name, "created_at": "2026-11-23T21:37:26Z", "done": True}
        if self.path == "/api/embed":
            self.world.generating.wait()
            return self.answer(200, {"model": name, "embeddings": [[0.0]]})
        if not body.get("prompt"):
            return self.answer(200, done | {"response": "", "done_reason": "load"})
        self.world.generating.wait()
        self.world.generated += 1
        until = time.thread_time() + (0.1 if os.environ.get("FAKE_WORK") else 0.0)
        while time.thread_time() < until:
            pass
        return self.answer(200, done | {"response": "a", "done_reason": "length", "eval_count": 1})

    def body(self) -> dict:
        return json.loads(self.rfile.read(int(self.headers.get("content-length", 0))) or b"{}")

    def answer(self, status: int, document: dict) -> None:
        data = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json; charset=utf-8")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def asked(variable: str) -> Path | None:
    path = os.environ.get(variable)
    return Path(path) if path and Path(path).exists() else None


def main() -> None:
    if reason := asked("FAKE_CRASH"):
        sys.exit(reason.read_text())
    if asked("FAKE_NEVER_LISTEN"):
        signal.pause()
    arguments = sys.argv[1:]
    address = (
        arguments[arguments.index("--listen") + 1] if "--listen" in arguments else os.environ["OLLAMA_HOST"]
    )
    host, _, port = address.rpartition(":")
    Handler.world = World()
    ThreadingHTTPServer.daemon_threads = True
    server = ThreadingHTTPServer((host, int(port)), Handler)
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print(f"Listening on {address}", file=sys.stderr, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
