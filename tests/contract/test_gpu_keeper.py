"""Engines on GPUs: seats, MPS servers that fall, blame, devices that fail; with fake GPUs and a fake MPS."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge_agent.ancillaries import Ancillaries
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.process import ProcessRecord
from bridge_agent.limits.fault_domain import FaultDomain
from bridge_agent.limits.gpu import Gpu, Xid
from bridge_agent.limits.gpus import SETTLE_S, GpuKeeper
from bridge_core.errors import Unavailable
from bridge_core.node_class import GpuSharing, ResourceLimits
from bridge_core.proc import read_stat
from tests.engine_support import FAKE, NO_PROBES, POLICY, TIMING, gone
from tests.fakes.fake_gpus import GIB, FakeGpus
from tests.gpu.agent_bed import GpuAgent, short_folder
from tests.support import eventually

CONTROL = Path(__file__).parent.parent / "fakes" / "fake_mps_control.py"
LONG_S = 60.0  # the machine may be busy


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    with short_folder() as folder:
        yield folder


class Clock:
    """Monotonic time, moved on by hand."""

    def __init__(self) -> None:
        self.ahead = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead


class Bed(GpuAgent):
    """Fake engines on fake GPUs."""

    def __init__(
        self,
        folder: Path,
        engines: int,
        sharing: GpuSharing,
        gpus: FakeGpus,
        named: Mapping[int, str] = {},
        walls: Sequence[str] = (),
        **keeping: Any,
    ) -> None:
        control = folder / "nvidia-cuda-mps-control"
        control.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {CONTROL} "$@"\n')
        control.chmod(0o755)
        self.gpus, self.clock = gpus, Clock()
        self.changes: list[None] = []
        super().__init__(
            folder,
            [
                EngineConfig(index=n, kind="ollama", binary=str(FAKE), gpus=named.get(n))
                for n in range(engines)
            ],
            sharing,
            inventory=gpus,
            walls=walls,
            keeping={
                "mps_binary": str(control),
                "clock": self.clock,
                "read_s": 0.05,
                "changed": lambda: self.changes.append(None),
            }
            | keeping,
            policy=POLICY,
            timing=TIMING,
            probing=NO_PROBES,
        )

    def pids(self) -> list[int | None]:
        return [status.pid for status in self.supervisor.status()]

    def environment(self, number: int) -> dict[str, str]:
        """What an engine's process was started with."""
        text = Path(f"/proc/{self.pids()[number]}/environ").read_text()
        return dict(pair.split("=", 1) for pair in text.split("\0") if "=" in pair)

    def daemon(self, index: int = 0):
        return self.keeper._domains[self.gpus.uuid(index)].daemon

    async def all_ready(self, *numbers: int) -> None:
        await self.ready(*(numbers or range(len(self.pids()))), deadline_s=LONG_S)

    async def restarted(self, before: list[int | None], *numbers: int) -> None:
        """Waits until these engines are others than before, and ready."""

        def done() -> bool:
            now = self.pids()
            return all(now[n] not in {None, before[n]} and self.view(n).state == "ready" for n in numbers)

        await eventually(done, LONG_S)

    async def fault(self, number: int, *, named: bool = True) -> None:
        """A client of an engine's faults, long after the last one did; MPS names it or does not."""
        self.clock.ahead += SETTLE_S + 1
        instance = f"n1/{number}"
        pid = self.pids()[number]
        await eventually(lambda: pid in self.keeper._families[instance].host, LONG_S)
        index = next(
            n for n in range(len(self.gpus.read())) if instance in self.keeper._seats.on(self.gpus.uuid(n))
        )
        await self.daemon(index).command(f"fault {pid}" if named else "fault")


MPS = GpuSharing(mps=True, per_gpu=2)


