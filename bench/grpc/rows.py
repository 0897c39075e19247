"""gRPC through an agent, through a relay of nothing but grpc.aio, and through Envoy, in turns.

    python -m bench grpc
    python -m bench.grpc.rows [--turns N] [--seconds S] [--of NAME=FOLDER ...]

FOLDER is as for `bench.quick`. What counts is each one's ratio to Envoy and to the relay within a turn.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple

import uvloop

from bench import configs, results
from bench.grpc import in_memory
from bench.hops import certificates, envoy_command, upstream
from bench.hops import ours as of_http
from bench.processes import LOAD_CORE, SUBJECT_CORE, cpu_seconds, envoy, free_port, pinned, work_folder
from bench.quick import COMPILED, ROOT, packages
from bench.streams import CHUNKS, EVERY_MS
from bench.subjects import LAST, TOKEN

ENVOY, RELAY = "Envoy", "bare grpc.aio relay"
UNARY, STREAM = "a call", "a message of a stream"
TURNS = 7
_LOADS = {UNARY: ("--streams", "8"), STREAM: ("--method", "PredictStream", "--streams", "16")}
_LEAST = {UNARY: 1, STREAM: (CHUNKS - 1) * len(TOKEN) + len(LAST)}
_HEAD = (
    "what",
    "through",
    "a second",
    "CPU µs each",
    "CPU against Envoy",
    "CPU against the relay",
    "p50 / p99 ms",
)


class Sample(NamedTuple):
    """One turn of one subject."""

    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


@dataclass
class Subject:
    """One thing that is loaded in turns."""

    row: str
    name: str
    port: int
    process: subprocess.Popen[bytes]
    samples: list[Sample] = field(default_factory=list)


def ours(name: str, *arguments: object) -> list[str]:
    """The command of one of `bench.grpc.subjects`."""
    return [sys.executable, "-m", "bench.grpc.subjects", name, *map(str, arguments)]


def _ours(name: str, behind: int, port: int, folder: Path) -> list[str]:
    return ours(name, port, behind, folder)


def _envoy(proxy: str, behind: int, tls: dict[str, str], port: int, folder: Path) -> list[str]:
    return envoy_command(proxy, configs.envoy(folder, port, behind, serve_tls=tls, http2=True))


@contextlib.contextmanager
def _running(folder: Path, forms: dict[str, str]) -> Iterator[list[Subject]]:
    proxy, files = envoy(), certificates(folder)
    subjects: list[Subject] = []
    with contextlib.ExitStack() as stack:

        def behind(command: Callable[[int], list[str]]) -> int:
            port = free_port()
            stack.enter_context(pinned(command(port), port, core=LOAD_CORE, log=folder / f"{port}.log"))
            return port

        def begin(row: str, name: str, command: Callable[[int, Path], list[str]], path: str | None) -> None:
            port = free_port()
            own = folder / f"{port}"  # two must not write into one audit log
            own.mkdir()
            for file in (*folder.glob("*.pem"), *folder.glob("*.key")):
                shutil.copy2(file, own)
            log = folder / f"{port}.log"
            process = stack.enter_context(
                pinned(command(port, own), port, core=SUBJECT_CORE, log=log, path=path)
            )
            subjects.append(Subject(row, name, port, process))

        engines = {
            UNARY: stack.enter_context(upstream(folder)),
            STREAM: behind(lambda port: of_http("tokens", port, CHUNKS, EVERY_MS)),
        }
        servers = {
            UNARY: behind(lambda port: ours("whole", port)),
            STREAM: behind(lambda port: ours("tokens", port, CHUNKS, EVERY_MS)),
        }
        for row in (UNARY, STREAM):
            if proxy is not None:
                begin(row, ENVOY, partial(_envoy, proxy, servers[row], files["owner"]), None)
            begin(row, RELAY, partial(_ours, "relay", servers[row]), None)
            for form, path in forms.items():
                begin(row, form, partial(_ours, "agent", engines[row]), path)
        yield subjects


def _load(subject: Subject, folder: Path, seconds: float) -> Sample:
    command = ["taskset", "-c", LOAD_CORE, sys.executable, "-m", "bench.grpc.load", str(subject.port)]
    command += [str(folder), "--seconds", str(seconds), "--least", str(_LEAST[subject.row])]
    before = cpu_seconds(subject.process)
    done = subprocess.run([*command, *_LOADS[subject.row]], capture_output=True, text=True, check=False)
    spent = cpu_seconds(subject.process) - before
    if done.returncode:
        raise RuntimeError(f"{subject.row} through {subject.name}: {done.stderr[-800:]}")
    got = json.loads(done.stdout)
    if got["errors"] or not got["answered"] or not spent:
        raise RuntimeError(f"{subject.row} through {subject.name}: {got}, {spent} s CPU")
    count = got["answered"] * (CHUNKS if subject.row == STREAM else 1)
    return Sample(count / got["seconds"], spent / count * 1e6, got["p50_ms"], got["p99_ms"])


def _rows(subjects: list[Subject]) -> list[tuple[str, ...]]:
    by_name = {(subject.row, subject.name): subject for subject in subjects}
    found = []
    for one in subjects:
        rate, cpu, p50, p99 = (statistics.median(values) for values in zip(*one.samples, strict=True))
        ratios = [
            "" if peer == one.name else _ratio(one, by_name.get((one.row, peer))) for peer in (ENVOY, RELAY)
        ]
        found.append((one.row, one.name, f"{rate:,.0f}", f"{cpu:.1f}", *ratios, f"{p50:.1f} / {p99:.1f}"))
    return found


def _ratio(one: Subject, other: Subject | None) -> str:
    if other is None:
        return ""
    turns = [mine.cpu_us / theirs.cpu_us for mine, theirs in zip(one.samples, other.samples, strict=True)]
    return f"{statistics.median(turns):.2f}× ({min(turns):.2f}–{max(turns):.2f})"


def measure(forms: dict[str, str], turns: int, seconds: float) -> str:
    """The table, and what it is of."""
    with work_folder() as folder, _running(folder, forms) as subjects:
        for subject in subjects:
            _load(subject, folder, 1)  # warm
        for turn in range(turns):
            for subject in subjects:
                subject.samples.append(_load(subject, folder, seconds))
            print(f"turn {turn + 1} of {turns}", flush=True)
        rows = _rows(subjects)
    with work_folder() as folder:
        counted = uvloop.run(in_memory.instructions(folder)).total()
    return (
        "TLS 1.3 with client certificates and HTTP/2 to the client, 4 connections, 8 calls on each (streams: "
        f"16 on each, {CHUNKS} messages, one every {EVERY_MS} ms), no two bodies alike. One core for what is "
        "measured; load generator and upstreams, of Python, together on the other: they bound how many a "
        "second there are, so CPU time is what is compared. Behind Envoy and the relay is a gRPC server, "
        "behind an agent an HTTP engine. The agent has everything on: certificate and client looked up, body "
        "peeked, policy, routing, audit record, metrics. "
        f"{turns} turns of {seconds:g} s; medians, ratios within a turn with the least and the greatest.\n\n"
        + results.table(_HEAD, rows)
        + f"\n\nIn the pure form a call takes {counted:,} instructions of the interpreter in memory.\n"
    )


def grpc(_folder: Path, seconds: float, versions: list[str], command: str) -> None:
    """The row `grpc`."""
    forms = {"agent, pure": str(ROOT)} | ({"agent, compiled": str(COMPILED)} if COMPILED.is_dir() else {})
    text = measure({name: packages(Path(folder)) for name, folder in forms.items()}, TURNS, seconds)
    print(text)
    results.record("grpc", "gRPC", command, versions, text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.grpc.rows", description=__doc__)
    parser.add_argument("--turns", type=int, default=TURNS)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--of", action="append", metavar="NAME=FOLDER", required=True)
    given = parser.parse_args()
    named = dict(pair.partition("=")[::2] for pair in given.of)
    forms = {name: packages(Path(folder)) for name, folder in named.items()}
    print(measure(forms, given.turns, given.seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
