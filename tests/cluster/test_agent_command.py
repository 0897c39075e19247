"""The agent as a process: start, status, drain, crash and leave, with etcd away throughout."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.config import DEFAULT_PORTS, DRAIN_S, load_config
from bridge_core.http1 import Pool
from bridge_core.snapshot_file import SnapshotFile
from bridge_core.tls import client_context
from tests import independent_log
from tests.cluster.agent_bed import AgentBed, AgentProcess, open_agent_bed, report_of
from tests.scenarios.enrolment_bed import DAY, age, revoke
from tests.sealing_bed import sealer_of
from tests.support import eventually

pytestmark = pytest.mark.cluster
HELD = json.dumps({"model": "held", "prompt": "x"}).encode()


@pytest.fixture
async def bed(tmp_path: Path) -> AsyncIterator[AgentBed]:
    async with open_agent_bed(tmp_path) as bed:
        yield bed


def pool_of(agent: AgentProcess) -> Pool:
    host, _, port = agent.settings.listeners.http.rpartition(":")
    return Pool((host, int(port)))


async def test_it_serves_and_says_how_it_is(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    status, body = await agent.get("/api/tags", listener="http")
    assert (status, report_of(body)["models"][0]["name"]) == (200, "held:latest")

    async def follows() -> dict[str, Any]:
        report = report_of((await agent.get("/status"))[1])
        assert any(link["up"] for link in report["links"] if link["name"] == "registry")
        return report

    report = await eventually(follows)  # ready does not wait for the registry
    assert report["state"] == "serving"
    assert report["instances"][0]["models"] == ["held:latest"]
    links = {link["name"]: link for link in report["links"]}
    assert (links["registry"]["up"], links["etcd"]["up"]) == (True, False)
    assert links["etcd"]["since_unix"] > 0
    metrics = (await agent.get("/metrics"))[1].decode()
    assert 'bridge_link_up{link="etcd"} 0.0' in metrics
    assert 'bridge_engine_ready{instance="node1/0"} 1.0' in metrics
    assert b"subscription" in (await agent.get("/debug/tasks"))[1]
    code, text = await bed.command("status")
    assert code == 0
    assert "etcd: NOT for" in text
    code, text = await bed.command("status", "--json")
    assert json.loads(text)["name"] == "node1"


async def test_its_log_tells_of_each_request_and_of_none_what_was_asked(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    pool = pool_of(agent)
    said, key = "my diagnosis is private", "brk_" + "a1B2c3D4e5F6" + "_" + "Z9" * 24 + "x"
    pairs = ((b"x-request-id", b"asked-1"),)
    with_key = (*pairs, (b"authorization", f"Bearer {key}".encode()))
    hostile = "\x1b[2Jnone\r\n{}"
    for model, expected in (("held", 200), (hostile, 404)):
        body = json.dumps({"model": model, "prompt": said, "options": {"stop": [said]}}).encode()
        bed.engine.release.set()
        async with pool.request("POST", b"/api/generate", pairs, body) as response:
            assert response.status in (expected, 400)
            await response.read(1 << 20)
    async with pool.request("POST", b"/api/generate", with_key, b'{"model": "' + said.encode()) as response:
        assert response.status >= 400
        await response.read(1 << 20)
    await pool.close()

    def requests() -> list[dict[str, Any]]:
        return [line for line in agent.records() if line.get("event.dataset") == "bridge.requests"]

    first, second, third = await eventually(lambda: found if len(found := requests()) == 3 else None)
    assert {line["http.request.id"] for line in (first, second)} == {"asked-1"}
    assert (first["event.outcome"], first["bridge.model"], first["bridge.served_by"]) == (
        "success",
        "held:latest",
        "node1",
    )
    assert (second["event.outcome"], third["event.outcome"]) == ("failure", "failure")
    text = agent.log.read_text()
    assert said not in text
    assert key not in text
    assert "\x1b" not in text
    metrics = (await agent.get("/metrics"))[1].decode()
    assert 'bridge_log_lines_dropped_total{class="request"} 0.0' in metrics


async def test_tls_listeners_want_certificates_of_the_mesh(bed: AgentBed) -> None:
    import ssl

    agent = bed.start()
    await agent.ready()
    state = bed.state
    nobody = ssl.create_default_context(cafile=state.ca)
    node = client_context(state.certificate, state.key, state.ca)
    for listener, context, expected in (("https", nobody, 401), ("https", node, 200), ("peer", node, 400)):
        host, _, port = getattr(bed.settings.listeners, listener).rpartition(":")
        pool = Pool((host, int(port)), ssl=context, server_hostname="localhost")
        async with pool.request("GET", b"/api/tags", (), b"") as response:
            assert response.status == expected, listener
            await response.read(1 << 20)
        await pool.close()


async def test_sigterm_finishes_what_runs_and_refuses_what_comes(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    pool = pool_of(agent)
    async with pool.request("POST", b"/api/generate", (), HELD) as running:
        assert running.status == 200
        agent.process.send_signal(signal.SIGTERM)

        async def refused() -> bool:
            async with pool.request("POST", b"/api/generate", (), HELD) as late:
                await late.read(1 << 20) if late.status == 503 else None
                return late.status == 503 and late.headers.get(b"retry-after") is not None

        await eventually(refused)
        assert (await agent.get("/readyz"))[0] == 503
        bed.engine.release.set()
        assert b'"done":true' in await running.read(1 << 20)
    await pool.close()
    assert await agent.ended() == 0
    entries = map(json.loads, independent_log.entries_of(bed.state.root / "audit" / "log"))
    audit = [entry for entry in entries if entry["kind"] == "request"]
    assert {record["status"] for record in audit} >= {200}
    assert all(record["request_id"] for record in audit)


async def test_a_second_signal_does_not_wait(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    pool = pool_of(agent)
    async with pool.request("POST", b"/api/generate", (), HELD) as running:
        assert running.status == 200
        agent.process.send_signal(signal.SIGTERM)
        await eventually(lambda: b"agent_draining" in agent.log.read_bytes())
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.ended(0.8 * DRAIN_S) == 0
    await pool.close()


async def test_a_drain_lasts_as_long_as_it_was_told(bed: AgentBed) -> None:
    agent = bed.start("--drain", "0")
    await agent.ready()
    pool = pool_of(agent)
    async with pool.request("POST", b"/api/generate", (), HELD) as running:
        assert running.status == 200
        agent.process.send_signal(signal.SIGTERM)
        assert await agent.ended(0.8 * DRAIN_S) == 0  # though the request never ends by itself
    await pool.close()


async def test_after_a_kill_it_serves_again_with_nobody_to_ask(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    kept = SnapshotFile(bed.state.snapshot, sealer_of(bed.state), now=time.time)
    await eventually(lambda: "node1" in kept.load().nodes)
    agent.kill()
    bed.enrolment.registry.stop()
    again = bed.start()
    await again.ready()
    report = report_of((await again.get("/status"))[1])
    assert report["snapshot"]["nodes"] == 1
    assert not any(link["up"] for link in report["links"] if link["name"] in {"registry", "etcd"})


async def test_a_taken_port_is_named_with_its_flag(bed: AgentBed) -> None:
    host, _, port = bed.settings.listeners.grpc.rpartition(":")
    with socket.create_server((host, int(port))):
        agent = bed.start()
        assert await agent.ended() == 1
    log = agent.log.read_text()
    assert f"{host}:{port} is taken by another program (--grpc)" in log
    assert "Traceback" not in log


async def test_after_a_weekend_it_serves_its_own_and_one_command_brings_it_back(bed: AgentBed) -> None:
    age(bed.enrolment, bed.state, 3 * DAY)
    agent = bed.start()
    await agent.ready()
    status, body = await agent.get("/api/tags", listener="http")
    assert (status, report_of(body)["models"][0]["name"]) == (200, "held:latest")
    command = f"bridge-agent join {bed.enrolment.address} --token TOKEN --replace"

    async def says_so() -> bool:
        code, text = await bed.command("status")
        lines = [line for line in text.splitlines() if line.startswith("! the certificate expired")]
        return code == 0 and len(lines) == 1 and command in lines[0] and "certificate: NOT for" in text

    await eventually(says_so, 30)
    assert 'bridge_link_up{link="certificate"} 0.0' in (await agent.get("/metrics"))[1].decode()

    def logged() -> bool:
        failed = (one for one in agent.records() if one.get("event.action") == "renewal_failed")
        return any(command in one["labels.remedy"] for one in failed)

    await eventually(logged)
    code, text = await bed.command("leave")
    assert code == 1
    assert command in " ".join(text.split())
    assert (await agent.get("/readyz"))[0] == 200  # it was not stopped for that

    token = await bed.enrolment.token(node="node1")
    code, text = await bed.command("join", bed.enrolment.address, "--token", token, "--replace")
    assert code == 0, text
    assert "The agent that runs takes the new certificate up by itself" in text

    async def member_again() -> bool:
        report = report_of((await agent.get("/status"))[1])
        links = {link["name"]: link["up"] for link in report["links"]}
        concerns = [
            one for one in report["concerns"] if not one.startswith("no store guard")
        ]  # there is none
        return links["certificate"] and links["registry"] and not concerns

    await eventually(member_again, 30)
    assert load_config(bed.state) == bed.settings


async def test_a_revoked_node_says_that_its_certificate_is_of_no_use(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    code, text = await bed.command("status")
    assert (code, "certificate valid for" in text) == (0, True), text
    await revoke(bed.enrolment, "node1")

    async def says_so() -> bool:
        _, text = await bed.command("status")
        lines = text.splitlines()
        return (
            any(line.startswith("certificate REFUSED by the mesh: ") for line in lines)
            and any(line.startswith("certificate: NOT for") for line in lines)
            and any(line.startswith("! this node is not a member of the mesh") for line in lines)
        )

    await eventually(says_so, 30)
    assert 'bridge_link_up{link="certificate"} 0.0' in (await agent.get("/metrics"))[1].decode()
    assert (await agent.get("/api/tags", listener="http"))[0] == 200  # its own clients are served


async def test_a_node_without_a_store_guard_says_what_that_means(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()

    async def says_so() -> bool:
        concerns = report_of((await agent.get("/status"))[1])["concerns"]
        return any(one.startswith("no store guard has answered for ") for one in concerns)

    await eventually(says_so, 30)


@pytest.mark.parametrize(("clock_s", "says"), [(-3630, "60 min behind"), (25 * 3600 + 30, "25 h ahead of")])
async def test_joining_with_a_wrong_clock_names_the_clock_and_spends_no_token(
    bed: AgentBed, clock_s: float, says: str
) -> None:
    token, other = await bed.enrolment.token(), bed.enrolment.state("node2")
    join = ["join", bed.enrolment.address, "--token", token, "--name", "node2"]
    join += ["--engine", "attach=http://127.0.0.1:9"]
    for flag in DEFAULT_PORTS:
        join += [f"--{flag}", "127.0.0.1:0"]
    code, text = await bed.command(*join, state=other, clock_s=clock_s)
    words = " ".join(text.split())
    assert (code, f"this machine's clock is {says} the registry's" in words) == (1, True), text
    assert "the token has not been used" in words
    assert not other.joined
    code, text = await bed.command(*join, state=other)
    assert code == 0, text


@pytest.mark.parametrize(("clock_s", "says"), [(-3630, "60 min behind"), (25 * 3600 + 30, "25 h ahead of")])
async def test_running_with_a_wrong_clock_serves_on_and_names_the_clock(
    bed: AgentBed, clock_s: float, says: str
) -> None:
    agent = bed.start(clock_s=clock_s)
    await agent.ready()

    async def says_so() -> bool:
        concerns = report_of((await agent.get("/status"))[1])["concerns"]
        return any(f"this machine's clock is {says} the registry's" in one for one in concerns)

    await eventually(says_so, 30)
    assert (await agent.get("/api/tags", listener="http"))[0] == 200
    assert agent.records()  # no library's own lines among them


async def test_a_changed_address_has_a_command(bed: AgentBed) -> None:
    code, text = await bed.command("set", "--advertise", "[::1]")
    assert (code, "reached at [::1]:" in text, "Start it" in text) == (0, True, True), text
    agent = bed.start()
    await agent.ready()
    await eventually(lambda: (bed.enrolment.node_record("node1") or {})["peer"].startswith("[::1]:"))
    code, text = await bed.command("set", "--advertise", "0.0.0.0")
    assert code == 1
    assert "--advertise 0.0.0.0 is all addresses and none" in " ".join(text.split())
    code, text = await bed.command("join", "x:1", "--token", "t", "--replace", "--engine", "ollama")
    assert (code, "--engine cannot go with it" in " ".join(text.split())) == (1, True), text


async def test_two_agents_do_not_share_a_folder(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    second = bed.start()
    assert await second.ended() == 1
    assert f"another agent (process {agent.process.pid}) runs" in second.log.read_text()


async def test_an_unreadable_key_is_named(bed: AgentBed) -> None:
    bed.state.key.write_bytes(b"")
    agent = bed.start()
    assert await agent.ended() == 1
    assert "key.pem is empty" in agent.log.read_text()
    assert "Traceback" not in agent.log.read_text()


async def test_systemd_hears_ready_watchdog_and_stopping(
    bed: AgentBed, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(bed.state.root / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        manager.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "300000")
        agent = bed.start()
        heard: list[str] = []

        def said(word: str) -> bool:
            try:
                while True:
                    heard.append(manager.recv(200).decode())
            except BlockingIOError:
                return word in heard

        await eventually(lambda: said("READY=1"))
        await eventually(lambda: said("") or heard.count("WATCHDOG=1") > 2)
        agent.process.send_signal(signal.SIGTERM)
        await agent.ended()
        assert said("STOPPING=1")


async def test_leave_stops_the_agent_and_the_node_is_gone(bed: AgentBed) -> None:
    agent = bed.start()
    await agent.ready()
    code, text = await bed.command("leave")
    assert (code, text) == (0, "node1 has left the mesh bed.local\n")
    assert agent.process.poll() == 0
    assert not bed.state.joined
    assert not bed.state.key.exists()
    code, text = await bed.command("run")
    assert code == 1
    assert "no node is enrolled" in text