async def test_engines_fill_gpus_in_order_and_see_no_other(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 4, GpuSharing(per_gpu=2), FakeGpus(2))
    async with bed.running():
        await bed.all_ready()
        seen = [bed.environment(n)["CUDA_VISIBLE_DEVICES"] for n in range(4)]
        assert seen == [bed.gpus.uuid(0)] * 2 + [bed.gpus.uuid(1)] * 2
        assert not [name for name in bed.environment(0) if name.startswith("CUDA_MPS")]
        assert not bed.keeper.domains()


async def test_under_mps_the_engines_of_a_gpu_share_a_server_and_a_fate(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 4, GpuSharing(mps=True, per_gpu=2, memory_bytes=30 * GIB), FakeGpus(2))
    async with bed.running():
        await bed.all_ready()
        domains = [bed.launcher.standing(f"n1/{n}").domain for n in range(4)]
        assert domains[0] == domains[1] != domains[2] == domains[3]
        assert bed.keeper.domain_of("n1/3") == domains[3]
        assert {one.name: one.instances for one in bed.keeper.domains()} == {
            domains[0]: ("n1/0", "n1/1"),
            domains[2]: ("n1/2", "n1/3"),
        }
        first, last = bed.environment(0), bed.environment(3)
        assert first["CUDA_MPS_PIPE_DIRECTORY"] != last["CUDA_MPS_PIPE_DIRECTORY"]
        assert first["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] == "75"
        # 30 GiB for an engine that may hold three models, each in a process of its own.
        assert first["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] == "0=10240M"


async def test_an_engine_that_is_split_sees_its_gpus_and_is_no_client_of_an_mps_server(
    tmp_path: Path,
) -> None:
    bed = Bed(tmp_path, 2, MPS, FakeGpus(3), named={0: "0,1"})
    async with bed.running():
        await bed.all_ready()
        seen = bed.environment(0)
        assert seen["CUDA_VISIBLE_DEVICES"] == f"{bed.gpus.uuid(0)},{bed.gpus.uuid(1)}"
        assert not [name for name in seen if name.startswith("CUDA_MPS")]
        assert bed.keeper.domain_of("n1/0") == ""
        bed.gpus.lose(1)
        await eventually(lambda: "may not be used" in bed.keeper.fault_of("n1/0"), LONG_S)
        assert bed.gpus.uuid(1) in bed.keeper.fault_of("n1/0")
        assert not bed.keeper.fault_of("n1/1")


async def test_an_engine_runs_on_the_cpus_beside_its_gpu(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, GpuSharing(), FakeGpus(2, cpus=("0", "")), walls=("cgroup",))
    if bed.launcher._cgroups is None or "cpuset" not in bed.launcher._cgroups.hierarchy.trees:
        pytest.skip("SKIPPED LOUDLY: no cgroups with a cpuset here")
    async with bed.running():
        await bed.all_ready()
        first, second = (os.sched_getaffinity(pid) for pid in bed.pids() if pid is not None)
        assert first == {0}
        assert second == os.sched_getaffinity(0)
        assert bed.launcher.report("n1/0").limits.cpuset == "0"
        bed.launcher.update(
            msgspec.structs.replace(bed.launcher.node_class, limits=ResourceLimits(pids_max=400))
        )
        assert bed.launcher.report("n1/0").limits.cpuset == "0", "another limit takes it off none"
        assert os.sched_getaffinity(bed.pids()[0] or 0) == {0}


async def test_cpus_that_cannot_be_kept_to_do_not_keep_an_engine_from_starting(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 1, GpuSharing(), FakeGpus(1, cpus=("4000-4001",)), walls=("cgroup",))
    if bed.launcher._cgroups is None:
        pytest.skip("SKIPPED LOUDLY: no cgroups here")
    async with bed.running():
        await bed.all_ready()
        assert "cgroup" in bed.launcher.standing("n1/0").walls
        assert os.sched_getaffinity(bed.pids()[0] or 0) == os.sched_getaffinity(0)


async def test_when_a_client_faults_its_domain_and_no_other_is_started_again(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 4, MPS, FakeGpus(2))
    async with bed.running():
        await bed.all_ready()
        before = bed.pids()
        await bed.fault(1)
        await bed.restarted(before, 0, 1)
        assert bed.pids()[2:] == before[2:]
        struck = next(one for one in bed.keeper.domains() if "n1/1" in one.instances)
        assert struck.faults == 1
        assert "by n1/1" in struck.last
        assert [one.faults for one in bed.keeper.domains() if one != struck] == [0]
        assert bed.changes


async def test_whoever_faults_again_and_again_is_kept_out_and_the_others_go_on(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, MPS, FakeGpus())
    async with bed.running():
        for times in range(1, 4):
            await bed.all_ready()
            before = bed.pids()
            await bed.fault(1)
            await bed.restarted(before, *((0, 1) if times < 3 else (0,)))
        await eventually(lambda: bed.view(1).state == "stopped", LONG_S)
        assert bed.keeper.fault_of("n1/1") == (
            "quarantined: 3 of 5 faults of its MPS server in a row were laid to it"
        )
        assert not bed.keeper.fault_of("n1/0")


async def test_a_fault_that_is_told_twice_is_one(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, MPS, FakeGpus())
    async with bed.running():
        await bed.all_ready()
        before = bed.pids()
        await bed.fault(0, named=False)
        await bed.daemon().command(f"fault {before[0]}")
        await bed.restarted(before, 0, 1)
        assert [one.faults for one in bed.keeper.domains()] == [1]
        assert "by n1/0" in bed.keeper.domains()[0].last, "what is told later may say more"


async def test_a_fault_that_names_nobody_restarts_the_domain_and_blames_nobody(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, MPS, FakeGpus())
    async with bed.running():
        await bed.all_ready()
        before = bed.pids()
        await bed.fault(0, named=False)
        await bed.restarted(before, 0, 1)
        assert bed.keeper.domains()[0].last == "Server is handling a fatal GPU error."


async def test_a_strangers_crash_on_the_gpu_costs_its_engines_nothing(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, MPS, FakeGpus())
    async with bed.running():
        await bed.all_ready()
        before = bed.pids()
        bed.gpus.xid(0, 31)
        bed.gpus.xid(0, 79)  # by the time that this is heard, the other was
        await eventually(lambda: bed.keeper.fault_of("n1/0"), LONG_S)
        assert bed.pids() == before
        assert bed.keeper.domains()[0].faults == 0


async def test_a_control_daemon_that_is_killed_comes_back_and_its_engines_with_it(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, MPS, FakeGpus())
    async with bed.running():
        await bed.all_ready()
        before = bed.pids()
        orphan = int(await bed.daemon().command("serve"))
        with contextlib.suppress(Unavailable):
            await bed.daemon().command("crash")
        await bed.restarted(before, 0, 1)
        assert bed.daemon().restarts >= 1
        assert gone(orphan), "its old server still holds the memory of clients that are gone"


async def test_a_gpu_that_falls_off_the_bus_keeps_its_engines_out(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, GpuSharing(), FakeGpus(2))
    async with bed.running():
        await bed.all_ready()
        bed.changes.clear()
        bed.gpus.lose(0)
        await eventually(lambda: "answers no more" in bed.keeper.fault_of("n1/0"), LONG_S)
        assert bed.changes
        assert not bed.keeper.fault_of("n1/1")
        os.kill(bed.pids()[0], signal.SIGKILL)
        await eventually(lambda: "may not be used" in bed.supervisor.status()[0].reason, LONG_S)
        assert bed.view(1).state == "ready"


async def test_an_error_of_the_device_itself_keeps_its_engines_out(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 2, GpuSharing(), FakeGpus(2))
    async with bed.running():
        bed.gpus.xid(1, 79)
        await eventually(lambda: "XID 79" in bed.keeper.fault_of("n1/1"), LONG_S)
        assert not bed.keeper.fault_of("n1/0")
        assert "XID 79" in bed.keeper.gpus[1].fault


async def test_an_agent_that_leaves_its_engines_leaves_their_mps_and_the_next_takes_both_over(
    tmp_path: Path,
) -> None:
    first = Bed(tmp_path, 2, MPS, FakeGpus())
    async with first.running(leave=True):
        await first.all_ready()
        engines = first.pids()
    record = ProcessRecord.load(next(first.mps.glob("*/daemon.json")))
    assert read_stat(record.pid) is not None
    second = Bed(tmp_path, 2, MPS, FakeGpus())
    async with second.running():
        await second.all_ready()
        assert second.pids() == engines
        assert second.keeper.domain_of("n1/0"), "adopted engines never ask for admission"
        await second.daemon().ready()
        assert ProcessRecord.load(next(second.mps.glob("*/daemon.json"))).pid == record.pid
        await second.fault(0)
        await second.restarted(engines, 0, 1)
    assert gone(record.pid)
    assert all(gone(pid) for pid in engines)


async def refusal(bed: Bed) -> str:
    """Why the first engine is not started; nothing of it may run."""
    async with bed.running():
        await eventually(lambda: bed.supervisor.status()[0].reason, LONG_S)
        assert bed.pids()[0] is None
        return bed.supervisor.status()[0].reason


@pytest.mark.parametrize(
    ("sharing", "gpus", "says"),
    [
        (GpuSharing(devices=("7",)), FakeGpus(1), "GPU '7' is not there; this machine has: GPU-00000000"),
        (GpuSharing(), FakeGpus(0), "a GPU is asked for and this machine has none"),
        (GpuSharing(mps=True, thread_percentage=0), FakeGpus(1), "it must be 1 to 100"),
        (GpuSharing(mps=True, memory_bytes=-1), FakeGpus(1), "more than 0"),
        (GpuSharing(mps=True, memory_bytes=200 * GIB), FakeGpus(1), "the device has"),
        (GpuSharing(mps=True), FakeGpus(1, "amd"), "MPS is asked for and Fake 80 is not NVIDIA's"),
    ],
    ids=["no such index", "no gpu", "percentage", "negative", "too much", "amd"],
)
async def test_what_cannot_be_given_is_a_sentence_and_no_engine(
    tmp_path: Path, sharing: GpuSharing, gpus: FakeGpus, says: str
) -> None:
    assert says in await refusal(Bed(tmp_path, 1, sharing, gpus))


async def test_mig_and_mps_exclude_each_other(tmp_path: Path) -> None:
    gpus = FakeGpus()
    gpus.part(0, 2)
    assert "MIG is enabled" in await refusal(Bed(tmp_path, 1, GpuSharing(mps=True), gpus))


async def test_without_the_mps_daemon_there_is_no_engine_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    bed = Bed(tmp_path, 1, GpuSharing(mps=True), FakeGpus(), mps_binary=None)
    assert "nvidia-cuda-mps-control is not on PATH" in await refusal(bed)


async def test_a_state_folder_too_deep_for_sockets_is_named(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60)
    deep.mkdir()
    assert "the path is too long" in await refusal(Bed(deep, 1, GpuSharing(mps=True), FakeGpus()))


async def test_slices_are_devices_of_their_own(tmp_path: Path) -> None:
    gpus = FakeGpus()
    gpus.part(0, 2)
    bed = Bed(tmp_path, 2, GpuSharing(), gpus)
    async with bed.running():
        await bed.all_ready()
        assert [bed.environment(n)["CUDA_VISIBLE_DEVICES"] for n in range(2)] == ["MIG-00", "MIG-01"]


async def test_another_vendors_gpus_are_told_apart_by_its_own_variable(tmp_path: Path) -> None:
    bed = Bed(tmp_path, 1, GpuSharing(), FakeGpus(2, "amd"))
    async with bed.running():
        await bed.all_ready()
        environment = bed.environment(0)
        assert environment["ROCR_VISIBLE_DEVICES"] == bed.gpus.uuid(0)
        assert "CUDA_VISIBLE_DEVICES" not in environment


class Ready:
    """An MPS daemon that is."""

    async def ready(self) -> None:
        pass


async def test_a_domain_lets_its_engines_in_in_their_order(tmp_path: Path) -> None:
    domain = FaultDomain(Ready())
    domain.close(["a", "b", "c"])
    came: list[str] = []

    async def engine(name: str) -> None:
        await domain.enter(name)
        came.append(name)

    async with asyncio.TaskGroup() as group:
        for name in ("stranger", "c", "b"):
            group.create_task(engine(name))
        for _ in range(3):
            await asyncio.sleep(0)
        assert not came
        group.create_task(domain.reopen())
        for _ in range(3):
            await asyncio.sleep(0)
        assert not came, "the first in the order is not there yet"
        group.create_task(engine("a"))
    assert came == ["a", "b", "c", "stranger"]
    assert not domain.recovering


async def test_a_domain_does_not_wait_for_ever_for_one_that_does_not_come(tmp_path: Path) -> None:
    domain = FaultDomain(Ready())
    domain.close(["gone", "b"])
    async with asyncio.TaskGroup() as group:
        entered = group.create_task(domain.enter("b"))
        group.create_task(domain.reopen())
    assert entered.done()


class SlowGpus(FakeGpus):
    """Threads that are inside stay there until the test lets them out."""

    def __init__(self) -> None:
        super().__init__()
        self.inside = threading.Event()
        self.out = threading.Event()
        self.closed_under_a_thread = False

    def wait_xid(self, timeout_s: float) -> Xid | None:
        self.inside.set()
        self.out.wait(20)
        self.inside.clear()
        return None

    def close(self) -> None:
        self.closed_under_a_thread = self.inside.is_set()
        super().close()


class NoEngines:
    """A node without any."""

    def process(self, instance: str) -> None:
        return None

    def fail(self, instance: str, reason: str) -> None:
        raise AssertionError

    def halt(self, instance: str) -> None:
        raise AssertionError


def a_keeper(folder: Path, gpus: FakeGpus, **options: Any) -> GpuKeeper:
    return GpuKeeper(
        gpus, without="", folder=folder, node="n1", instances=[], sharing=None, engines=NoEngines(), **options
    )


async def test_the_driver_is_let_go_of_after_the_last_thread_has_left_it(tmp_path: Path) -> None:
    gpus = SlowGpus()
    task = asyncio.create_task(a_keeper(tmp_path, gpus).run())
    await eventually(gpus.inside.is_set)
    task.cancel()
    for _ in range(5):
        await asyncio.sleep(0)
    assert not gpus.closed
    gpus.out.set()
    await asyncio.gather(task, return_exceptions=True)
    assert gpus.closed
    assert not gpus.closed_under_a_thread


async def test_a_fault_in_reading_gpus_is_counted_and_ends_nothing(tmp_path: Path) -> None:
    class Broken(FakeGpus):
        faults = 0
        started = False

        def read(self) -> tuple[Gpu, ...]:
            if self.started and self.faults < 2:
                self.faults += 1
                raise RuntimeError("not what a driver says")
            return super().read()

    gpus, ancillaries = Broken(), Ancillaries(random.Random(1))
    keeper = a_keeper(tmp_path, gpus, read_s=0.01, ancillaries=ancillaries)
    gpus.started = True
    task = asyncio.create_task(keeper.run())
    await eventually(lambda: ancillaries.faults.get("gpu-inventory") == 2)
    assert not task.done()
    assert not gpus.closed
    assert "not what a driver says" in ancillaries.concerns()[0]
    gpus.lose(0)
    await eventually(lambda: bool(keeper.gpus[0].fault))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
