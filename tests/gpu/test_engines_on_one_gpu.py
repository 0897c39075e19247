"""Real llama.cpp engines on one real GPU, started by the agent behind its walls, under its MPS."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest

from bridge_agent.limits.nvml import open_inventory
from bridge_core.errors import BridgeError
from bridge_core.node_class import GpuSharing
from bridge_core.proc import family
from tests.gpu.agent_bed import GpuAgent, cuda, faulty_engine, real_engine
from tests.support import eventually

pytestmark = pytest.mark.gpu

MIB = 1 << 20
SHARED = GpuSharing(mps=True, per_gpu=16)
RECOVERED_WITHIN_S = 3.0  # and the time that loading takes


def smi(query: str) -> list[str]:
    command = ["nvidia-smi", "-i", "0", f"--query-gpu={query}", "--format=csv,noheader,nounits"]
    return [part.strip() for part in subprocess.check_output(command, text=True).split(",")]


def test_nvml_tells_what_nvidia_smi_tells() -> None:
    inventory, _ = open_inventory()
    client = cuda("hold", str(1024 * MIB))
    try:
        assert client.stdout.readline().strip() == "holding"
        gpu = inventory.read()[0]
        uuid, name, total, used, free, reserved = smi(
            "uuid,name,memory.total,memory.used,memory.free,memory.reserved"
        )
        told = f"NVML {gpu}, nvidia-smi total {total} used {used} free {free} reserved {reserved}"
        print(told)
        assert (gpu.uuid, gpu.name) == (uuid, name)
        assert gpu.memory_bytes // MIB == int(total)
        assert abs(gpu.used_bytes // MIB - int(used)) <= 2, told
        assert abs(gpu.free_bytes // MIB - int(free)) <= 2, told
        assert abs(gpu.reserved_bytes // MIB - int(reserved)) <= 2, told
        held = {process.pid: process.memory_bytes for process in gpu.processes}
        assert client.pid in held, told
        assert held[client.pid] is None or held[client.pid] >= 1024 * MIB
    finally:
        client.communicate("")
        inventory.close()


async def test_engines_share_a_gpu_and_all_answer(tmp_path: Path, store: Path) -> None:
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, n, store) for n in range(4)], SHARED)
    async with agent.running():
        await agent.ready(*range(4))
        assert await asyncio.gather(*(agent.generate(n, 50) for n in range(4))) == [50] * 4
        (domain,) = agent.keeper.domains()
        assert domain.instances == ("n1/0", "n1/1", "n1/2", "n1/3")
        assert {agent.launcher.standing(f"n1/{n}").domain for n in range(4)} == {domain.name}
        missing = dict(agent.launcher.standing("n1/0").missing)
        assert not missing, f"walls given up under MPS: {missing}"
        print("MPS:", agent.logs())
        assert "Client" in agent.logs(), "the engines did not go through this MPS server"


async def test_the_pinned_memory_limit_holds(tmp_path: Path, store: Path) -> None:
    tight = GpuSharing(mps=True, per_gpu=4, memory_bytes=300 * MIB)
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, 0, store)], tight)
    async with agent.running():
        await agent.ready(0)
        with pytest.raises(BridgeError):
            await agent.generate(0, 1)
        pipe = next(agent.mps.glob("*/pipe"))
        environment = {
            "CUDA_MPS_PIPE_DIRECTORY": str(pipe),
            "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT": "0=1024M",
        }
        out, _ = cuda("take", str(4096 * MIB), env=environment).communicate(timeout=60)
        free, _, taken = map(int, out.split())
        print(f"a client limited to 1024 MiB saw {free // MIB} MiB free and got {taken // MIB} MiB")
        assert taken <= 1024 * MIB
        assert free <= 1024 * MIB


async def test_one_killed_engine_leaves_the_others_alone(tmp_path: Path, store: Path) -> None:
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, n, store) for n in range(3)], SHARED)
    async with agent.running():
        await agent.ready(*range(3))
        await asyncio.gather(*(agent.generate(n, 1) for n in range(3)))
        running = [asyncio.create_task(agent.generate(n, 1500)) for n in range(3)]
        _, *runner = family(*agent.supervisor.process("n1/0"))
        await asyncio.sleep(0.5)  # decoding is what is to be interrupted
        for stat in runner:
            os.kill(stat.pid, signal.SIGKILL)
        ends = await asyncio.gather(*running, return_exceptions=True)
        assert ends[1:] == [1500, 1500], ends
        assert isinstance(ends[0], BridgeError), ends
        assert await agent.generate(0, 5) == 5
        assert [domain.faults for domain in agent.keeper.domains()] == [0]


async def wild(agent: GpuAgent, number: int) -> None:
    """Makes an engine write wildly, in the middle of the others' answers."""
    with pytest.raises((BridgeError, TimeoutError)):
        await agent.call(number, "/fault", {"cuda": "wild"})


