"""A whole machine: registry, etcd and agent as services, through reboots, hangs, crashes and restarts.

Asked for by the variable BRIDGE_TEST_SYSTEMD (see tests/systemd_bed.py): it takes minutes, and the first
time a mirror of Debian.
"""

from __future__ import annotations

import contextlib
import shlex
import time
from collections.abc import Iterator

import pytest

from bridge_core.systemd.units import unit_folder
from tests import systemd_bed
from tests.systemd_bed import (
    ADMIN,
    ASK,
    DISK,
    PKI,
    SEED,
    STATE,
    TOKEN,
    Machine,
    alive,
    engine,
    generates,
    joining,
    ready,
)

_why = systemd_bed.missing()
pytestmark = [
    pytest.mark.faults,
    pytest.mark.root,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(bool(_why), reason=f"no machine with systemd: {_why}"),
]
SOCKETS = [f"bridge-agent-{name}.socket" for name in ("http", "https", "grpc", "peer", "admin")]


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    # Not below /tmp, which may be a tmpfs: an overlay's upper folder holds all that is written.
    with systemd_bed.machine(tmp_path_factory.mktemp("machine")) as machine:
        said = machine.sh("bridge-registry service install --host 127.0.0.1")
        assert (
            "enabled and started bridge-etcd.service, bridge-store-guard.service, bridge-registry.service"
            in said
        )
        machine.sh(SEED)
        join(machine)
        yield machine


def join(machine: Machine) -> str:
    machine.until(lambda: machine.ok(TOKEN), 60)
    said = machine.sh(joining("boot1"))
    ready(machine)
    return said


def agent(machine: Machine) -> int:
    return int(machine.show("bridge-agent", "MainPID"))


def test_units_are_installed_as_they_lie_in_the_folder_and_commands_can_be_typed(machine: Machine) -> None:
    for path in unit_folder().iterdir():
        installed = machine.sh(f"cat /etc/systemd/system/{path.name}")
        assert installed == path.read_text(), path.name
    usual = "env -i PATH=/usr/local/bin:/usr/bin:/bin HOME=/root"
    machine.sh(f"{usual} bridgectl context set main --registry 127.0.0.1:11400 --pki {PKI}")
    said = machine.sh(f"{usual} bridgectl status")
    assert "1: 1 serving" in said
    for name in ("bridge-agent", "bridge-registry", "bridge-engine"):
        machine.sh(f"{usual} {name} --version")


def test_after_a_reboot_it_serves_by_itself(machine: Machine) -> None:
    ready(machine)
    boot = machine.sh("cat /proc/sys/kernel/random/boot_id /proc/1/stat")
    began = time.monotonic()
    machine.reboot()
    booted = time.monotonic() - began
    ready(machine)
    print(f"booted again in {booted:.1f} s, ready {time.monotonic() - began - booted:.1f} s later")
    assert machine.sh("cat /proc/sys/kernel/random/boot_id /proc/1/stat") != boot
    generates(machine)
    for unit in ("bridge-etcd", "bridge-store-guard", "bridge-registry", "bridge-agent", *SOCKETS):
        assert machine.show(unit, "ActiveState") == "active", unit
    assert machine.sh("systemctl list-units 'bridge*' --state=failed --no-legend") == ""


def figure(machine: Machine, name: str, port: int = 11405) -> float:
    """A figure of the store guard's, or of who else has that port; 0 while there is none."""
    said = machine.sh(f"curl -sf http://127.0.0.1:{port}/metrics || true")
    return next((float(line.split()[-1]) for line in said.splitlines() if line.startswith(f"{name} ")), 0.0)


