"""An engine that somebody else runs: what of it is seen, and when it is taken for hung."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.foreign import ForeignProcess
from bridge_agent.health.probe_rules import ProbePolicy
from tests.engine_support import FAKE, supervised
from tests.ports import free_port
from tests.support import eventually

# A busy engine gets a second and a half, a silent one 0.4 s once its work has been seen, else an hour.
POLICY = ProbePolicy(quiet_s=0.1, timeout_s=0.4, unseen_timeout_s=3600.0, busy_timeout_s=3600.0)


@pytest.fixture
def port() -> Iterator[int]:
    """Where somebody's engine listens, with a model in memory."""
    number = free_port()
    environment = {**os.environ, "OLLAMA_HOST": f"127.0.0.1:{number}", "FAKE_WORK": "1"}
    process = subprocess.Popen([sys.executable, str(FAKE), "serve"], env=environment, start_new_session=True)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with contextlib.suppress(httpx.HTTPError):
                post(number, "/api/generate", model="tiny")
                break
        yield number
    finally:
        with contextlib.suppress(httpx.HTTPError):
            post(number, "/fault", generate="ok")
        process.kill()
        process.wait()


def post(port: int, path: str, **body: str) -> None:
    httpx.post(f"http://127.0.0.1:{port}{path}", json=body).raise_for_status()


def attached(port: int) -> EngineConfig:
    return EngineConfig(index=0, kind="ollama", attach=f"http://127.0.0.1:{port}")


def generated(port: int) -> int:
    return int(httpx.get(f"http://127.0.0.1:{port}/fault").json()["generated"])


async def test_busy_with_others_work_is_not_hung_and_silent_is(port: int, tmp_path: Path) -> None:
    async with supervised(attached(port), tmp_path / "state", probing=POLICY) as it:
        await it.state("ready")
        await eventually(lambda: generated(port) >= 1)  # a probe was answered: its work has been seen
        post(port, "/fault", generate="busy")
        began = time.monotonic()
        await eventually(lambda: time.monotonic() > began + 5 * POLICY.timeout_s)
        assert it.view.state == "ready", it.status.reason
        assert (it.supervisor.reasons(), it.supervisor.reasons(failing=True)) == ({"n1/0": ""}, {})
        post(port, "/fault", generate="ok")
        post(port, "/fault", generate="hang")  # as a runner that was stopped: nothing computes any more
        await it.state("starting")
        assert "did not generate a token" in it.status.reason
        assert it.supervisor.reasons(failing=True) == {"n1/0": it.status.reason}
        post(port, "/fault", generate="ok")
        await it.state("ready")


def test_who_listens_is_found_and_found_again(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "s = socket.create_server(('127.0.0.1', int(sys.argv[1])))\n"
        "print('up', flush=True)\n"
        "sys.stdin.read()"
    )
    number = free_port()
    with socket.create_server(("127.0.0.1", number)):
        assert [one.pid for one in ForeignProcess("127.0.0.1", number).family() if one.pid == os.getpid()]
    found = ForeignProcess("localhost", number)
    assert found.family() == []
    for _ in range(2):
        pipe = subprocess.PIPE
        with subprocess.Popen([sys.executable, "-c", code, str(number)], stdin=pipe, stdout=pipe) as child:
            assert child.stdout is not None
            child.stdout.readline()
            assert child.pid in {one.pid for one in found.family()}
    assert ForeignProcess("192.0.2.1", number).family() == []
