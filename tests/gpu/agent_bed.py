"""The part of an agent that runs engines on GPUs, put together as `app.py` does, on this machine's GPU."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.engines.view import LocalInstance
from bridge_agent.limits.cgroup import open_cgroups
from bridge_agent.limits.gpu import GpuInventory
from bridge_agent.limits.gpus import GpuKeeper
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_agent.limits.nvml import open_inventory
from bridge_core.model_store.layout import ModelStore
from bridge_core.names import ModelName
from bridge_core.node_class import GpuSharing, Isolation, NodeClass, ResourceLimits
from bridge_engine.modelgen import LlamaShape, generate
from bridge_engine.store.create import create
from tests.support import eventually

WALLS = ("mount", "pid", "ipc", "uts", "capabilities", "no_new_privs")
SMALL = LlamaShape(
    layers=16, width=1024, heads=16, kv_heads=4, feed_forward=2816, vocabulary=32_000, context_length=8192
)
FOLDER = Path(__file__).parent
ROOT = FOLDER.parent.parent


def llama_server() -> str | None:
    """A llama-server built with CUDA."""
    return os.environ.get("BRIDGE_TEST_LLAMA_SERVER") or shutil.which("llama-server-cuda")


def without_gpu() -> str:
    """Why GPU tests cannot run here; empty where they can."""
    inventory, reason = open_inventory()
    found = inventory.read()
    inventory.close()
    if not found:
        return reason or "this machine has no NVIDIA GPU"
    if llama_server() is None:
        return "no llama-server with CUDA: name one in BRIDGE_TEST_LLAMA_SERVER"
    return ""


def cuda(*arguments: str, env: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """Starts `cuda_client.py`."""
    return subprocess.Popen(
        [sys.executable, str(FOLDER / "cuda_client.py"), *arguments],
        env={**os.environ, **(env or {})},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def make_store(folder: Path, name: str, shape: LlamaShape = SMALL, weights: str = "f16") -> Path:
    """An Ollama store with one generated model."""
    store = ModelStore(folder)
    file = folder / "model.gguf"
    generate(file, shape, weights=weights)
    with file.open("rb") as data:
        digest = "sha256:" + hashlib.file_digest(data, "sha256").hexdigest()
    file.rename(store.blob_path(digest))
    for _ in create(
        store, ModelName.parse(name), {"model": name, "files": {"m": digest}}, lambda _: iter(())
    ):
        pass
    return folder


def real_engine(folder: Path, index: int, store: Path, threads: int | None = 1) -> EngineConfig:
    """`bridge-engine` over the CUDA build, one model at a time."""
    binary = folder / "bridge-engine"
    binary.write_text(f'#!/bin/sh\nexec {sys.executable} -m bridge_engine.cli "$@"\n')
    binary.chmod(0o755)
    paths = [ROOT / part for part in ("agent", "registry", "core", "protos")]
    inherited = [
        path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if Path(path).is_absolute()
    ]
    return EngineConfig(
        index=index,
        binary=str(binary),
        models_dir=str(store),
        llama_server=llama_server(),
        num_parallel=1,
        num_thread=threads,
        context_length=2048,
        max_loaded=1,
        keep_alive="-1",
        env={"PYTHONPATH": os.pathsep.join([*map(str, paths), *inherited])},
    )


def faulty_engine(index: int) -> EngineConfig:
    """An engine that writes wildly on demand."""
    binary = str(FOLDER / "faulty_engine.py")
    return EngineConfig(index=index, kind="ollama", binary=binary, env={"PYTHONPATH": str(ROOT)})


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder with a short name: the sockets of MPS lie in it."""
    with tempfile.TemporaryDirectory(prefix="bridge-gpu-", dir="/tmp") as folder:
        yield Path(folder)


class Late:
    """The supervisor, before there is one."""

    def __init__(self) -> None:
        self.supervisor: EngineSupervisor | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.supervisor, name)


