"""The headline figures in minutes: forms of this code against Envoy, in turns, with their spread.

    python -m bench.quick [--turns N] [--seconds S] [--row ROW ...] [--of NAME=FOLDER ...]

Every subject is loaded for a moment, one after the other, again and again, so that whatever else the machine
does meets all of them; what counts is each one's ratio to Envoy (and to the first form) within a turn. FOLDER
is a checkout, or an unpacked wheel as `make compiled` leaves one: two checkouts are a before and an after,
each put together by its own bench, since parts had other signatures before. Without `--of` this checkout
runs as it is and, where `make compiled` was run, compiled. Where neighbours take the processor now and then,
many short turns of one row say more than few long ones of all: the middle half of them is told, too.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import NamedTuple, TypeAlias

from bench import configs, load, results
from bench.hops import certificates, envoy_command, ours, upstream
from bench.processes import (
    SUBJECT_CORE,
    UPSTREAM_CORE,
    can_load,
    envoy,
    free_port,
    missing,
    pinned,
    version,
    work_folder,
)
from bench.streams import CHUNKS, EVERY_MS, STREAMS

ROOT = Path(__file__).resolve().parent.parent
COMPILED = ROOT / "build" / "compiled"
ENVOY = "Envoy"
LOCAL, AGAIN, HOPS, TOKENS = (
    "local hop",
    "local hop, the same request again",
    "two hops over mutual TLS",
    "a relayed token",
)
ROWS = (LOCAL, AGAIN, HOPS, TOKENS)
_HEAD = (
    "what",
    "form",
    "a second",
    "CPU µs each",
    "against Envoy: rate, CPU",
    "against the first form: rate, CPU",
)
_SAY_FORM = """
from importlib import import_module, util
known = util.find_spec("bridge_core.form")
print(import_module("bridge_core.form").form().words if known else "pure Python")
"""
_PROGRAMS = ("core", "agent", "registry", "engine", "cli", "protos")  # where a checkout has its packages

Started: TypeAlias = tuple["subprocess.Popen[bytes]", int]  # and the port that it listens on


@dataclass
class Subject:
    """One thing that is loaded in turns; a sample is how many a second, and CPU µs each."""

    row: str
    form: str
    port: int
    processes: list[subprocess.Popen[bytes]]
    samples: list[tuple[float, float]] = field(default_factory=list)


def packages(folder: Path) -> str:
    """The PYTHONPATH by which the packages of a checkout, or of an unpacked wheel, are found, and its bench.

    Raises:
        SystemExit: it is neither.
    """
    folder = folder.resolve()
    if (folder / "core" / "bridge_core").is_dir():
        return os.pathsep.join([*(str(folder / program) for program in _PROGRAMS), str(folder)])
    if (folder / "bridge_core").is_dir():
        return os.pathsep.join([str(folder), str(ROOT)])
    raise SystemExit(f"{folder} has no bridge_core: name a checkout or an unpacked wheel")


class _Makers(NamedTuple):
    """The commands of one form: a port to listen on, and the port of what is behind."""

    hop: Callable[[int, int], list[str]]
    owner: Callable[[int, int], list[str]]
    entry: Callable[[int, int], list[str]]
    path: str | None = None


def _envoys(proxy: str, folder: Path, files: dict[str, dict[str, str]]) -> _Makers:
    def made(port: int, behind: int, **tls: dict[str, str]) -> list[str]:
        return envoy_command(proxy, configs.envoy(folder, port, behind, **tls))

    return _Makers(made, partial(made, serve_tls=files["owner"]), partial(made, speak_tls=files["entry"]))


def _gateways(folder: Path, path: str) -> _Makers:
    def made(role: str, port: int, behind: int) -> list[str]:
        own = folder / f"{role}-{port}"  # two must not write into one audit log
        own.mkdir()
        for file in (*folder.glob("*.pem"), *folder.glob("*.key")):
            shutil.copy2(file, own)
        python, *rest = ours(role, port, behind, own)
        return [python, "-P", *rest]  # the folder that this runs in has a bench, too

    return _Makers(partial(made, "agent"), partial(made, "owner"), partial(made, "entry"), path)


@contextlib.contextmanager
def _running(folder: Path, forms: dict[str, str], rows: Collection[str]) -> Iterator[list[Subject]]:
    """All that is measured, started; what is idle costs the one that is loaded next to nothing."""
    proxy, files = envoy(), certificates(folder)
    makers = {} if proxy is None else {ENVOY: _envoys(proxy, folder, files)}
    makers |= {form: _gateways(folder, path) for form, path in forms.items()}
    subjects: list[Subject] = []
    with contextlib.ExitStack() as stack:

        def start(make: Callable[[int, int], list[str]], behind: int, path: str | None) -> Started:
            port = free_port()
            log = folder / f"{port}.log"
            command = make(port, behind)
            return stack.enter_context(pinned(command, port, core=SUBJECT_CORE, log=log, path=path)), port

        target, stream = stack.enter_context(upstream(folder)), free_port()
        tokens = ours("tokens", stream, CHUNKS, EVERY_MS)
        stack.enter_context(pinned(tokens, stream, core=UPSTREAM_CORE, log=folder / "tokens.log"))
        for form, make in makers.items():
            if {LOCAL, AGAIN} & set(rows):
                hop, port = start(make.hop, target, make.path)
                subjects += [Subject(row, form, port, [hop]) for row in (LOCAL, AGAIN) if row in rows]
            if HOPS in rows:
                owner, port = start(make.owner, target, make.path)
                entry, port = start(make.entry, port, make.path)
                subjects.append(Subject(HOPS, form, port, [owner, entry]))
            if TOKENS in rows:
                relay, port = start(make.hop, stream, make.path)
                subjects.append(Subject(TOKENS, form, port, [relay]))
        yield subjects


def _load(subject: Subject, folder: Path, seconds: int) -> tuple[float, float]:
    """One sample."""
    streams = subject.row == TOKENS
    lua = load.script(folder, vary=not streams and subject.row != AGAIN)
    connections = STREAMS if streams else 32
    got = load.wrk(subject.port, lua, subject.processes, connections=connections, seconds=seconds)
    if got.errors:
        raise RuntimeError(f"{subject.row}, {subject.form}: {got.errors} requests failed")
    if not got.cpu_us:
        raise RuntimeError(
            f"{subject.row}, {subject.form}: too short to tell its CPU time; ask for more --seconds"
        )
    each = CHUNKS if streams else 1
    return got.per_second * each, got.cpu_us / each


def _rows(subjects: list[Subject]) -> list[tuple[str, ...]]:
    """A line each: the medians, and the ratios within a turn to Envoy and to the first form."""
    found = []
    firsts: dict[str, Subject] = {}
    envoys = {subject.row: subject for subject in subjects if subject.form == ENVOY}
    for subject in sorted(subjects, key=lambda one: ROWS.index(one.row)):
        rate, cpu = (statistics.median(values) for values in zip(*subject.samples, strict=True))
        beside = [envoys.get(subject.row)] if subject.form != ENVOY else [None]
        beside.append(firsts.get(subject.row))
        if subject.form != ENVOY:
            firsts.setdefault(subject.row, subject)
        ratios = ["" if other is None else _ratios(subject, other) for other in beside]
        found.append((subject.row, subject.form, f"{rate:,.0f}", f"{cpu:.1f}", *ratios))
    return found


def _ratios(one: Subject, other: Subject) -> str:
    """Requests a second, then CPU: the turns' median ratio, their middle half and their ends."""
    words = []
    for place in (0, 1):
        turns = [a[place] / b[place] for a, b in zip(one.samples, other.samples, strict=True)]
        low, middle, high = statistics.quantiles(turns, n=4, method="inclusive")
        words.append(f"{middle:.2f}× ({low:.2f}–{high:.2f}; {min(turns):.2f}–{max(turns):.2f})")
    return ", ".join(words)


