"""Loading a server with wrk and reading what it says."""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.processes import LOAD_CORE, cpu_seconds

PROMPT_BYTES = 600
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


def prompt(number: int) -> bytes:
    """One of which no two are alike, in length and words, as in real traffic."""
    return b"%d" % number + b"x" * (PROMPT_BYTES - 200 + number * 7 % 400)


@dataclass(frozen=True)
class Load:
    """What one run of wrk gave; CPU time is that of the servers measured, all together."""

    per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    errors: int


def script(folder: Path, *, vary: bool = False) -> Path:
    """A wrk script that posts a generate request; `vary` makes no two alike, in length and in words."""
    path = folder / f"post-{'varied' if vary else 'same'}.lua"
    text = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
local function body(n)
  return '{{"model":"tiny","prompt":"' .. string.rep("x", n) .. '","stream":false}}'
end
wrk.body = body({PROMPT_BYTES})
"""
    if vary:
        text += f"""
local n = 0
request = function()
  n = n + 1
  local prompt = n .. string.rep("x", {PROMPT_BYTES} - 200 + n * 7 % 400)
  return wrk.format(nil, nil, nil, '{{"model":"tiny","prompt":"' .. prompt .. '","stream":false}}')
end
"""
    path.write_text(text)
    return path


def wrk(port: int, lua: Path, measured: list, *, connections: int, seconds: float) -> Load:
    """Runs wrk against a port; `measured` are the processes whose CPU time counts."""
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--latency"]
    command += ["-s", str(lua), f"http://127.0.0.1:{port}/api/generate"]
    before = sum(cpu_seconds(process) for process in measured)
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=seconds + 30)
    spent = sum(cpu_seconds(process) for process in measured) - before
    text = done.stdout
    requests = int(_find(r"(\d+) requests in", text))
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    broken = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    errors = int(failed.group(1)) if failed else 0
    if broken:
        errors += sum(map(int, broken.groups()))
    return Load(
        float(_find(r"Requests/sec:\s+([\d.]+)", text)),
        _milliseconds(_find(r"50%\s+([\d.]+\w+)", text)),
        _milliseconds(_find(r"99%\s+([\d.]+\w+)", text)),
        spent / max(requests, 1) * 1e6,
        errors,
    )


def _find(pattern: str, text: str) -> str:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"wrk said: {text[-400:]}")
    return found.group(1)


def _milliseconds(text: str) -> float:
    number, unit = re.fullmatch(r"([\d.]+)(\w+)", text).groups()  # type: ignore[union-attr]
    return float(number) * _UNITS[unit]