class GpuAgent:
    """Engines on GPUs, their launcher and the keeper.

    Args:
        folder: For all files; the agent's state is in `state`.
        configs: The engines.
        sharing: How they share GPUs.
        inventory: The GPUs; None: this machine's.
        walls: What is put up around engines.
        keeping: More of the keeper's.
        options: The supervisor's.
    """

    def __init__(
        self,
        folder: Path,
        configs: Sequence[EngineConfig],
        sharing: GpuSharing,
        *,
        inventory: GpuInventory | None = None,
        walls: Sequence[str] = WALLS,
        keeping: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        state = folder / "state"
        state.mkdir(parents=True, exist_ok=True)
        engines = Late()
        self.keeper = GpuKeeper(
            open_inventory()[0] if inventory is None else inventory,
            without="",
            folder=state / "mps",
            node="n1",
            instances=[(f"n1/{config.index}", config.gpus) for config in configs],
            sharing=sharing,
            engines=engines,
            **(keeping or {}),
        )
        cgroups, lacking = open_cgroups(f"gputest-{os.getpid()}") if walls else (None, "none is asked for")
        limits = ResourceLimits(pids_max=512) if cgroups is not None else ResourceLimits()
        node_class = NodeClass(isolation=Isolation(walls=tuple(walls)), limits=limits, gpu=sharing)
        self.launcher = IsolatedLauncher(
            state, node_class=node_class, cgroups=cgroups, without=lacking, devices=self.keeper
        )
        self.seen: tuple[LocalInstance, ...] = ()
        self.supervisor = engines.supervisor = EngineSupervisor(
            configs, state, self._see, node="n1", launcher=self.launcher, **options
        )
        self.mps = state / "mps"

    def _see(self, instances: tuple[LocalInstance, ...]) -> None:
        self.seen = instances

    def view(self, number: int) -> LocalInstance:
        return self.seen[number]

    async def ready(self, *numbers: int, deadline_s: float = 60.0) -> None:
        await eventually(lambda: all(self.view(n).state == "ready" for n in numbers), deadline_s)

    async def call(self, number: int, path: str, body: dict[str, Any], timeout_s: float = 60.0) -> Any:
        """POSTs to an engine."""
        one = self.view(number)
        client = EngineClient(one.host, one.port, one.network_pid)
        try:
            async with asyncio.timeout(timeout_s):
                return await client._call("POST", path, dict[str, Any], body)
        finally:
            await client.close()

    async def generate(self, number: int, tokens: int, model: str = "m") -> int:
        """How many tokens an engine gave."""
        options = {"num_predict": tokens, "num_gpu": 99, "temperature": 0, "num_ctx": 2048}
        body = {
            "model": model,
            "prompt": "hello there " * 8,
            "raw": True,
            "stream": False,
            "options": options,
        }
        answer = await self.call(number, "/api/generate", body, timeout_s=120.0)
        return int(answer["eval_count"])

    async def back(self, numbers: Sequence[int], began: float, deadline_s: float = 60.0) -> float:
        """Seconds after `began` until each of the engines has generated a token again."""

        async def one(number: int) -> None:
            while True:
                with contextlib.suppress(Exception):
                    if self.view(number).state == "ready" and await self.generate(number, 1):
                        return
                await asyncio.sleep(0.02)

        async with asyncio.timeout(deadline_s):
            await asyncio.gather(*(one(number) for number in numbers))
        return time.monotonic() - began

    def logs(self) -> str:
        """All that MPS logged."""
        return "\n".join(f"{path}:\n{path.read_text()}" for path in sorted(self.mps.glob("*/log/*.log")))

    @contextlib.asynccontextmanager
    async def running(self, *, leave: bool = False) -> AsyncIterator[GpuAgent]:
        """Runs it; at the end stops everything, or with `leave` goes away as a restarting agent does."""
        keeper = asyncio.create_task(self.keeper.run())
        launcher = asyncio.create_task(self.launcher.run())
        engines = asyncio.create_task(self.supervisor.run())
        try:
            await eventually(lambda: self.seen)
            yield self
        finally:
            if leave:
                self.keeper.leave()
                engines.cancel()
            else:
                await self.supervisor.stop()
                await engines
            for task in (engines, keeper, launcher):
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
