"""What an operator reads of limits, walls and GPUs: sentences, metrics, and which class is in force."""

from __future__ import annotations

import io

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector
from rich.console import Console

from bridge_agent.engines.instance import InstanceStatus
from bridge_agent.engines.view import LocalInstance
from bridge_agent.limits.cgroup_rules import Usage
from bridge_agent.limits.default_class import UNCLASSED
from bridge_agent.limits.gpu import Gpu
from bridge_agent.limits.isolation_report import DomainReport, IsolationReport, concerns, lines
from bridge_agent.limits.live_rules import needs_restart
from bridge_agent.limits.node_isolation import in_force
from bridge_agent.status_report import (
    AgentReport,
    CertificateReport,
    SnapshotReport,
    instance_reports,
    print_report,
)
from bridge_agent.telemetry.isolation_metrics import isolation_metrics
from bridge_core.node_class import GpuSharing, IoLimit, Isolation, NodeClass, ResourceLimits
from bridge_core.snapshot import Node, Snapshot, Version, encode_entry

FULL = IsolationReport(
    "n/0",
    ("cgroup", "net"),
    {"mount": "inside a chroot"},
    "GPU-1",
    "n/gpu-1",
    oom_kills=2,
    usage=Usage(
        memory_bytes=100 << 20,
        memory_peak_bytes=299 << 20,
        cpu_seconds=12.34,
        throttled_seconds=1.5,
        pids=34,
        memory_pressure=2.5,
        cpu_pressure=40.0,
        pids_refused=3,
    ),
    node_class="strict",
    limits=ResourceLimits(memory_max=300 << 20, cpu_max=1.5, pids_max=200, cpuset="0-1", io=(IoLimit("/m"),)),
    pending="other walls stand only after its next start",
)
DOMAIN = DomainReport("n/gpu-1", ("n/0",), 1, 2, "Xid 31")
GPU = Gpu(0, "GPU-1", "H200", 140 << 30, 100 << 30, temperature_c=40, power_w=120.5, fault="it fell off")


def test_what_stands_around_an_engine_is_said_in_words() -> None:
    assert lines(FULL) == [
        "limits: memory 300 MiB, CPUs 1.5, processes 200, on CPUs 0-1, I/O of /m",
        "walls: cgroup, net",
        (
            "uses: 100 MiB of 300 MiB of memory (peak 299 MiB), 34 processes and threads, 12.3 s of CPU, "
            "held back for 1.5 s, waited for memory 2.5 % of the time, for CPUs 40 %"
        ),
        "GPU: GPU-1, falls with n/gpu-1",
    ]
    assert lines(IsolationReport("n/1")) == []


def test_what_an_operator_should_look_at_is_named() -> None:
    assert concerns([FULL, IsolationReport("n/1", fault="its GPU is gone")], [DOMAIN]) == [
        "n/0 was killed at its memory limit of 300 MiB 2 times",
        "n/0 does not yet follow its NodeClass: other walls stand only after its next start, or once drained",
        "n/0 has no wall mount: inside a chroot",
        "n/1 takes no requests: its GPU is gone",
        "n/gpu-1 fell 2 times, last: Xid 31",
    ]
    assert concerns([IsolationReport("n/1")]) == []
    filled = IsolationReport(
        "n/1", limits=ResourceLimits(disk_max=100 << 20), stored={"/home": 94 << 20, "/models": 95 << 20}
    )
    assert concerns([filled]) == [
        "n/1 has filled /models: 95 MiB of 100 MiB; remove models, or raise its diskMax"
    ]
    assert lines(filled) == ["limits: each folder 100 MiB", "stores: 94 MiB in /home, 95 MiB in /models"]