@pytest.mark.parametrize("how", ["systemctl restart", "systemctl kill --kill-whom=main -s KILL"])
def test_a_guard_that_starts_again_leaves_nodes_on_the_ring(machine: Machine, how: str) -> None:
    ready(machine)
    assert '"https://127.0.0.1:11404"' in machine.sh(f"cat {STATE}/agent.json")  # not etcd itself
    machine.until(lambda: figure(machine, "bridge_store_guard_leases") == 1, 30)
    process = machine.show("bridge-store-guard", "MainPID")
    machine.sh(f"{how} bridge-store-guard")
    machine.until(lambda: machine.show("bridge-store-guard", "MainPID") not in {process, "0"}, 60)
    # What it counts begins anew: this one renewed. Meanwhile the node is no moment off the ring.
    renewed = 'bridge_store_guard_allowed_total{method="LeaseKeepAlive"}'
    rings = []

    def renews() -> bool:
        rings.append(figure(machine, "bridge_registry_snapshot_instances", port=11401))
        return figure(machine, renewed) >= 2

    machine.until(renews, 60)
    assert set(rings) == {1.0}
    generates(machine)


def test_a_hung_agent_is_replaced_and_its_engine_adopted(machine: Machine) -> None:
    ready(machine)
    generates(machine)
    before, process = engine(machine), agent(machine)
    machine.sh(f"kill -STOP {process}")
    # Asked while it hangs: nothing is refused, the next agent answers.
    took = generates(machine)
    print(f"answered {took:.1f} s after the agent hung")
    assert agent(machine) != process
    assert engine(machine) == before
    assert alive(machine, before)
    said = machine.journal("bridge-agent")
    assert "Watchdog timeout" in said
    assert "Fatal Python error: Aborted" in said  # where it stood
    assert said.count('"event.action":"engine_adopted"') >= 1


def test_a_killed_agent_is_replaced_and_its_engine_adopted(machine: Machine) -> None:
    ready(machine)
    before, process = engine(machine), agent(machine)
    machine.sh(f"kill -KILL {process}")
    took = generates(machine)
    print(f"answered {took:.1f} s after the agent was killed")
    assert agent(machine) != process
    assert engine(machine) == before


def test_restarts_refuse_no_request_and_keep_the_engine(machine: Machine) -> None:
    ready(machine)
    before = engine(machine)
    script = (
        "rm -f /root/enough; "
        "( while [ ! -e /root/enough ]; do "
        f"curl -s -o /dev/null -w '%{{http_code}}\\n' --max-time 90 -d {shlex.quote(ASK)} "
        "http://127.0.0.1:11434/api/generate || echo refused; done ) > /root/statuses & "
        "for n in 1 2 3; do sleep 1; systemctl restart bridge-agent; done; sleep 1; "
        "touch /root/enough; wait; sort /root/statuses | uniq -c"
    )
    said = machine.sh(script, 400)
    print(f"requests by status: {' '.join(said.split())}")
    assert [line.split()[1] for line in said.splitlines()] == ["200"]
    assert engine(machine) == before


FILES = ("cpu.max", "cpu.weight", "pids.max", "memory.max", "io.max")


def limits(machine: Machine, cpus: float, processes: int, mebibytes: int) -> list[str]:
    """Applies a NodeClass with these limits; what the files of an engine's group then say."""
    device = machine.sh(f"mountpoint -d {DISK}").strip()
    there = machine.ok(f"test -e /sys/dev/block/{device}")  # not where the host keeps it in memory
    io = f"io: [{{path: {DISK}, writePerSecond: {mebibytes}MiB}}]" if there else "io: []"
    apply(
        machine,
        "apiVersion: bridge.deepseek.io/v1\nkind: NodeClass\nmetadata: {name: limited}\nspec:\n  limits:\n"
        f"    {{cpuMax: {cpus}, cpuWeight: 50, pidsMax: {processes}, memoryMax: {mebibytes}MiB, {io}}}",
    )
    rates = [f"{device} rbps=max wbps={mebibytes << 20} riops=max wiops=max"] if there else []
    return [f"{cpus * 100_000:.0f} 100000", "50", str(processes), str(mebibytes << 20), *rates]