def _turns(text: str) -> int:
    """Quartiles of one turn are none."""
    if (turns := int(text)) < 2:
        raise argparse.ArgumentTypeError("two turns at least")
    return turns


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench.quick",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--turns", type=_turns, default=5, help="how often each is loaded (default 5)")
    parser.add_argument("--seconds", type=int, default=1, help="for how long, each time (default 1)")
    parser.add_argument("--row", action="append", choices=ROWS, help="a row to measure, of all")
    parser.add_argument("--of", action="append", metavar="NAME=FOLDER", help="a form to measure")
    arguments = parser.parse_args()
    for hint in missing():
        print(f"missing: {hint}", file=sys.stderr)
    if not can_load():
        return 1
    named = dict(pair.partition("=")[::2] for pair in arguments.of or ())
    if not named:
        named = {"pure": str(ROOT)} | ({"compiled": str(COMPILED)} if COMPILED.is_dir() else {})
    forms = {name: packages(Path(folder)) for name, folder in named.items()}
    with work_folder() as folder, _running(folder, forms, arguments.row or ROWS) as subjects:
        for subject in subjects:
            _load(subject, folder, 1)  # warm
        for _ in range(arguments.turns):
            for subject in subjects:
                subject.samples.append(_load(subject, folder, arguments.seconds))
        rows = _rows(subjects)
    for form, path in forms.items():
        print(f"{form}: {version([sys.executable, '-c', _SAY_FORM], path)}")
    print(f"{arguments.turns} turns; ratios are the turns' median, their middle half and their ends.\n")
    print(results.table(_HEAD, rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
