"""Where a hop's time goes: system calls counted by strace, samples of the processor by perf, in sockets.

`python -m bench hop-profile`, as root; with `PYTHONPATH=build/compiled` of the compiled form.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from bench import load, results
from bench.hops import certificates, ours, upstream
from bench.processes import SUBJECT_CORE, free_port, pinned

_RATE: Final = 1999  # samples a second; no multiple of what the kernel's own clock does
# Which part of a hop a file is that code was sampled in, by what its name holds; the first that fits.
_PARTS: Final = (
    ("the kernel: system calls and the network", ("[kernel", "[unknown]", "vmlinux")),
    ("TLS: OpenSSL and Python's module over it", ("libssl", "libcrypto", "_ssl.")),
    ("our code, compiled", ("bridge__mypyc",)),
    ("uvloop", ("uvloop", "loop.cpython")),
    ("parsing: httptools, msgspec", ("httptools", "parser.cpython", "msgspec", "_core.cpython")),
    ("hashing", ("_hashlib", "_blake2", "_md5", "_sha")),
    ("the interpreter and its objects", ("python3", "libpython")),
    ("libc and the loader", ("libc.so", "libc-", "ld-linux", "libpthread")),
)
_OTHER: Final = "others"


def hop_profile(folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row `hop-profile`."""
    lacking = [tool for tool in ("perf", "strace") if shutil.which(tool) is None]
    if lacking or os.geteuid():
        print(f"skipped: this needs root, and {' and '.join(lacking) or 'nothing else'}")
        return
    certificates(folder)
    parts: dict[str, Counter[str]] = {}
    calls: dict[str, Counter[str]] = {}
    with upstream(folder) as target:
        for name, roles in (("local hop", ("agent",)), ("entry and owner", ("owner", "entry"))):
            with ExitStack() as running:
                measured, port = [], target
                for role in roles:
                    behind, port = port, free_port()
                    log = folder / f"{role}.log"
                    subject = pinned(ours(role, port, behind, folder), port, core=SUBJECT_CORE, log=log)
                    measured.append(running.enter_context(subject))
                lua = load.script(folder, vary=True)
                load.wrk(port, lua, measured, connections=32, seconds=1)  # warm
                parts[name] = _sampled(folder, port, lua, measured, seconds)
                calls[name] = _called(folder, port, lua, measured, seconds)
    text = (
        "CPU µs a request, by the file that code was sampled in (perf, cpu-clock); system calls a request "
        "(strace, which slows them and does not change their number). 32 connections, no two requests alike, "
        "one core for what is measured; two hops over mutual TLS, both agents together.\n\n"
        f"{_table('part', parts, '.1f')}\n\n{_table('system call', calls, '.2f')}"
    )
    results.record("hop-profile", "Where a hop's time goes", command, versions, text)


def _sampled(folder: Path, port: int, lua: Path, measured: list, seconds: float) -> Counter[str]:
    """CPU µs a request, by part."""
    data = folder / "perf.data"
    of = ",".join(str(process.pid) for process in measured)
    command = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(_RATE), "-p", of, "-o", str(data)]
    seen = _loaded_beside(command, port, lua, measured, seconds)
    report = subprocess.run(
        ["perf", "report", "-i", str(data), "--sort", "dso", "--stdio", "-F", "sample,dso"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: Counter[str] = Counter()
    for count, file in re.findall(r"^\s*(\d+)\s+(\S+)", report, re.MULTILINE):
        part = next((name for name, signs in _PARTS if any(sign in file for sign in signs)), _OTHER)
        found[part] += int(count)
    all_of_them = max(found.total(), 1)
    return Counter({part: seen.cpu_us * count / all_of_them for part, count in found.items()})  # type: ignore[misc]  # of floats


def _called(folder: Path, port: int, lua: Path, measured: list, seconds: float) -> Counter[str]:
    """System calls a request, by name."""
    table = folder / "strace.txt"
    of = [word for process in measured for word in ("-p", str(process.pid))]
    seen = _loaded_beside(["strace", "-f", "-c", "-o", str(table), *of], port, lua, measured, seconds)
    requests = max(seen.per_second * seconds, 1)
    rows = re.findall(
        r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+)\s+(?:\d+\s+)?(\w+)$", table.read_text(), re.MULTILINE
    )
    found = {name: int(count) / requests for count, name in rows if name != "total"}
    return Counter({name: count for name, count in found.items() if count >= 0.01})  # type: ignore[misc]  # of floats


def _loaded_beside(command: list[str], port: int, lua: Path, measured: list, seconds: float) -> load.Load:
    """What was measured of a load while a command watched; it has written all it saw."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as watching:
        seen = load.wrk(port, lua, measured, connections=32, seconds=seconds)
        watching.send_signal(signal.SIGINT)
    return seen


def _table(what: str, columns: dict[str, Counter[str]], form: str) -> str:
    names = sorted(
        set().union(*columns.values()), key=lambda one: -max(each[one] for each in columns.values())
    )
    rows = [(name, *(format(each[name], form) for each in columns.values())) for name in names]
    rows.append(("all", *(format(each.total(), form) for each in columns.values())))
    return results.table((what, *columns), rows)
