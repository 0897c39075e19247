"""What an isolated engine cannot reach, and who cannot reach it: real processes behind real walls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.network import connect_inside, private_network
from bridge_agent.engines.process import ProcessRecord
from bridge_agent.limits.isolation import probe
from bridge_agent.limits.launcher import IsolatedLauncher, IsolationRefused
from bridge_agent.limits.walls import WALLS
from bridge_core.node_class import Isolation, NodeClass, ResourceLimits
from tests.engine_support import embedded_installed, everything_of, fake_config, gone, supervised
from tests.inside import PROGRAM, inside
from tests.support import eventually

ALL = ("mount", "pid", "ipc", "uts", "net", "capabilities", "no_new_privs")
MIB = 1 << 20
SOMEBODY = 61234  # nobody's number on any machine
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: walls of an agent with root need root"
)


def launcher(state: Path, *, walls: tuple[str, ...] | None = ALL, **options) -> IsolatedLauncher:
    isolation = {name: options.pop(name) for name in ("require", "uid", "tmp_bytes") if name in options}
    node_class = NodeClass(
        isolation=Isolation(walls=walls, **isolation), limits=options.pop("limits", ResourceLimits())
    )
    return IsolatedLauncher(state, node_class=node_class, cgroups=None, without="not in this test", **options)


@pytest.fixture
async def every_wall():
    if impossible := await probe():  # inside a chroot, say: its root is no mount point
        pytest.skip(f"SKIPPED LOUDLY: this machine does not allow every wall: {impossible}")


@pytest.fixture
def ground():
    """A folder that is in no /tmp, whose own /tmp an engine gets anyway; every user may enter it."""
    folder = Path(tempfile.mkdtemp(prefix="bridge-walls-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def others(ground):
    """What an engine must not reach: keys, other engines' files, sockets and processes of the host."""
    secrets = [
        ground / "state/identity/key.pem",
        ground / "state/engines/1/home/prompt",
        ground / "state/models-of-1/blob",
        ground / "another-agent/identity/key.pem",
    ]
    for path in secrets:
        path.parent.mkdir(parents=True)
        path.write_text("SECRET")
        path.chmod(0o600)
    (ground / "state").chmod(0o700)
    with (
        socket.create_server(("127.0.0.1", 0)) as tcp,
        socket.socket(socket.AF_UNIX) as named,
        socket.socket(socket.AF_UNIX) as abstract,
    ):
        named.bind(str(ground / "host.sock"))
        abstract.bind(f"\0bridge-walls-{os.getpid()}")
        for one in (named, abstract):
            one.listen()
        yield {
            "read": [*map(str, secrets), "/etc/shadow", "/root", "/home"],
            "tcp": [tcp.getsockname()[1]],
            "unix": [str(ground / "host.sock"), f"\0bridge-walls-{os.getpid()}"],
            "signal": [os.getpid()],
        }


