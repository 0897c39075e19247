"""Serving a coroutine a request, for whatever is not the hot path."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from bridge_core.http1.errors import BodyTimeout, Disconnected
from bridge_core.http1.exchange import App, Exchange
from bridge_core.http1.request import given_id

log = structlog.get_logger()

Handler = Callable[[Exchange], Awaitable[None]]


def coroutine_app(handler: Handler, group: asyncio.TaskGroup) -> App:
    """An application that runs `handler(exchange)` as a task of `group`.

    The task is cancelled when the client goes away. An exception that the handler lets out is
    logged and becomes a 500, or a cut answer when the answer had begun; a handler that returns
    without an answer is treated alike.
    """

    async def run(exchange: Exchange) -> None:
        try:
            await handler(exchange)
        except (Disconnected, BodyTimeout) as gone:
            log.debug("http_client_gone", listener=exchange.request.listener, reason=str(gone))
            exchange.abort()
            return
        except Exception:  # the task's root: logged whole, answered without detail
            request = exchange.request
            log.exception(
                "http_handler_failed",
                listener=request.listener,
                path=request.path,
                request_id=given_id(request),
            )
        if not exchange.finished and not exchange.disconnected:
            exchange.fail(500, "internal error")

    def app(exchange: Exchange) -> None:
        task = group.create_task(run(exchange))
        exchange.on_disconnect = task.cancel  # type: ignore[assignment]  # the result is not needed

    return app
