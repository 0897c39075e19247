"""Streams that survive: a mesh under streams whose speaker dies, and a bare engine beside it.

`python -m bench survive survive-text survive-bare` runs and records them; `python -m bench.survive` runs
one with other numbers and prints each round as JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import httpx
import msgspec
import psutil

from bench import results
from bridge_agent.config import StateDir, load_config, save_config
from bridge_engine import seed
from tests.cluster.mesh_bed import NODES, TALKER, Mesh
from tests.cluster.survival import DEATHS, PATHS, SPARED, Seen, asked, one_stream, survive

Bodies = Sequence[tuple[str, dict[str, Any]]]

_WORDS = {
    "agent": "owner: SIGKILL",
    "engine": "its engine: SIGKILL",
    "runner": "its runner: SIGKILL",
    "frozen": "its runner: SIGSTOP",
    "paused": "owner: SIGSTOP",
}
_NOT_USED = ("wrk", "nginx", "Envoy")
_OLLAMA = "BRIDGE_BENCH_OLLAMA"  # names an ollama binary to compare with
_PATIENCE_S = 30.0  # of clients of a bare engine that says nothing


@dataclass(frozen=True)
class Plan:
    """How much is run.

    Attributes:
        rounds: Times that each death is died.
        streams: At once, from clients of one sidecar.
        model: Which the streams are of.
        tokens: Of each answer.
        slots: Requests that each engine decodes at a time.
        seed: Of the moments at which, and the nodes on which, processes die.
    """

    rounds: int = 20
    streams: int = 100
    model: str = "tiny"
    tokens: int = 80
    slots: int = 34
    seed: int = 1


TEXT = Plan(rounds=20, streams=4, model=TALKER, tokens=40, slots=4)
BARE = Plan(rounds=2, streams=40, slots=40)


@dataclass
class Tally:
    """What the clients of one kind of death saw."""

    streams: int = 0
    complete: int = 0
    told: int = 0
    silent: int = 0
    hung: int = 0
    resumed: int = 0
    equal: int = 0
    resumed_equal: int = 0
    pauses: list[float] = field(default_factory=list)
    errors: Counter[str] = field(default_factory=Counter)

    def count(self, seen: Sequence[Seen], expected: Sequence[Seen]) -> None:
        """Adds a round."""
        self.streams += len(seen)
        self.complete += sum(one.complete and not one.error for one in seen)
        hung = sum("ReadTimeout" in one.error for one in seen)
        self.hung += hung
        self.told += sum(bool(one.error) for one in seen) - hung
        self.silent += sum(not one.complete and not one.error for one in seen)
        for one, calm in zip(seen, expected, strict=True):
            same = one.text == calm.text
            self.equal += same
            if one.resumed:
                self.resumed += 1
                self.resumed_equal += same
                self.pauses.append(one.pause)
        self.errors.update(one.error[:120] for one in seen if one.error)


Report = Callable[[dict[str, Any]], None]
Tallies = dict[str, Tally]  # by what died; "": nothing


def survival(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `survive`; what was measured is written after each round."""
    plan = Plan()

    def write(rounds: int, tallies: Tallies) -> None:
        _record("survive", "Streams whose speaker dies", command, versions, _survived(plan, rounds, tallies))

    asyncio.run(_on_a_mesh(folder, plan, list(DEATHS), _progress, write))


def _survived(plan: Plan, rounds: int, tallies: Tallies) -> str:
    rows = [
        (_WORDS[death], one.streams, one.resumed, one.complete, one.told, one.silent, _pauses(one))
        for death, one in tallies.items()
        if death in DEATHS
    ]
    return (
        f"A mesh of three nodes as `bridgectl up` makes it, {plan.slots} slots an engine, on this machine; "
        f"{plan.streams} streams of `{plan.model}` at once, {plan.tokens} tokens each, a quarter each of "
        f"{', '.join(PATHS)}, all through node1. At a random moment a process dies on a random node that "
        f"speaks; {rounds} rounds of each death, the mesh made whole between them. All requests are "
        "resumable. Pause: the longest between two pieces of text in a continued stream.\n\n"
        + results.table(
            (
                "what dies",
                "streams",
                "continued",
                "complete",
                "told an error",
                "cut silently",
                "pause s, median / most",
            ),
            rows,
        )
    )


