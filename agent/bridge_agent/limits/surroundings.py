"""What this machine has for isolation, and what an engine behind a wall of mounts sees of its disk."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import os
import shutil
import subprocess
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bridge_agent.engines.proc import place_of
from bridge_agent.engines.process import LaunchSpec
from bridge_agent.limits.cgroup import Cgroups, open_cgroups
from bridge_agent.limits.gpu import GpuInventory, NoGpus
from bridge_agent.limits.isolation import Mounts

_HELPER_S: Final = 10.0  # a driver that has to be loaded first takes seconds
# Where other parts of the Bridge keep keys.
_PRIVATE = ("/var/lib/bridge", "/etc/bridge", "/run/bridge")


def engine_groups(node: str, state_dir: Path) -> tuple[Cgroups | None, str]:
    """Groups for a node's engines; None, and a sentence why, where there can be none.

    Args:
        node: The node's name.
        state_dir: The agent's state folder: of two agents that have the same node name on one
            machine (two meshes, or containers that share their control group), each keeps to its own groups.
    """
    try:
        mark = hashlib.sha256(place_of(state_dir).encode()).hexdigest()[:8]
        return open_cgroups(f"{node}-{mark}")
    except OSError as fault:
        return None, f"{fault.filename}: {fault.strerror}"


def open_gpus() -> tuple[GpuInventory, str]:
    """The machine's GPUs; none, and why, where there is no driver for any."""
    try:
        ctypes.CDLL("libnvidia-ml.so.1")
    except OSError:
        return NoGpus(), "there is no NVIDIA driver here (libnvidia-ml.so.1)"
    from bridge_agent.limits.nvml import open_inventory  # 6 MiB that a machine without GPUs keeps

    _make_devices()
    return open_inventory()


def _make_devices() -> None:
    """Makes CUDA's device files, which engines behind the wall no_new_privs can no longer make themselves."""
    helper = shutil.which("nvidia-modprobe")
    if os.geteuid() != 0 or helper is None or Path("/dev/nvidia-uvm").exists():
        return
    with contextlib.suppress(OSError, subprocess.TimeoutExpired):
        subprocess.run([helper, "-u", "-c=0"], timeout=_HELPER_S, check=False, stdin=subprocess.DEVNULL)


def mounts(spec: LaunchSpec, state_dir: Path, shared: Iterable[str], tmp_bytes: int) -> Mounts:
    """Its home and its models writable, the agent's state and other engines hidden.

    Its own folder it only reads: what lies there tells the next agent which process to take for this
    engine, and the agent moves the log about, so an engine that could write there could point both
    at something else.

    Args:
        spec: What is started.
        state_dir: The agent's state folder.
        shared: Folders that it shares with others, writable.
        tmp_bytes: Size of its private /tmp.
    """
    hidden = tuple(dict.fromkeys([*(path for path in _PRIVATE if Path(path).is_dir()), str(state_dir)]))
    writable = tuple(dict.fromkeys([str(spec.folder / "home"), *map(str, spec.writable), *shared]))
    readable = [path for path in (str(spec.folder), *_needed(spec)) if not _below(path, writable)]
    return Mounts(readable=tuple(readable), writable=writable, hidden=hidden, tmp_bytes=tmp_bytes)


def _needed(spec: LaunchSpec) -> list[str]:
    """What it opens besides what every program of ours does, wherever that lies."""
    paths = [*map(str, spec.readable), *spec.env.get("PYTHONPATH", "").split(os.pathsep)]
    # os.path's, for pathlib's raises where the way there is closed to this user.
    found = {str(Path(path).absolute()): None for path in paths if path and os.path.exists(path)}  # noqa: PTH110
    return list(found)


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path == folder or path.startswith(f"{folder}/") for folder in folders)
