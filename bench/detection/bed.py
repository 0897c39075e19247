"""A mesh of three whose node3 can have every fault: its clock, its GPU, its disk and the way to it are ours.

`bridgectl up` makes the mesh, with its real engines and a tiny model of random weights, which is made sure of
what it says (golden prompts compare only what a model is sure of). Then node3 is started anew with

* a wall clock that a file moves (libfaketime; the monotonic clock is the machine's),
* a GPU that a file takes away (`node_with_gpu`, with the fake of the tests that NVML's contract verifies),
* its models on a file system of its own, whose room is ours (a tmpfs, in this process's mount namespace),
* a relay that the others dial in its place, a process that can be stopped,
* with `failing`, an engine that answers 500 when a file says so (`engine_that_fails`).

What this machine cannot do is named in `missing`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import msgspec
import numpy as np

from bridge_agent.config import StateDir, load_config, save_config
from bridge_cli.parts import launch
from bridge_cli.up import load_layout
from bridge_engine.seed import seed
from tests.cluster.mesh_bed import NODES, Mesh, call, end_hard
from tests.support import eventually

NODE: Final = "node3"
FAR: Final = "127.0.0.33"  # where the others look for node3
MODEL: Final = "tiny"
SURE: Final = 60.0  # times as large: margins of several nats
ROOM: Final = 64 << 30
_PORTS: Final = 60  # from a mesh's first port to the next one's
_ROOT: Final = Path(__file__).parents[2]
_FAKETIME: Final = ("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1", "libfaketimeMT.so.1")


def faketime() -> str:
    """The library that moves a clock; empty: it is not here."""
    named = os.environ.get("BRIDGE_BENCH_FAKETIME", "")
    return next((one for one in (named, *_FAKETIME) if one and Path(one).exists()), "")


class Bed:
    """One mesh.

    Args:
        folder: Its own, not there yet.
        cache: Where models are made once for all beds.
        number: Which of those that run side by side, below 16.
        failing: Whether node3's engine can fail.

    Attributes:
        mesh: Its processes.
        missing: What cannot be done here, and why.
        model: What clients ask for.
        wrong: How many names of the model were used up by wrong answers.
        jumps: How often the clock jumped.
    """

    def __init__(self, folder: Path, cache: Path, *, number: int, failing: bool) -> None:
        self.folder = folder
        self.cache = cache
        self.mesh = Mesh(folder / "state")
        # Side by side they would find the same ports free.
        self.mesh.base_port = 11_000 + os.getpid() % 6 * 3000 + number * _PORTS
        self.missing: dict[str, str] = {}
        self.model = MODEL
        self._failing = failing
        self._mounted = False
        self._relay: subprocess.Popen[bytes] | None = None
        self._node: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True)
        self.clock = folder / "clock"
        self.gpu = folder / "gpu-is-lost"
        self.wrong = self.jumps = 0
        self.failures = self.mesh.state / NODE / "engines" / "0" / "home" / "failures"

    @contextlib.contextmanager
    def open(self) -> Iterator[Bed]:
        """The mesh from its start to its end."""
        try:
            self._seed()
            self.mesh.up()
            self.mesh.run("down")
            for node in NODES:
                self._one_thread(node)
            self.mesh.up()
            self._remake_node()
            yield self
        finally:
            self.mesh.kill_everything()
            if self._relay is not None:
                self._relay.kill()
                self._relay.wait()
            if self._node is not None:
                self._node.wait()
            if self._mounted:
                subprocess.run(["umount", "-l", str(self.models(NODE))], check=False)

    def models(self, node: str) -> Path:
        """A node's model store."""
        return self.mesh.state / node / "models"

    def weights(self, node: str) -> Path:
        """The file that the model's weights are in."""
        blobs = [one for one in (self.models(node) / "blobs").iterdir() if one.is_file()]
        return max(blobs, key=lambda one: one.stat().st_size)

    def relay_pid(self) -> int:
        """The process that others reach node3 through."""
        assert self._relay is not None
        return self._relay.pid

    def set_room(self, size: int) -> None:
        """How large the file system of node3's models is from now on."""
        subprocess.run(["mount", "-o", f"remount,size={size}", str(self.models(NODE))], check=True)

    def set_clock(self, ahead_s: int) -> None:
        """By how much node3's wall clock is ahead of this machine's; in one step, never half written."""
        fresh = self.clock.with_suffix(".new")
        fresh.write_text(f"{ahead_s:+d}\n")
        fresh.rename(self.clock)

    def _seed(self) -> None:
        """Every node's store, with weights of its own: nothing here may change another mesh's."""
        for node in NODES:
            store = self.models(node)
            store.mkdir(parents=True, mode=0o700)
            if node == NODE:
                self._mount(store)
            seed(store, [MODEL], self.cache)
            weights = self.weights(node)
            copy = weights.with_suffix(".copy")
            shutil.copyfile(weights, copy)
            copy.rename(weights)
            make_sure(weights)
            (self.mesh.state / node / "seeded").touch()

    def _one_thread(self, node: str) -> None:
        """An engine takes every core that there is otherwise, and there are many engines here."""
        where = StateDir(self.mesh.state / node)
        settings = load_config(where)
        engine = msgspec.structs.replace(settings.engines[0], num_thread=1)
        save_config(where, msgspec.structs.replace(settings, engines=(engine,)))

    def _mount(self, store: Path) -> None:
        words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(store)]
        ran = subprocess.run(words, capture_output=True, text=True, check=False)
        self._mounted = ran.returncode == 0
        if not self._mounted:
            self.missing["disk"] = f"no file system can be mounted: {ran.stderr.strip()}"

    def _remake_node(self) -> None:
        """Node3 anew, with what only its own settings and surroundings can give it."""
        pid = self.mesh.engine_pid(NODE)
        self.mesh.kill(NODE)
        end_hard(pid)
        where = StateDir(self.mesh.state / NODE)
        settings = load_config(where)
        peer = settings.listeners.peer
        self._relay = subprocess.Popen([sys.executable, "-m", "bench.detection.relay", FAR, peer], cwd=_ROOT)
        engine = msgspec.structs.replace(settings.engines[0], binary=self._engine_binary())
        port = peer.rpartition(":")[2]
        save_config(where, msgspec.structs.replace(settings, peer_address=f"{FAR}:{port}", engines=(engine,)))
        layout = load_layout(self.mesh.state)
        assert layout is not None
        argv, environment = launch(layout, NODE)
        environment |= {"BRIDGE_BENCH_GPU": str(self.gpu), "PYTHONPATH": os.pathsep.join(sys.path)}
        self.set_clock(0)
        if library := faketime():
            environment |= {
                "LD_PRELOAD": library,
                "FAKETIME_TIMESTAMP_FILE": str(self.clock),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "DONT_FAKE_MONOTONIC": "1",
            }
        else:
            self.missing["clock"] = "libfaketime is not here (BRIDGE_BENCH_FAKETIME names it)"
        with (self.mesh.state / "logs" / "node3-again.log").open("ab") as log:
            own = [sys.executable, "-m", "bench.detection.node_with_gpu", *argv[1:]]
            self._node = subprocess.Popen(own, stdout=log, stderr=log, env=environment, cwd=_ROOT)

    def _engine_binary(self) -> str | None:
        if not self._failing:
            return None
        script = self.folder / "engine"
        path, program = os.pathsep.join(sys.path), f'"{sys.executable}" -m bench.detection.engine_that_fails'
        script.write_text(f'#!/bin/sh\nPYTHONPATH="{path}" exec {program} "$@"\n')
        script.chmod(0o755)
        return str(script)


