"""A fault of the engine's own while it answers: 500 at once, in the shape of the path's protocol."""

from __future__ import annotations

import asyncio
import json

import pytest
import structlog

from bridge_core.http1 import Exchange, Pool, coroutine_app, serve
from bridge_engine.app import error_body


@pytest.mark.parametrize(
    ("path", "shape"),
    [
        ("/api/chat", {"error": "internal error"}),
        ("/v1/chat/completions", {"type": "api_error", "message": "internal error"}),
        ("/v1/messages", {"type": "api_error", "message": "internal error"}),
    ],
)
async def test_it_is_answered_and_logged_once(path: str, shape: dict[str, str]) -> None:
    async def handler(exchange: Exchange) -> None:
        def dive() -> None:
            dive()

        dive()

    with structlog.testing.capture_logs() as logs:
        async with asyncio.TaskGroup() as group:
            server = await serve(coroutine_app(handler, group), name="engine", error_body=error_body)
            pool = Pool(("127.0.0.1", server.port))
            async with pool.request("POST", path, body=b"{}") as response:
                assert response.status == 500
                answer = json.loads(await response.read())
            await pool.close()
            await server.close()
    about = answer["error"] if path.startswith("/v1") else answer
    assert shape.items() <= about.items()
    assert [log["event"] for log in logs] == ["http_handler_failed"]
