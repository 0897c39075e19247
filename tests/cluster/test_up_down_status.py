"""`bridgectl up|down|status` on real processes: one mesh, taken through its life in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from bridge_cli.layout import Layout, MeshOptions
from bridge_core.etcd_server import EtcdOptions
from tests.cluster.up_bed import BRIDGE, Bridge, post
from tests.etcd_server import EtcdServer
from tests.ports import free_port
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.etcd, pytest.mark.llamacpp]

NODES = 2


@pytest.fixture(scope="module")
def bridge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bridge]:
    """A mesh that is up; what a test leaves behind is gone afterwards, whatever `down` thinks."""
    bed = Bridge(tmp_path_factory.mktemp("mesh") / "state", NODES)
    try:
        bed.up()
        yield bed
        bed.run("down")
    finally:
        bed.kill_everything()


def pids(bridge: Bridge) -> dict[str, int]:
    mesh = bridge.status()
    parts = {agent["name"]: agent["pid"] for agent in mesh["agents"]}
    return {**parts, **{part: mesh[part]["pid"] for part in ("registry", "guard", "etcd")}}


def identities(bridge: Bridge) -> dict[str, bytes]:
    files = [*bridge.state.glob("node*/identity/*"), *bridge.state.glob("registry/pki/*")]
    assert len(files) >= 3 * NODES + 3
    return {str(path.relative_to(bridge.state)): path.read_bytes() for path in files}


def assert_answers(bridge: Bridge) -> None:
    """Every node answers for a model that the last one alone has."""
    for agent in bridge.mesh()["agents"]:
        body = {"model": "tiny-solo", "prompt": "x", "stream": False, "options": {"num_predict": 2}}
        status, answer = post(agent["http"], "/api/generate", body)
        assert (status, answer.get("done")) == (200, True), answer


def test_mesh_json_and_status_say_what_runs(bridge: Bridge) -> None:
    mesh, status = bridge.mesh(), bridge.status()
    layout = Layout(bridge.state, MeshOptions(nodes=NODES, base_port=bridge.base_port))
    assert [agent["name"] for agent in mesh["agents"]] == ["node1", "node2"]
    for number, agent in enumerate(mesh["agents"]):
        first = bridge.base_port + 1000 * number
        ports = [int(agent[name].rpartition(":")[2]) for name in ("http", "https", "grpc", "peer", "admin")]
        assert ports == [first, first + 9, first + 10, first + 11, first + 12]
    assert mesh["registry"]["grpc"] == layout.registry_grpc
    assert mesh["etcd"]["endpoints"] == list(layout.etcd_urls)
    assert set(mesh) == {"agents", "registry", "etcd", "guard", "ca", "client"}
    for path in (mesh["ca"], mesh["client"]["cert"], mesh["client"]["key"]):
        assert Path(path).is_file()
    running = {process.pid for process in bridge.processes()}
    assert set(pids(bridge).values()) <= running
    assert all(
        part["alive"]
        for part in (*status["agents"], *(status[part] for part in ("registry", "guard", "etcd")))
    )
    assert all(agent["ready"] and agent["instances_seen"] == NODES for agent in status["agents"])
    told = status["mesh"]
    assert (told["leader"], told["broken"], told["troubles"]) == ("registry1", False, [])
    assert [(node["name"], node["state"]) for node in told["nodes"]] == [
        ("node1", "serving"),
        ("node2", "serving"),
    ]
    assert told["models"]["tiny-solo:latest"] == ["node2"]


def test_nothing_of_it_hangs_on_the_terminal(bridge: Bridge) -> None:
    for pid in pids(bridge).values():
        assert os.getsid(pid) == pid
        assert psutil.Process(pid).terminal() is None


def test_its_files_are_its_owner_s_alone(bridge: Bridge) -> None:
    for path in (
        bridge.state,
        bridge.state / "etcd",
        bridge.state / "logs",
        bridge.state / "registry" / "pki",
    ):
        assert path.stat().st_mode & 0o077 == 0, path
    for key in [*bridge.state.glob("node*/identity/key.pem"), *bridge.state.glob("registry/pki/*.key")]:
        assert key.stat().st_mode & 0o777 == 0o600, key


def test_every_node_answers(bridge: Bridge) -> None:
    assert_answers(bridge)


def test_a_second_up_says_that_it_is_up_and_starts_nothing(bridge: Bridge) -> None:
    before = pids(bridge)
    assert "was up already" in bridge.run("up").stdout
    assert pids(bridge) == before


def test_options_that_it_was_not_made_with_are_refused(bridge: Bridge) -> None:
    ended = bridge.run("up", "--base-port", str(bridge.base_port + 1), check=False)
    assert ended.returncode == 1
    assert f"--base-port {bridge.base_port}" in ended.stderr


def test_up_starts_what_is_missing_and_nothing_else(bridge: Bridge) -> None:
    before = pids(bridge)
    os.kill(before["node2"], signal.SIGKILL)
    ended = bridge.run("status", check=False)
    assert ended.returncode == 1
    assert pids(bridge)["node2"] == 0
    bridge.run("up")
    after = pids(bridge)
    assert {part: pid for part, pid in after.items() if part != "node2"} == {
        part: pid for part, pid in before.items() if part != "node2"
    }
    assert after["node2"] not in {0, before["node2"]}
    assert_answers(bridge)


def test_the_mesh_is_not_said_to_be_up_without_a_registry(bridge: Bridge) -> None:
    key = bridge.state / "registry/pki/registry.key"
    sound = key.read_bytes()
    os.kill(pids(bridge)["registry"], signal.SIGKILL)
    key.write_bytes(b"rubbish")
    try:
        ended = bridge.run("up", check=False)
        assert (ended.returncode, "is up" in ended.stdout) == (1, False)
        assert f"{key} is damaged" in ended.stderr
        said = bridge.run("status", check=False)
        assert said.returncode == 1
        assert "! no registry answers at" in said.stdout
        assert bridge.status()["mesh"] is None
    finally:
        key.write_bytes(sound)
    bridge.run("up")
    assert bridge.run("status").returncode == 0


def test_a_context_finds_the_mesh_again(bridge: Bridge) -> None:
    told = bridge.status()
    by_context = subprocess.run(
        [BRIDGE, "status", "--json", "--context", str(bridge.state)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert msgspec.json.decode(by_context.stdout)["agents"] == told["agents"]


@pytest.mark.parametrize("host", ["::1", "localhost"])
def test_a_mesh_is_reached_by_an_ipv6_address_or_a_name(tmp_path: Path, host: str) -> None:
    bed = Bridge(tmp_path / "state", 1)
    try:
        said = bed.up("--host", host).stdout
        shown = "[::1]" if host == "::1" else host
        assert f"gRPC over TLS: {shown}:" in said
        assert bed.mesh()["registry"]["grpc"].startswith(f"{shown}:")
        [node] = bed.status()["mesh"]["nodes"]
        assert node["address"].startswith(f"{shown}:")
        assert bed.run("nodes").returncode == 0
        bed.run("down")
    finally:
        bed.kill_everything()


def test_after_the_hard_end_of_everything_up_brings_the_same_mesh_back(bridge: Bridge) -> None:
    token = bridge.run("token", "create", "--ttl", "1h").stdout.strip()
    route = bridge.state / "route.yaml"
    route.write_text(
        "apiVersion: bridge.deepseek.io/v1\nkind: ModelRoute\nmetadata:\n  name: chat\n"
        "spec:\n  backends:\n    - model: tiny\n"
    )
    bridge.run("apply", "-f", str(route))
    config, before = bridge.run("get").stdout, identities(bridge)
    assert "name: chat" in config
    bridge.kill_everything()
    assert not bridge.processes()
    bridge.run("up")
    assert identities(bridge) == before
    assert bridge.run("get").stdout == config
    assert token.split(".")[1] in bridge.run("token", "list").stdout
    assert_answers(bridge)


async def test_down_ends_everything_and_up_begins_again(bridge: Bridge) -> None:
    before = identities(bridge)
    bridge.run("down")
    await eventually(lambda: not bridge.processes())
    assert "was down already" in bridge.run("down").stdout
    assert not any(agent["alive"] for agent in bridge.status()["agents"])
    bridge.run("up")
    assert identities(bridge) == before
    assert_answers(bridge)


async def test_down_ends_engines_whose_agent_was_killed(bridge: Bridge) -> None:
    for name in ("node1", "node2"):
        os.kill(pids(bridge)[name], signal.SIGKILL)
    assert bridge.processes()
    bridge.run("down")
    await eventually(lambda: not bridge.processes())


def test_a_taken_port_is_named_before_anything_starts(tmp_path: Path) -> None:
    bed = Bridge(tmp_path / "state", 1)
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", bed.base_port + 9))
        holder.listen()
        ended = bed.run("up", "--nodes", "1", "--base-port", str(bed.base_port), check=False)
    assert ended.returncode == 1
    assert f"127.0.0.1:{bed.base_port + 9} for node1's https listener" in ended.stderr
    assert "--base-port" in ended.stderr
    assert not bed.processes()
    assert not (tmp_path / "state" / "up.json").exists()


def test_an_etcd_of_somebody_else_is_waited_for_named_and_used(tmp_path: Path) -> None:
    bed = Bridge(tmp_path / "state", 1)
    pki = bed.state / "registry" / "pki"
    server = EtcdServer(
        EtcdOptions(
            data_dir=tmp_path / "etcd",
            log_file=tmp_path / "etcd.log",
            client_port=free_port(),
            peer_port=free_port(),
            cert=pki / "etcd.pem",
            key=pki / "etcd.key",
            ca=pki / "etcd-ca.pem",
        )
    )
    try:
        ended = bed.run(
            "up",
            "--nodes",
            "1",
            "--base-port",
            str(bed.base_port),
            "--etcd",
            server.settings.url,
            check=False,
        )
        assert ended.returncode == 1
        assert server.settings.url in ended.stderr
        assert str(pki / "etcd.pem") in ended.stderr
        assert not bed.processes()
        server.start()
        bed.up("--etcd", server.settings.url)
        assert bed.mesh()["etcd"] == {"pid": 0, "endpoints": [server.settings.url]}
        assert bed.status()["etcd"]["alive"] is None
        bed.run("down")
        assert server.pid, "somebody else's etcd is not ours to stop"
    finally:
        server.stop()
        bed.kill_everything()


@pytest.mark.parametrize("part", ["etcd", "node1"])
async def test_ctrl_c_leaves_nothing_running_however_often_it_is_pressed(tmp_path: Path, part: str) -> None:
    bed = Bridge(tmp_path / "state", NODES)
    table = bed.state / "processes.json"
    flags = ["--nodes", str(NODES), "--base-port", str(bed.base_port), "--state-dir", str(bed.state)]
    process = subprocess.Popen(
        [BRIDGE, "up", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # a terminal sends it to all of the group
    )
    try:
        await eventually(lambda: table.exists() and part in table.read_text(), 60)
        os.killpg(process.pid, signal.SIGINT)
        said = "steps"
        while said and "Ending" not in said:
            said = await asyncio.to_thread(process.stdout.readline)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGINT)
        # Not `communicate`: it reads past the reader above, and what that one had buffered would be lost.
        said += await asyncio.to_thread(process.stdout.read)
        assert await asyncio.to_thread(process.wait, 60) == 130
        assert said == "Ending what was started …\nbridgectl: interrupted\n"
        assert not bed.processes()
    finally:
        process.stdout.close()
        bed.kill_everything()