def apply(machine: Machine, text: str, *flags: str) -> None:
    machine.sh(f"mkdir -p /root/mesh; cat > /root/mesh/class.yaml <<'END'\n{text}\nEND\n")
    machine.sh(f"bridgectl apply -f /root/mesh {' '.join(flags)} {ADMIN}")


def group(machine: Machine, pid: int) -> str:
    """The directory of a process's group in the v2 tree."""
    lines = machine.sh(f"cat /proc/{pid}/cgroup").splitlines()
    (path,) = (line.removeprefix("0::") for line in lines if line.startswith("0::"))
    return f"/sys/fs/cgroup{path}"


def held(machine: Machine, pid: int) -> list[str]:
    return machine.sh(f"cd {group(machine, pid)}; cat {' '.join(FILES)}").splitlines()


def test_limits_are_held_in_the_group_beside_the_agent_and_found_again_by_the_next(machine: Machine) -> None:
    controllers = machine.sh("cat /sys/fs/cgroup/cgroup.controllers || true").split()
    if lacking := {"cpu", "pids", "memory", "io"} - set(controllers):
        pytest.skip(f"SKIPPED LOUDLY: this machine gives its containers no v2 controller {sorted(lacking)}")
    ready(machine)
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: machine.sh("systemctl stop bridge-agent; systemctl start bridge-agent"))
        stack.callback(lambda: apply(machine, "", "--prune"))
        wanted = limits(machine, 0.5, 300, 1024)
        # It has answered before, so it waits for its next start, which this is.
        machine.sh("systemctl stop bridge-agent; systemctl start bridge-agent")
        ready(machine)
        generates(machine)
        before = engine(machine)
        machine.until(lambda: held(machine, before) == wanted, 60)
        where = group(machine, before)
        assert "/bridge-engines.service/bridge-boot1-" in where
        assert group(machine, agent(machine)).endswith("/bridge-agent.service")
        machine.sh(f"kill -KILL {agent(machine)}")
        generates(machine)
        assert engine(machine) == before
        assert group(machine, before) == where
        # The next agent holds it, too.
        wanted = limits(machine, 0.25, 400, 1536)
        machine.until(lambda: held(machine, before) == wanted, 60)
        generates(machine)
        assert int(machine.sh(f"grep -w nr_throttled {where}/cpu.stat").split()[1]) > 0
        machine.sh("systemctl stop bridge-agent")
        machine.until(lambda: not machine.ok(f"test -e {where}"), 30)
    ready(machine)


def test_a_stop_ends_the_engines_and_closes_the_sockets(machine: Machine) -> None:
    ready(machine)
    before = engine(machine)
    machine.sh("systemctl stop bridge-agent")
    assert not alive(machine, before)
    machine.until(lambda: not machine.ok("curl -s http://127.0.0.1:11434/"), 30)
    assert machine.show("bridge-agent", "ActiveState") == "inactive"
    machine.sh("systemctl start bridge-agent")
    ready(machine)
    generates(machine)


def test_leaving_removes_the_service(machine: Machine) -> None:
    ready(machine)
    before = engine(machine)
    with contextlib.ExitStack() as stack:
        stack.callback(join, machine)
        said = machine.sh("bridge-agent leave")
        assert "boot1 has left the mesh" in said
        assert machine.sh("ls /etc/systemd/system | grep bridge-agent || true") == ""
        assert not alive(machine, before)
        assert not machine.ok(f"test -e {STATE}/agent.json")
    generates(machine)


def test_what_engines_may_do_is_bounded_by_the_unit(machine: Machine) -> None:
    ready(machine)
    status = machine.sh(f"cat /proc/{engine(machine)}/status")
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status
    namespace = f"nsenter --target={engine(machine)} --mount"
    assert not machine.ok(f"{namespace} touch /usr/anything")
    assert not machine.ok(f"{namespace} touch /etc/anything")
    machine.sh(f"{namespace} touch {STATE}/models/anything; rm {STATE}/models/anything")
