"""The admin listener: metrics, health, status and what the event loop is doing. Loopback only."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable

import msgspec

from bridge_agent.status_report import AgentReport
from bridge_agent.telemetry.metrics import CONTENT_TYPE
from bridge_core.http1 import App, Exchange

_TEXT = b"text/plain; charset=utf-8"
_JSON = b"application/json"


def admin_app(
    *,
    metrics: Callable[[], bytes],
    report: Callable[[], AgentReport],
    not_ready: Callable[[], str],
) -> App:
    """The listener's application.

    Args:
        metrics: Renders /metrics.
        report: Makes /status.
        not_ready: Why the agent cannot serve at present; empty when it can.
    """

    def ready(exchange: Exchange) -> None:
        reason = not_ready()
        _answer(exchange, 503 if reason else 200, _TEXT, f"{reason or 'ready'}\n".encode())

    pages: dict[str, Callable[[Exchange], None]] = {
        "/metrics": lambda exchange: _answer(exchange, 200, CONTENT_TYPE, metrics()),
        "/healthz": lambda exchange: _answer(exchange, 200, _TEXT, b"ok\n"),
        "/readyz": ready,
        "/status": lambda exchange: _answer(exchange, 200, _JSON, msgspec.json.encode(report())),
        "/debug/tasks": lambda exchange: _answer(exchange, 200, _TEXT, _tasks()),
    }

    def app(exchange: Exchange) -> None:
        page = pages.get(exchange.request.path)
        if page is None:
            _answer(exchange, 404, _TEXT, f"pages: {' '.join(pages)}\n".encode())
        elif exchange.request.method not in {"GET", "HEAD"}:
            exchange.respond(405, [(b"content-type", _TEXT), (b"allow", b"GET, HEAD")], b"GET only\n")
        else:
            page(exchange)

    return app


def _answer(exchange: Exchange, status: int, content_type: bytes, body: bytes) -> None:
    exchange.respond(status, [(b"content-type", content_type), (b"cache-control", b"no-store")], body)


def _tasks() -> bytes:
    text = io.StringIO()
    for task in sorted(asyncio.all_tasks(), key=lambda task: task.get_name()):
        text.write(f"# {task.get_name()}\n")
        task.print_stack(file=text)
    return text.getvalue().encode()
