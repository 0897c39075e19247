"""The admin listeners of agent and registry against pages of other sites and names re-pointed at them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from bridge_agent.admin import admin_app
from bridge_core.http1 import App, serve
from tests.fakes.store import FakeEtcd
from tests.registry_bed import leading


async def asked(port: int, path: str, *headers: str) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    lines = [f"GET {path} HTTP/1.1", *headers, "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode())
    status = int((await reader.readline()).split()[1])
    writer.close()
    await writer.wait_closed()
    return status


async def the_rules_hold(port: int) -> None:
    own = f"Host: 127.0.0.1:{port}"
    for path in ("/metrics", "/healthz", "/nothing"):
        assert await asked(port, path, own) in {200, 404}
        assert await asked(port, path, f"Host: evil.example:{port}") == 403
        assert await asked(port, path, own, "Origin: http://evil.example") == 403
        assert await asked(port, path, own, f"Origin: http://127.0.0.1:{port + 1}") == 403
        assert await asked(port, path, own, f"Origin: http://127.0.0.1:{port}") in {200, 404}


async def test_the_agents(agent_admin: Callable[[], App]) -> None:
    server = await serve(agent_admin(), name="admin", host="127.0.0.1", port=0)
    try:
        await the_rules_hold(server.port)
    finally:
        await server.close(0.0)


async def test_the_registrys(tmp_path: Path) -> None:
    async with leading(tmp_path, FakeEtcd()) as bed:
        await the_rules_hold(bed.registry.admin_port)


@pytest.fixture
def agent_admin() -> Callable[[], App]:
    def make() -> App:
        return admin_app(
            metrics=lambda exchange: exchange.respond(200),
            report=lambda: None,  # type: ignore[arg-type, return-value]  # no page of this test asks it
            not_ready=lambda: "",
            own_name="gpu-01",
        )

    return make