def test_every_figure_is_a_metric() -> None:
    class Page(Collector):
        def collect(self):
            return isolation_metrics([FULL, IsolationReport("n/1")], [GPU], [DOMAIN])

    registry = CollectorRegistry()
    registry.register(Page())
    samples = {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }
    assert samples["bridge_engine_memory_bytes", ("n/0",)] == 100 << 20
    assert samples["bridge_engine_memory_limit_bytes", ("n/0",)] == 300 << 20
    assert samples["bridge_engine_oom_kills_total", ("n/0",)] == 2
    assert samples["bridge_engine_oom_kills_total", ("n/1",)] == 0
    assert samples["bridge_engine_cpu_throttled_seconds_total", ("n/0",)] == 1.5
    assert samples["bridge_engine_processes_refused_total", ("n/0",)] == 3
    assert samples["bridge_engine_cpu_pressure_percent", ("n/0",)] == 40
    assert samples["bridge_engine_wall", ("n/0", "net")] == 1
    assert samples["bridge_engine_wall", ("n/0", "mount")] == 0
    assert samples["bridge_gpu_temperature_celsius", ("GPU-1",)] == 40
    assert samples["bridge_gpu_fault", ("GPU-1",)] == 1
    assert samples["bridge_mps_faults_total", ("n/gpu-1",)] == 2
    assert ("bridge_engine_memory_bytes", ("n/1",)) not in samples
    assert ("bridge_gpu_utilization_percent", ("GPU-1",)) not in samples


def test_status_prints_limits_walls_gpus_and_concerns() -> None:
    life = InstanceStatus("n/0", "llamacpp", False, "ready", 1.0, "", 0, 1, False, 77, "h:1", "log", [])
    view = LocalInstance("n/0", "h", 1, "ready")
    snapshot = Snapshot(Version(1, 2), {})
    report = AgentReport(
        "n",
        "mesh.test",
        "1",
        1,
        "serving",
        0.0,
        {},
        SnapshotReport.of(snapshot),
        CertificateReport("aa", 9.0),
        (),
        instance_reports([view], [life], [FULL]),
        "strict",
        "the mesh",
        tuple(concerns([FULL])),
        (GPU,),
        (DOMAIN,),
    )
    page = io.StringIO()
    print_report(report, Console(file=page, width=200), now=1.0)
    text = page.getvalue()
    assert "NodeClass strict, from the mesh" in text
    assert "n/0 limits: memory 300 MiB" in text
    assert "GPU 0 H200 GPU-1, 100 GiB of 140 GiB free, 40 °C, 120 W, MAY NOT BE USED: it fell off" in text
    assert "MPS n/gpu-1: n/0" in text
    assert "! n/0 was killed at its memory limit of 300 MiB 2 times" in text


def test_a_nodes_class_is_its_own_then_the_meshs_then_none() -> None:
    entries = {
        "node/n": encode_entry(Node("n", labels={"gpu": "yes"})),
        "nodeclass/g": encode_entry(NodeClass("g", {"gpu": "yes"})),
        "nodeclass/t": encode_entry(NodeClass("t", {"told": "here"})),
    }
    mesh = Snapshot(Version(1, 1), entries)
    own = NodeClass("own")
    assert in_force(mesh, "n", {}, own) is own
    assert in_force(mesh, "n", {"told": "here"}).name == "g"  # the mesh knows the node's labels better
    assert in_force(mesh, "new", {"told": "here"}).name == "t"
    assert in_force(mesh, "new", {}) == UNCLASSED


def test_limits_follow_a_running_engine_and_walls_and_gpus_do_not() -> None:
    old = NodeClass(limits=ResourceLimits(memory_max=1 << 30, io=(IoLimit("/m", 1),)))
    same = NodeClass("other name", {"a": "b"}, old.limits)
    assert needs_restart(old, same) == ""
    more = NodeClass(limits=ResourceLimits(memory_max=2 << 30, pids_max=9, io=(IoLimit("/m", 2),)))
    assert needs_restart(old, more) == ""
    assert needs_restart(NodeClass(), old) == ""
    small, large = NodeClass(limits=ResourceLimits(disk_max=1)), NodeClass(limits=ResourceLimits(disk_max=2))
    assert needs_restart(small, large) == ""
    assert "from its next start on" in needs_restart(NodeClass(), small)
    assert "disk_max can be lifted only" in needs_restart(small, NodeClass())
    assert needs_restart(old, NodeClass()) == "memory_max, io of /m can be lifted only at its next start"
    assert "other walls" in needs_restart(old, NodeClass(limits=old.limits, isolation=Isolation(("net",))))
    assert "GPU" in needs_restart(old, NodeClass(limits=old.limits, gpu=GpuSharing()))
