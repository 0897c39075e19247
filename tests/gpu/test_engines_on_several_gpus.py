"""Real llama.cpp engines on several real GPUs under one agent: what befalls one GPU befalls its own alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from bridge_agent.engines.process import ProcessRecord
from bridge_agent.limits.gpu import Gpu, GpuInventory, Xid
from bridge_agent.limits.nvml import open_inventory
from bridge_core.errors import BridgeError
from bridge_core.node_class import GpuSharing
from tests.gpu.agent_bed import GpuAgent, faulty_engine, real_engine
from tests.support import eventually

pytestmark = pytest.mark.gpu

MPS = GpuSharing(mps=True)  # one engine on each GPU in turn
TOKENS = 1500


@pytest.fixture(autouse=True)
def several() -> None:
    inventory, reason = open_inventory()
    found = len(inventory.read())
    inventory.close()
    if found < 2:
        pytest.skip(
            f"SKIPPED LOUDLY: nothing about several GPUs is shown here: {reason or f'it has {found}'}"
        )


class LosingGpus:
    """The machine's GPUs, of which some are then said to be lost: no test can pull one out."""

    def __init__(self) -> None:
        self._real: GpuInventory = open_inventory()[0]
        self.lost: Mapping[str, str] = {}

    def read(self) -> tuple[Gpu, ...]:
        return tuple(
            msgspec.structs.replace(gpu, fault=self.lost.get(gpu.uuid, gpu.fault))
            for gpu in self._real.read()
        )

    def wait_xid(self, timeout_s: float) -> Xid | None:
        return self._real.wait_xid(timeout_s)

    def close(self) -> None:
        self._real.close()


def devices(agent: GpuAgent, count: int) -> list[str]:
    """The device of each engine."""
    return [agent.launcher.standing(f"n1/{n}").device for n in range(count)]


async def decoding(agent: GpuAgent, numbers: list[int]) -> dict[int, asyncio.Task[int]]:
    """Long answers under way."""
    running = {n: asyncio.create_task(agent.generate(n, TOKENS)) for n in numbers}
    await asyncio.sleep(0.5)  # decoding is what is to be interrupted
    return running


async def test_engines_are_spread_evenly_and_replicas_die_apart(tmp_path: Path, store: Path) -> None:
    gpus = len(open_inventory()[0].read())
    count = 2 * gpus
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, n, store) for n in range(count)], MPS)
    async with agent.running():
        await agent.ready(*range(count))
        assert await asyncio.gather(*(agent.generate(n, 50) for n in range(count))) == [50] * count
        seated = devices(agent, count)
        assert {seated.count(device) for device in seated} == {2}
        assert len(set(seated)) == gpus
        assert seated[:gpus] == seated[gpus:]
        domains = [agent.launcher.standing(f"n1/{n}").domain for n in range(count)]
        assert len(set(domains)) == gpus, "a daemon for each GPU, and with it a fate"
        assert domains[0] != domains[1], "two replicas of one model"
        assert {domain.instances for domain in agent.keeper.domains()} == {
            (f"n1/{n}", f"n1/{n + gpus}") for n in range(gpus)
        }
        for n in range(count):
            near = next(gpu.cpus for gpu in agent.keeper.gpus if gpu.uuid == seated[n])
            print(f"n1/{n} on {seated[n]}, near CPUs {near or 'all'}")


async def test_a_fault_on_one_gpu_cuts_no_stream_on_another(tmp_path: Path, store: Path) -> None:
    # 0, 2 and the faulty 4 on the first, 1 and 3 on the second.
    configs = [*(real_engine(tmp_path, n, store) for n in range(4)), faulty_engine(4)]
    gpus = tuple(str(n) for n in range(2))
    agent = GpuAgent(tmp_path, configs, GpuSharing(devices=gpus, mps=True))
    async with agent.running():
        await agent.ready(*range(5))
        await agent.back(range(4), time.monotonic())
        seated = devices(agent, 5)
        assert seated[4] == seated[0] != seated[1]
        running = await decoding(agent, [0, 1, 2, 3])
        with pytest.raises((BridgeError, TimeoutError)):
            await agent.call(4, "/fault", {"cuda": "wild"})
        ends = dict(
            zip(running, await asyncio.gather(*running.values(), return_exceptions=True), strict=True)
        )
        print({n: type(end).__name__ for n, end in ends.items()})
        assert (ends[1], ends[3]) == (TOKENS, TOKENS)
        assert {one.instances: one.faults for one in agent.keeper.domains()} == {
            ("n1/0", "n1/2", "n1/4"): 1,
            ("n1/1", "n1/3"): 0,
        }
        await agent.back([0, 2], time.monotonic())


async def test_a_killed_daemon_on_one_gpu_leaves_the_others_streams_alone(
    tmp_path: Path, store: Path
) -> None:
    agent = GpuAgent(tmp_path, [real_engine(tmp_path, n, store) for n in range(2)], MPS)
    async with agent.running():
        await agent.ready(0, 1)
        await agent.back([0, 1], time.monotonic())
        first = devices(agent, 2)[0]
        running = await decoding(agent, [0, 1])
        record = ProcessRecord.load(agent.keeper._domains[first].daemon._record)
        assert record is not None
        os.kill(record.pid, signal.SIGKILL)
        assert await running[1] == TOKENS
        await asyncio.gather(running[0], return_exceptions=True)
        await eventually(lambda: agent.keeper._domains[first].daemon.restarts > 0, 30.0)
        took_s = await agent.back([0], time.monotonic())
        print(f"the daemon's own engine answers again {took_s:.2f} s later")
        assert [one.faults for one in agent.keeper.domains() if "n1/1" in one.instances] == [0]


async def test_a_lost_gpu_keeps_its_own_engines_out_and_no_others(tmp_path: Path, store: Path) -> None:
    gpus = LosingGpus()
    agent = GpuAgent(
        tmp_path,
        [real_engine(tmp_path, n, store) for n in range(2)],
        MPS,
        inventory=gpus,
        keeping={"read_s": 0.2},
    )
    async with agent.running():
        await agent.ready(0, 1)
        await agent.back([0, 1], time.monotonic())
        first = devices(agent, 2)[0]
        running = await decoding(agent, [1])
        gpus.lost = {first: "it answers no more: GPU is lost"}
        await eventually(lambda: "may not be used" in agent.keeper.fault_of("n1/0"))
        assert agent.keeper.fault_of("n1/1") == ""
        assert await running[1] == TOKENS
        gpus.lost = {}
        await eventually(lambda: agent.keeper.fault_of("n1/0") == "")
        assert await agent.generate(0, 5) == 5


async def test_a_model_is_split_over_two_gpus(tmp_path: Path, store: Path) -> None:
    both = ",".join(gpu.uuid for gpu in open_inventory()[0].read()[:2])
    config = msgspec.structs.replace(real_engine(tmp_path, 0, store), gpus=both)
    agent = GpuAgent(tmp_path, [config], GpuSharing())
    async with agent.running():
        await agent.ready(0)
        assert await agent.generate(0, 50) == 50
        assert devices(agent, 1) == [both]
        inside = set(agent.supervisor.process("n1/0") or ())
        used = {gpu.uuid: gpu.used_bytes >> 20 for gpu in agent.keeper.gpus}
        print(f"MiB in use on each GPU with one split model: {used}, engine {inside}")
        await eventually(lambda: min(gpu.used_bytes for gpu in agent.keeper.gpus[:2]) > 300 << 20)
