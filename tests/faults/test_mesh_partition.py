"""A second machine whose cable is pulled: a network namespace of its own, joined as the README says."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_engine import seed
from tests.cluster.mesh_bed import SOLO, end_hard
from tests.cluster.up_bed import BRIDGE
from tests.support import eventually

pytestmark = [
    pytest.mark.cluster,
    pytest.mark.faults,
    pytest.mark.root,
    pytest.mark.etcd,
    pytest.mark.llamacpp,
]

AGENT = str(Path(BRIDGE).with_name("bridge-agent"))
FIRST, SECOND = "10.213.77.1", "10.213.77.2"
PULLED_S = 8.0
_ASK = """
import json, sys, urllib.request, uuid
body = {"model": sys.argv[2], "prompt": uuid.uuid4().hex, "stream": False, "options": {"num_predict": 1}}
try:
    answer = urllib.request.urlopen(sys.argv[1], json.dumps(body).encode(), timeout=30)
    print(answer.status, answer.headers["x-bridge-node"])
except OSError as fault:
    print(repr(fault))
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Machine:
    """A network namespace with one link to the other machine."""

    def __init__(self, name: str, link: str, state: Path) -> None:
        self.name = name
        self.link = link
        self.state = state

    def argv(self, *words: str) -> list[str]:
        return ["ip", "netns", "exec", self.name, *words]

    def run(self, *words: str, given: str = "") -> str:
        ended = subprocess.run(
            self.argv(*words, "--state-dir", str(self.state)),
            capture_output=True,
            text=True,
            input=given,
            timeout=200,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def cable(self, *, plugged: bool) -> None:
        ip("-n", self.name, "link", "set", self.link, "up" if plugged else "down")

    async def ask(self, model: str, *, port: int = 11434) -> tuple[str, str]:
        """Status and answering node of a request that is sent on this machine."""
        process = await asyncio.create_subprocess_exec(
            *self.argv(sys.executable, "-c", _ASK, f"http://127.0.0.1:{port}/api/generate", model),
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate()
        status, _, node = output.decode().strip().partition(" ")
        return status, node


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with a cable between them, and nothing else."""
    tag = uuid.uuid4().hex[:6]
    pair = (
        Machine(f"bridge-{tag}a", f"v{tag}a", tmp_path / "first"),
        Machine(f"bridge-{tag}b", f"v{tag}b", tmp_path / "second"),
    )
    first, second = pair
    if shutil.which("ip") is None:
        pytest.skip("two machines need iproute2")
    try:
        for machine in pair:
            ip("netns", "add", machine.name)
        ip(
            "link",
            "add",
            first.link,
            "netns",
            first.name,
            "type",
            "veth",
            "peer",
            second.link,
            "netns",
            second.name,
        )
        for machine, address in zip(pair, (FIRST, SECOND), strict=True):
            ip("-n", machine.name, "link", "set", "lo", "up")
            ip("-n", machine.name, "addr", "add", f"{address}/24", "dev", machine.link)
            machine.cable(plugged=True)
    except (OSError, subprocess.CalledProcessError) as fault:
        for machine in pair:
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True, check=False)
        pytest.skip(f"two machines need root and network namespaces: {fault}")
    try:
        yield pair
    finally:
        for machine in pair:
            found = subprocess.run(
                ["ip", "netns", "pids", machine.name], capture_output=True, text=True, check=False
            )
            for pid in found.stdout.split():
                end_hard(int(pid))
            subprocess.run(["ip", "netns", "del", machine.name], capture_output=True, check=False)


async def test_a_second_machine_joins_vanishes_and_comes_back(
    machines: tuple[Machine, Machine], tmp_path: Path
) -> None:
    first, second = machines
    await asyncio.to_thread(first.run, BRIDGE, "up", "--nodes", "1", "--host", FIRST)
    token = await asyncio.to_thread(first.run, BRIDGE, "token", "create", "--ttl", "1h")
    joining = (AGENT, "join", f"{FIRST}:11400", "--token", "-", "--name", "far", "--advertise", SECOND)
    await asyncio.to_thread(second.run, *joining, given=token)
    models = second.state / "models"
    seed.seed(models, ["tiny", "tiny-embed"], tmp_path / "cache")
    library = models / "manifests/registry.ollama.ai/library"
    shutil.copytree(library / "tiny", library / "tiny-far")  # what nobody else can answer
    with (tmp_path / "far.log").open("wb") as log:
        running = second.argv(AGENT, "run", "--state-dir", str(second.state))
        process = subprocess.Popen(running, stdout=log, stderr=log)
    try:
        await eventually(lambda: answers(second, SOLO, "node1"), 30)
        seen: set[tuple[str, str]] = set()

        async def far_takes_part() -> bool:
            seen.add(await first.ask("tiny-far"))
            return ("200", "far") in seen

        await eventually(far_takes_part, 30)
        second.cable(plugged=False)
        loop = asyncio.get_running_loop()
        until = loop.time() + PULLED_S
        while loop.time() < until:
            answered = await asyncio.gather(*(first.ask("tiny") for _ in range(4)))
            assert {status for status, _ in answered} == {"200"}, answered
            assert (await second.ask("tiny")) == ("200", "far")
        second.cable(plugged=True)
        seen.clear()
        await eventually(far_takes_part, 60)
        await asyncio.to_thread(second.run, AGENT, "leave")
        await eventually(lambda: process.poll() is not None, 30)
    finally:
        process.kill()
        process.wait()
    await asyncio.to_thread(first.run, BRIDGE, "down")
    logs = [tmp_path / "far.log", *first.state.glob("logs/*.log")]
    assert not [path for path in logs if b"Traceback" in path.read_bytes()]


async def answers(machine: Machine, model: str, node: str) -> bool:
    return await machine.ask(model) == ("200", node)