@pytest.mark.parametrize(("walls", "uid"), [(ALL, None), (ALL, SOMEBODY), ((*ALL, "user"), None)])
async def test_from_inside_nothing_of_the_host_or_of_others_is_reached(
    every_wall, ground, others, walls, uid
):
    state, models = ground / "state", ground / "state/models"
    asked = others | {
        "ptrace": others["signal"],
        "mount": [str(models)],
        "write": ["/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern", "/proc/self/oom_score_adj"],
        "make": [str(models / "new"), "/usr/new", "/etc/new", str(state / "engines/0/new")],
    }
    it = launcher(state, require=walls, uid=uid)
    async with inside(it, state, asked, models=models) as (process, found):
        assert private_network(process.pid)
        of_its_own = Path(f"/proc/{process.pid}/ns/user").readlink() != Path("/proc/self/ns/user").readlink()
        assert of_its_own == ("user" in walls)
    assert found["uid"] == (uid or 0)
    assert found["interfaces"] == ["lo"]
    assert set(found["tcp"].values()) == {"ECONNREFUSED"}
    assert set(found["unix"].values()) <= {"ECONNREFUSED", "ENOENT", "EACCES"}
    shown = {path: said for path, said in found["read"].items() if said not in {"ENOENT", "EACCES", "ok"}}
    # The way to what it needs may lie in a hidden folder; the folders on it are empty but for that.
    assert shown.pop("/root", "") in {"", ".pyenv", Path(sys.base_prefix).parts[2]}
    assert shown == {}
    assert found["pids"] == 1
    # Numbers mean nothing inside: there is no such process.
    assert set(found["signal"].values()) | set(found["ptrace"].values()) <= {"ESRCH", "EPERM"}
    assert found["mount"] == {str(models): "EPERM"}
    assert found["hostname"] == "engine-0"
    assert found["no_new_privs"] == "1"
    assert set(found["capabilities"]) == {"0"}
    refused = {"EROFS", "EACCES", "ENOENT"}  # a kernel may lack one
    assert found["write"].pop("/proc/self/oom_score_adj") == "ok"
    assert set(found["write"].values()) <= refused
    assert found["make"].pop(str(models / "new")) == "ok"
    assert set(found["make"].values()) <= refused


async def test_without_walls_the_same_is_reached(ground, others):
    # What shows that the test above could fail.
    it = launcher(ground / "state", walls=())
    async with inside(it, ground / "state", others, models=ground / "models") as (_, found):
        pass
    assert list(found["read"].values())[:4] == ["SECRET"] * 4
    assert set(found["tcp"].values()) | set(found["unix"].values()) == {"ok"}
    assert found["pids"] > 1
    assert found["signal"] == {str(os.getpid()): "ok"}


async def test_a_flood_of_its_own_tmp_ends_at_its_size(every_wall, ground):
    state, models = ground / "state", ground / "models"
    asked = {"fill": {"/tmp/flood": 64 * MIB, "/dev/shm/flood": 64 * MIB, "/dev/flood": 64 * MIB}}
    it = launcher(state, tmp_bytes=8 * MIB)
    async with inside(it, state, asked, models=models) as (_, found):
        pass
    assert found["fill"] == {"/tmp/flood": "ENOSPC", "/dev/shm/flood": "ENOSPC", "/dev/flood": "EROFS"}
    assert not Path("/tmp/flood").exists()


async def test_no_disk_of_the_machine_is_among_its_devices(every_wall, ground):
    state = ground / "state"
    async with inside(launcher(state), state, {"read": ["/dev"]}, models=ground / "models") as (_, found):
        seen = set(found["read"]["/dev"].split(","))
    blocks = {path.name for path in Path("/sys/class/block").iterdir()}
    assert seen >= {"null", "urandom", "shm", "fd"}
    assert not seen & (blocks | {"mem", "kmsg", "kvm", "fuse", "loop-control", "console"})


async def test_an_isolated_engine_is_reached_by_its_sidecar_alone(every_wall, tmp_path):
    state = tmp_path / "s"
    async with supervised(fake_config(tmp_path), state, launcher=launcher(state, require=ALL)) as it:
        view = await it.state("ready", 60)
        assert view.network_pid == it.status.pid
        assert private_network(view.network_pid)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection((view.host, view.port), 1.0)
        async with it.client() as client:
            assert await client.version()


async def test_an_engine_of_another_user_serves_is_adopted_and_stops_whole(every_wall, ground):
    state, config = ground / "state", fake_config(ground)
    state.mkdir(mode=0o700)
    async with supervised(config, state, launcher=launcher(state, uid=SOMEBODY), leave=True) as first:
        await first.state("ready", 60)
        pid = first.status.pid
        assert Path(f"/proc/{pid}").stat().st_uid == SOMEBODY
        owners = {path.name: path.stat().st_uid for path in (state / "engines/0").iterdir()}
        # It must not be able to tell the next agent that some other process is this engine.
        assert owners == dict.fromkeys(owners, 0) | {"home": SOMEBODY}
    async with supervised(config, state, launcher=launcher(state, uid=SOMEBODY)) as second:
        await second.state("ready", 60)
        assert (second.status.pid, second.status.adopted) == (pid, True)
        async with second.client() as client:
            assert await client.version()
    await eventually(lambda: gone(pid), 30)