def texts(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `survive-text`; what was measured is written after each round."""
    plan = TEXT

    def write(rounds: int, tallies: Tallies) -> None:
        _record(
            "survive-text", "The text of continued streams", command, versions, _told(plan, rounds, tallies)
        )

    asyncio.run(_on_a_mesh(folder, plan, list(DEATHS), _progress, write))


def _told(plan: Plan, rounds: int, tallies: Tallies) -> str:
    rows = [
        (
            _WORDS.get(death, "nothing"),
            one.streams,
            f"{one.equal} of {one.streams}",
            f"{one.resumed_equal} of {one.resumed}",
        )
        for death, one in tallies.items()
    ]
    return (
        f"`{plan.model}` at temperature 0, {plan.streams} streams of {plan.tokens} tokens at once on three "
        f"nodes of {plan.slots} slots, {rounds} rounds of each death at random moments. Equal: the "
        "whole text, byte for byte, as in a first run in which nothing died. Without a death the same "
        "requests are not always equal either: the rounding depends on which requests share a batch.\n\n"
        + results.table(("what dies", "streams", "equal", "equal of the continued"), rows)
    )


def bare(folder: Path, _seconds: float, versions: list[str], command: str) -> None:
    """The row `survive-bare`."""
    plan = BARE
    rows: list[tuple[object, ...]] = []
    for kind in _engines():
        tallies = asyncio.run(_on_an_engine(kind, folder, plan, _progress))
        for death, paths in tallies.items():
            rows += [
                (
                    kind,
                    _WORDS[death].removeprefix("its "),
                    path,
                    one.streams,
                    one.complete,
                    one.told,
                    one.silent,
                    one.hung,
                )
                for path, one in paths.items()
            ]
    text = (
        f"The same clients at one engine of {plan.slots} slots without a mesh before it: {plan.streams} "
        f"streams of `{plan.model}`, {plan.rounds} rounds of each death. Cut silently: the stream ended "
        "without its terminal record and without an error. Told an error: an error in the stream, or "
        f"a connection that broke. Silent for ever: {_PATIENCE_S:g} s without a byte.\n\n"
        + results.table(
            (
                "engine",
                "what dies",
                "protocol",
                "streams",
                "complete",
                "told an error",
                "cut silently",
                "silent for ever",
            ),
            rows,
        )
    )
    _record("survive-bare", "What a bare engine's clients see", command, versions, text)


def _record(name: str, title: str, command: str, versions: list[str], text: str) -> None:
    found = [f"xllamacpp {metadata.version('xllamacpp')}", *versions]
    results.record(name, title, command, [one for one in found if not one.startswith(_NOT_USED)], text)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.survive", description=__doc__)
    for name, value in asdict(Plan()).items():
        parser.add_argument(f"--{name}", type=type(value), default=value)
    parser.add_argument("--death", action="append", choices=list(DEATHS), help="only this; may be repeated")
    parser.add_argument("--bare", action="store_true", help="ask an engine without a mesh before it")
    given = vars(parser.parse_args())
    is_bare, deaths = given.pop("bare"), given.pop("death") or list(DEATHS)
    with tempfile.TemporaryDirectory(prefix="bridge-survive-") as name:
        if is_bare:
            for kind in _engines():
                asyncio.run(_on_an_engine(kind, Path(name), Plan(**given), _print))
        else:
            asyncio.run(_on_a_mesh(Path(name), Plan(**given), deaths, _print, lambda _rounds, _tallies: None))
    return 0


async def _on_a_mesh(
    folder: Path,
    plan: Plan,
    deaths: Sequence[str],
    report: Report,
    after_round: Callable[[int, Tallies], None],
) -> None:
    """Plays the rounds; `after_round` gets how many, and what clients saw so far."""
    chance = random.Random(plan.seed)
    bodies = _bodies(plan)
    with mesh_of(folder / "state", plan.slots) as mesh:
        await _calm(mesh.url(SPARED), bodies)  # loads the model everywhere
        began = time.monotonic()
        expected = await _calm(mesh.url(SPARED), bodies)
        took = time.monotonic() - began
        again = Tally()
        again.count(await _calm(mesh.url(SPARED), bodies), expected)
        report({"death": "", "took_s": round(took, 1)} | _figures(again))
        tallies = {"": again} | {death: Tally() for death in deaths}
        for number in range(plan.rounds):
            for death in deaths:
                began = time.monotonic()
                # At any time of them: before most have begun, to when the first are about to end.
                most = int(chance.random() * 0.9 * sum(one.pieces for one in expected))
                seen = await survive(mesh, bodies, death, chance, share=0.05, pieces=most, window_s=0.1)
                played = time.monotonic() - began
                one = Tally()
                one.count(seen, expected)
                tallies[death].count(seen, expected)
                await mesh.repair()
                await mesh.whole(120)
                mended = time.monotonic() - began - played
                figures = {"round": number, "death": death, "took_s": round(played, 1)}
                report(figures | {"repair_s": round(mended, 1)} | _figures(one))
            after_round(number + 1, tallies)


def _engines() -> list[str]:
    return ["bridge-engine"] + ["ollama"] * (_OLLAMA in os.environ)


async def _on_an_engine(kind: str, folder: Path, plan: Plan, report: Report) -> dict[str, Tallies]:
    """Tallies by death and path."""
    chance = random.Random(plan.seed)
    bodies = _bodies(plan)
    models = folder / "models"
    seed.seed(models, [plan.model], folder / "cache")
    tallies = {}
    for death in ("runner", "frozen", "engine"):
        paths = tallies[death] = {path: Tally() for path in PATHS}
        for number in range(plan.rounds):
            with _engine(kind, models, folder / f"{kind}-{death}{number}", plan.slots) as (engine, url):
                await _calm(url, bodies[:1])  # loads the model
                expected = await _calm(url, bodies)
                most = int(chance.random() * 0.7 * sum(one.pieces for one in expected))
                seen = [Seen() for _ in bodies]
                async with asyncio.TaskGroup() as group:
                    group.create_task(_read(url, bodies, seen, limit_s=_PATIENCE_S))
                    while sum(one.pieces for one in seen) <= most:
                        await asyncio.sleep(0.01)
                    _end(engine, death)
                for path in PATHS:
                    own = [n for n, (asked_for, _) in enumerate(bodies) if asked_for == path]
                    one = Tally()
                    one.count([seen[n] for n in own], [expected[n] for n in own])
                    paths[path].count([seen[n] for n in own], [expected[n] for n in own])
                    report({"round": number, "engine": kind, "death": death, "path": path} | _figures(one))
    return tallies


def _end(engine: psutil.Process, death: str) -> None:
    victims = [engine] if death == "engine" else engine.children(recursive=True)
    for victim in victims:
        victim.send_signal(signal.SIGSTOP if death == "frozen" else signal.SIGKILL)


def _bodies(plan: Plan) -> Bodies:
    return [
        (path, asked(path, plan.model, f"Tell story number {number} of a fox.", plan.tokens))
        for number, path in ((number, PATHS[number % len(PATHS)]) for number in range(plan.streams))
    ]


async def _calm(url: str, bodies: Bodies) -> list[Seen]:
    seen = [Seen() for _ in bodies]
    await _read(url, bodies, seen)
    return seen


async def _read(url: str, bodies: Bodies, seen: Sequence[Seen], limit_s: float = 600) -> None:
    """Reads all streams; one that is silent for the limit is left as it is."""
    async with (
        httpx.AsyncClient(timeout=limit_s, limits=httpx.Limits(max_connections=None)) as client,
        asyncio.TaskGroup() as group,
    ):
        for (path, body), one in zip(bodies, seen, strict=True):
            group.create_task(one_stream(client, url, path, body, one))


@contextlib.contextmanager
def mesh_of(state: Path, slots: int) -> Iterator[Mesh]:
    """A mesh of three nodes whose engines have so many slots each."""
    mesh = Mesh(state)
    try:
        mesh.up()
        mesh.run("down")
        for node in NODES:
            where = StateDir(state / node)
            settings = load_config(where)
            engines = tuple(msgspec.structs.replace(one, num_parallel=slots) for one in settings.engines)
            save_config(where, msgspec.structs.replace(settings, engines=engines))
        mesh.up()
        yield mesh
    finally:
        mesh.run("down", check=False)
        mesh.kill_everything()


@contextlib.contextmanager
def _engine(kind: str, models: Path, folder: Path, slots: int) -> Iterator[tuple[psutil.Process, str]]:
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        where = f"127.0.0.1:{free.getsockname()[1]}"
    environment = dict(os.environ)
    if kind == "ollama":
        command = [os.environ[_OLLAMA], "serve"]
        environment |= {"OLLAMA_HOST": where, "OLLAMA_MODELS": str(models), "OLLAMA_CONTEXT_LENGTH": "2048"}
        environment |= {"OLLAMA_NUM_PARALLEL": str(slots), "HOME": str(folder)}
    else:
        command = [str(Path(sys.executable).parent / "bridge-engine"), "serve", "--models", str(models)]
        command += ["--listen", where, "--num-parallel", str(slots)]
    with (folder / "log").open("wb") as log:
        process = psutil.Process(subprocess.Popen(command, stdout=log, stderr=log, env=environment).pid)
    try:
        end = time.monotonic() + 60
        while not _listens(where):
            if time.monotonic() > end or not process.is_running():
                raise RuntimeError(f"{kind} did not start: {(folder / 'log').read_text()[-2000:]}")
            time.sleep(0.05)
        yield process, f"http://{where}"
    finally:
        family = [process]
        with contextlib.suppress(psutil.Error):
            family += process.children(recursive=True)
        for one in family:
            with contextlib.suppress(psutil.Error):
                one.kill()
        psutil.wait_procs(family, timeout=10)


def _listens(where: str) -> bool:
    with contextlib.suppress(httpx.HTTPError):
        return httpx.get(f"http://{where}/api/version").status_code == 200
    return False


def _pauses(tally: Tally) -> str:
    if not tally.pauses:
        return ""
    return f"{statistics.median(tally.pauses):.1f} / {max(tally.pauses):.1f}"


def _figures(tally: Tally) -> dict[str, Any]:
    figures = asdict(tally)
    figures["pauses"] = _pauses(tally)
    figures["errors"] = dict(tally.errors.most_common(3))
    return figures


def _print(figures: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def _progress(figures: dict[str, Any]) -> None:
    _print({key: value for key, value in figures.items() if value})


if __name__ == "__main__":
    sys.exit(main())