async def test_a_wild_write_costs_a_domain_three_seconds_and_a_load(tmp_path: Path, store: Path) -> None:
    configs = [*(real_engine(tmp_path, n, store) for n in range(4)), faulty_engine(4)]
    agent = GpuAgent(tmp_path, configs, SHARED)
    async with agent.running():
        await agent.ready(*range(5))
        load_s = await agent.back(range(4), time.monotonic())
        running = [asyncio.create_task(agent.generate(n, 1500)) for n in range(4)]
        await asyncio.sleep(0.5)  # decoding is what is to be interrupted
        began = time.monotonic()
        await wild(agent, 4)
        took_s = await agent.back(range(4), began)
        ends = await asyncio.gather(*running, return_exceptions=True)
        print(f"wild write: 4 engines answer again after {took_s:.2f} s, loading alone took {load_s:.2f} s")
        print("streams ended:", [type(one).__name__ for one in ends])
        print("MPS:", agent.logs())
        assert agent.keeper.domains()[0].faults == 1
        assert took_s <= RECOVERED_WITHIN_S + load_s


async def test_an_engine_that_faults_again_and_again_is_named_and_kept_out(
    tmp_path: Path, store: Path
) -> None:
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, 0, store), faulty_engine(1)], SHARED)
    async with agent.running():
        for fault in range(3):
            await agent.ready(0, 1)
            await agent.generate(0, 1)
            await eventually(lambda: agent.keeper.knows("n1/1"))
            await wild(agent, 1)
            await eventually(lambda times=fault + 1: agent.keeper.domains()[0].faults == times)
            print(agent.keeper.domains()[0])
            await asyncio.sleep(3.0)  # two faults within a moment are one
        print("MPS:", agent.logs())
        assert "n1/1" in agent.keeper.domains()[0].last
        assert "quarantined" in agent.keeper.fault_of("n1/1")
        await eventually(lambda: agent.view(1).state == "stopped", 30.0)
        await agent.ready(0)
        assert await agent.generate(0, 5) == 5
        assert not agent.keeper.fault_of("n1/0")


async def test_a_gpu_that_is_not_there_is_named(tmp_path: Path, store: Path) -> None:
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, 0, store)], GpuSharing(devices=("7",), mps=True))
    async with agent.running():
        await eventually(lambda: "not started" in agent.supervisor.status()[0].reason)
        reason = agent.supervisor.status()[0].reason
        assert re.search(r"GPU '7' is not there; this machine has: GPU-", reason), reason
        assert agent.supervisor.status()[0].pid is None


async def test_without_the_mps_daemon_nothing_is_started(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, 0, store)], SHARED)
    monkeypatch.setenv("PATH", str(tmp_path))
    async with agent.running():
        await eventually(lambda: agent.supervisor.status()[0].reason)
        assert "nvidia-cuda-mps-control is not on PATH" in agent.supervisor.status()[0].reason
        assert agent.supervisor.status()[0].pid is None
