"""A large model onto a GPU: cold, warm, warmed because a route names it; what that costs a running engine.

    python -m bench.gpu_warm --llama-server PATH --folder DIR MODEL.gguf OTHER.gguf

MODEL and OTHER are files of their own, larger than what the machine reads in a moment; both lie in DIR in a
store's form afterwards, as hard links. Takes root: it drops the machine's caches. Prints what it measures,
and of the last load of each kind when the server said what it says on its way.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import threading
import time
import urllib.request
from pathlib import Path

from bridge_agent.engines.view import LocalInstance
from bridge_agent.models import page_cache
from bridge_agent.models.programs import ProgramFiles
from bridge_agent.models.warming import Warming
from bridge_agent.routing.view import MeshView
from bridge_core.model_store.layout import MEDIA, Layer, Manifest, ModelStore
from bridge_core.names import ModelName
from bridge_core.proc import read_stat
from bridge_core.snapshot import Backend, MemberModel, Route, Snapshot, Version, encode_entry

PORT = 9911
MARKS = (
    *(b"ggml_cuda_init", b"Device 0", b"load_model", b"loaded meta", b"load_tensors", b"warming up"),
    *(b"llama_context:", b"KV", b"graph_reserve", b"listening", b"model loaded", b"init:", b"build"),
)
TOKENS = 300


class Bed:
    """A store of two models, and a server that loads the first."""

    def __init__(self, server: Path, folder: Path, files: list[Path]) -> None:
        self.server = server
        self.store = ModelStore(folder)
        self.programs = ProgramFiles(None, folder)
        self.paths = [self._put(at, file) for at, file in enumerate(files)]

    def _put(self, at: int, file: Path) -> Path:
        digest = f"sha256:{at + 1:064x}"  # nothing here looks whether it is
        path = self.store.blob_path(digest)
        path.hardlink_to(file)
        config, _ = self.store.add_blob("config", b"{}")
        weights = Layer(media_type=f"{MEDIA}model", digest=digest, size=path.stat().st_size)
        self.store.write_manifest(
            ModelName.parse(f"team/m{at}:v1"), Manifest(config=config, layers=[weights])
        )
        return path

    def load(self, what: str, *, told: bool = False) -> None:
        """Measures from the start of the server to the first token."""
        before, began = resident(self.paths[0]), time.monotonic()
        process = self.started()
        ready = time.monotonic() - began
        ask(1)
        took = time.monotonic() - began
        print(f"{what}: {took:.2f} s, ready after {ready:.2f}; {before:.0%} of it were cached", flush=True)
        if told:
            self.programs.learn([one_process(process.pid)])
        process.terminate()
        process.wait()
        self.said.join()
        if told:
            print(f"  {len(self.programs.files)} files of {self.programs.total() >> 20} MiB are its program")
            for at, line in self.lines:
                print(f"  {at - began:6.3f} {line}", flush=True)

    def started(self) -> subprocess.Popen[bytes]:
        """A server that is ready."""
        argv = [
            str(self.server),
            "-m",
            str(self.paths[0]),
            "-ngl",
            "99",
            "-c",
            "2048",
            "-np",
            "1",
            "--port",
            str(PORT),
        ]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        self.lines: list[tuple[float, str]] = []
        self.said = threading.Thread(target=self._read, args=(process,))
        self.said.start()
        while process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{PORT}/health", timeout=5).read()
            except OSError:
                time.sleep(0.02)
            else:
                return process
        raise SystemExit(f"the server ended with {process.returncode}")

    def _read(self, process: subprocess.Popen[bytes]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            if any(mark in line for mark in MARKS):
                self.lines.append((time.monotonic(), line.decode("utf-8", "replace").strip()[:100]))

    def warm(self, at: int) -> None:
        """Has an agent's warming look once, in a mesh whose one route names the model."""
        name = f"team/m{at}:v1"
        route = Route("chat", (Backend(name),))
        view = MeshView("gpu", Snapshot(Version(1, 1), {"route/chat": encode_entry(route)}))
        instance = LocalInstance("gpu/0", "127.0.0.1", 1, "ready", (MemberModel(name),))
        warming = Warming(
            self.store.root,
            lambda: self.store,
            view,
            configured=1 << 50,  # as much as is free: two such models are more than half of it
            instances=lambda: (instance,),
            loading=lambda: False,
            changed=lambda: None,
            programs=self.programs,
        )
        began = time.monotonic()
        asyncio.run(warming.look())
        took, share = time.monotonic() - began, resident(self.paths[at])
        print(f"read {share:.0%} of {name} in {took:.1f} s", flush=True)


def one_process(pid: int) -> tuple[int, int]:
    found = read_stat(pid)
    if found is None:
        raise SystemExit("the server ended")
    return pid, found.start_time


def resident(path: Path) -> float:
    with path.open("rb") as file:
        return page_cache.resident(file.fileno()) or 0.0


def drop(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    Path("/proc/sys/vm/drop_caches").write_text("3")


def ask(tokens: int) -> float:
    """Tokens a second of one answer."""
    body = {"prompt": "hello", "n_predict": tokens, "ignore_eos": True, "temperature": 0}
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}/completion", json.dumps(body).encode(), {"content-type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return float(json.load(answer)["timings"]["predicted_per_second"])


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--llama-server", type=Path, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("files", type=Path, nargs=2)
    given = parser.parse_args()
    bed = Bed(given.llama_server, given.folder, given.files)
    bed.load("first, which sets the GPU up")
    for at in range(given.rounds):
        drop(bed.paths[0])
        bed.load("cold", told=at == given.rounds - 1)
    for at in range(given.rounds):
        bed.load("warm", told=at == given.rounds - 1)
    programs, bed.programs = bed.programs, ProgramFiles(None, given.folder)
    drop(bed.paths[0])
    bed.warm(0)
    bed.load("warmed, and not the server's own program")
    bed.programs = programs
    for at in range(given.rounds):
        drop(bed.paths[0])
        bed.warm(0)
        bed.load("warmed", told=at == given.rounds - 1)
    process = bed.started()
    ask(50)
    alone, beside = [ask(TOKENS) for _ in range(3)], []
    for _ in range(given.rounds):
        drop(bed.paths[1])
        reading = threading.Thread(target=bed.warm, args=(1,))
        reading.start()
        while reading.is_alive():
            beside.append(ask(TOKENS))
    print("tokens/s alone", alone, "beside the warming", beside)
    process.terminate()
    process.wait()


if __name__ == "__main__":
    main()
