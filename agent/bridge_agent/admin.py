"""The admin listener: metrics, health, status and what the event loop is doing. Loopback only."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, Final

import msgspec

from bridge_agent.status_report import AgentReport
from bridge_agent.view.view_pages import ROOT, view_pages
from bridge_core.admin_access import refusal
from bridge_core.http1 import App, Exchange

_TEXT = b"text/plain; charset=utf-8"
_JSON = b"application/json"
_DEEPEST: Final = 12  # frames of a task


def admin_app(
    *,
    metrics: App,
    report: Callable[[], AgentReport],
    not_ready: Callable[[], str],
    own_name: str,
    explain: App | None = None,
    recent: App | None = None,
) -> App:
    """The listener's application.

    Args:
        metrics: Answers /metrics.
        report: Makes /status.
        not_ready: Why the agent cannot serve at present; empty when it can.
        own_name: This machine's, which requests may be for.
        explain: Answers /explain?id=.
        recent: Answers what the last requests were; with it there is the node's own page, at /view/.
    """

    def ready(exchange: Exchange) -> None:
        reason = not_ready()
        _answer(exchange, 503 if reason else 200, _TEXT, f"{reason or 'ready'}\n".encode())

    pages: dict[str, Callable[[Exchange], None]] = {
        "/metrics": metrics,
        "/healthz": lambda exchange: _answer(exchange, 200, _TEXT, b"ok\n"),
        "/readyz": ready,
        "/status": lambda exchange: _answer(exchange, 200, _JSON, msgspec.json.encode(report())),
        "/debug/tasks": lambda exchange: _answer(exchange, 200, _TEXT, _tasks()),
    }

    if explain is not None:
        pages["/explain"] = explain
    if recent is not None:
        pages |= view_pages(recent)

    named = [path for path in pages if not path.startswith(f"{ROOT}/") or path == f"{ROOT}/"]

    def app(exchange: Exchange) -> None:
        if reason := refusal(exchange.request, own_name):
            _answer(exchange, 403, _TEXT, f"{reason}\n".encode())
            return
        page = pages.get(exchange.request.path)
        if page is None:
            _answer(exchange, 404, _TEXT, f"pages: {' '.join(named)}\n".encode())
        elif exchange.request.method not in {"GET", "HEAD"}:
            exchange.respond(405, [(b"content-type", _TEXT), (b"allow", b"GET, HEAD")], b"GET only\n")
        else:
            page(exchange)

    return app


def _answer(exchange: Exchange, status: int, content_type: bytes, body: bytes) -> None:
    exchange.respond(status, [(b"content-type", content_type), (b"cache-control", b"no-store")], body)


def _tasks() -> bytes:
    lines = []
    for task in sorted(asyncio.all_tasks(), key=asyncio.Task.get_name):
        lines.append(f"# {task.get_name()}: {getattr(task.get_coro(), '__qualname__', '?')}")
        lines += [
            f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}"
            for frame in _frames(task)
        ]
    return "\n".join(lines).encode() + b"\n"


def _frames(task: asyncio.Task[Any]) -> Iterator[FrameType]:
    """Where a task is, and what it waits in.

    By hand: `Task.get_stack` sees the outermost coroutine of a task that waits, and `print_stack` fails on
    frames of compiled code (gRPC's), which have no source.
    """
    waits_in: Any = task.get_coro()
    for _ in range(_DEEPEST):
        frame = getattr(waits_in, "cr_frame", None) or getattr(waits_in, "gi_frame", None)
        if frame is None:
            return
        yield frame
        waits_in = getattr(waits_in, "cr_await", None) or getattr(waits_in, "gi_yieldfrom", None)