@pytest.mark.llamacpp
async def test_a_real_engine_speaks_behind_every_wall_as_another_user(every_wall, ground):
    if not embedded_installed():
        pytest.skip("bridge-engine or the wheel xllamacpp is not installed")
    from bridge_engine.seed import seed

    state = ground / "state"
    models = ground / "models"
    seed(models, ["tiny"], ground / "cache")
    config = EngineConfig(
        index=0, kind="llamacpp", models_dir=str(models), context_length=2048, num_parallel=1
    )
    it = launcher(state, require=ALL, uid=SOMEBODY)
    async with supervised(config, state, launcher=it) as engine:
        await engine.state("ready", 60)
        async with engine.client() as client, asyncio.timeout(60):
            await client.load("tiny")
            await client.generate_one("tiny", context_length=2048)
            pids = everything_of(ProcessRecord.load(engine.record))
            assert len(pids) >= 2, "the engine and its runner"
            assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {SOMEBODY}


async def test_another_user_of_the_host_has_no_way_to_an_engine(every_wall, ground):
    state = ground / "state"
    state.mkdir(mode=0o700)
    home = ground / "somebody"
    home.mkdir()
    os.chown(home, SOMEBODY, SOMEBODY)
    async with supervised(fake_config(ground), state, launcher=launcher(state, uid=SOMEBODY + 1)) as it:
        view = await it.state("ready", 60)
        of = f"/proc/{view.network_pid}"
        asked = {
            "tcp": [view.port],
            "read": [str(state), f"{of}/root", f"{of}/environ", f"{of}/mem", f"{of}/ns/net"],
            "signal": [view.network_pid],
            "ptrace": [view.network_pid],
        }
        somebody = subprocess.Popen(
            (other_python(), "-I", "-S", "-c", PROGRAM, json.dumps(asked)),
            env={"HOME": str(home)},
            cwd="/",
            user=SOMEBODY,
            group=SOMEBODY,
            extra_groups=[],
        )
        try:
            await eventually((home / "answer").exists, 60)
        finally:
            somebody.kill()
            somebody.wait()
        found = json.loads((home / "answer").read_text())
        assert set(found["tcp"].values()) == {"ECONNREFUSED"}
        assert set(found["read"].values()) == {"EACCES"}
        assert set(found["signal"].values()) | set(found["ptrace"].values()) == {"EPERM"}
        # The sidecar goes the same way with root's rights.
        with contextlib.closing(connect_inside(view.network_pid, (view.host, view.port), 5.0)) as open_door:
            assert open_door.getpeername() == (view.host, view.port)


async def test_a_required_wall_that_cannot_stand_forbids_the_start_and_says_why(ground):
    it = launcher(ground, walls=(), require=("cgroup",))
    with pytest.raises(IsolationRefused, match="'cgroup' is required and not to be had: not in this test"):
        async with inside(it, ground, {}, models=ground / "models"):
            pass
    assert not (ground / "engines/0/home/answer").exists()
    assert "cgroup" in WALLS


def other_python() -> str:
    """An interpreter that every user can run."""
    for python in (sys.executable, "/usr/bin/python3"):
        with contextlib.suppress(OSError):
            done = subprocess.run(
                (python, "-I", "-S", "-c", ""),
                user=SOMEBODY,
                group=SOMEBODY,
                extra_groups=[],
                check=False,
                cwd="/",
            )
            if done.returncode == 0:
                return python
    pytest.skip("SKIPPED LOUDLY: no interpreter here that another user could run")