async def loaded(bed: Bed) -> None:
    """Returns once every node sees every engine, with the model in memory."""
    await bed.mesh.whole(120)
    for node in NODES:
        body = {"model": bed.model, "prompt": "", "keep_alive": -1}
        await eventually(lambda node=node, body=body: _loads(bed.mesh, node, body), 60)


async def _loads(mesh: Mesh, node: str, body: dict[str, object]) -> bool:
    headers = {"X-Bridge-Node": node}
    answer = await asyncio.to_thread(call, mesh.address(node), "POST", "/api/generate", body, headers)
    return answer[0] == 200


def make_sure(weights: Path) -> None:
    """A model of random weights says one thing as likely as another; afterwards it does not."""
    from gguf import GGUFReader

    tensors = {one.name: one for one in GGUFReader(weights, "r+").tensors}
    last = tensors.get("output_norm.weight")
    assert last is not None, "the model has no last norm"
    last.data[:] = np.asarray(last.data) * SURE


def mix(weights: Path) -> None:
    """Every token becomes another: the model stays well-formed, is as fast as before, and is wrong."""
    from gguf import GGUFReader

    tensors = {one.name: one.data for one in GGUFReader(weights, "r+").tensors}
    tensors["output.weight"][:] = np.roll(tensors["output.weight"], 7, axis=0)
