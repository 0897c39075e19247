"""Measures one choice through real engines, started as the agent starts them, in a folder of their own."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, Final

import msgspec
import structlog

from bridge_agent.engines.address import engine_address
from bridge_agent.engines.client import EngineClient
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.supervisor import EngineSupervisor
from bridge_agent.engines.view import LocalInstance
from bridge_agent.health.probe_rules import ProbePolicy
from bridge_agent.limits.gpu import GpuInventory
from bridge_agent.limits.gpus import GpuKeeper
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_agent.tuning.records import Choice, Measured
from bridge_core.errors import BridgeError
from bridge_core.http1 import Pool, PoolLimits
from bridge_core.node_class import GpuSharing, Isolation, NodeClass

log = structlog.get_logger()

# Different words for every slot: a cached prompt would make the first token look free.
PROMPT_WORDS: Final = 120
START_S: Final = 60.0


class Bench:
    """How choices are measured.

    Args:
        config: The engine to vary; its model store is read and left as it is.
        models: The model store.
        model: Which model answers.
        context: Tokens of context of each slot.
        tokens: How many each request asks for.
        gpus: Opens the node's GPUs, for each measurement anew; None: on CPUs.
        device: Which of them.
    """

    def __init__(
        self,
        config: EngineConfig,
        models: Path,
        model: str,
        *,
        context: int,
        tokens: int,
        gpus: Callable[[], GpuInventory] | None = None,
        device: str | None = None,
    ) -> None:
        self._config = config
        self._models = models
        self._model = model
        self._context = context
        self._tokens = tokens
        self._gpus = gpus
        self._device = device

    async def measure(self, choice: Choice, limit_s: float) -> Measured:
        """What a choice gives; a fault where it cannot be run, or not within `limit_s`."""
        try:
            async with asyncio.timeout(limit_s):
                # In a short folder: the sockets of MPS have short paths.
                with tempfile.TemporaryDirectory(prefix="bridge-tune-") as folder:
                    async with self._engines(choice, Path(folder)) as engines:
                        return await self._load(choice, engines)
        except TimeoutError:
            return Measured(fault=f"took longer than {limit_s:.0f} s")
        except BridgeError as fault:
            return Measured(fault=str(fault))

    async def _load(self, choice: Choice, engines: list[LocalInstance]) -> Measured:
        for engine in engines:
            client = EngineClient(engine.host, engine.port, engine.network_pid)
            try:
                await client.load(self._model)
            finally:
                await client.close()
        pools = [
            Pool(
                engine_address(engine.host, engine.port, engine.network_pid),
                host=f"127.0.0.1:{engine.port}".encode(),
                limits=PoolLimits(connections=choice.slots + 1),
            )
            for engine in engines
        ]
        try:
            # Twice: the first time pages in weights and warms the caches up.
            for tokens in (4, self._tokens):
                began = time.monotonic()
                answers = await asyncio.gather(
                    *(
                        self._ask(pool, tokens, f"{number}.{slot}")
                        for number, pool in enumerate(pools)
                        for slot in range(choice.slots)
                    )
                )
                seconds = time.monotonic() - began
        finally:
            for pool in pools:
                await pool.close()
        return Measured(
            tokens_per_s=sum(count for count, _ in answers) / seconds,
            ttft_s=statistics.median(first for _, first in answers),
        )

    async def _ask(self, pool: Pool, tokens: int, who: str) -> tuple[int, float]:
        """Tokens that a request got, and when the first came."""
        words = " ".join(f"{who} {number}" for number in range(PROMPT_WORDS // 3))
        options: dict[str, Any] = {"num_predict": tokens, "temperature": 0, "num_ctx": self._context}
        if self._gpus is not None:
            options["num_gpu"] = 999
        body = {"model": self._model, "prompt": words, "raw": True, "stream": True, "options": options}
        began, first, count = time.monotonic(), 0.0, 0
        headers = [(b"content-type", b"application/json")]
        pending = b""
        async with pool.request("POST", "/api/generate", headers, msgspec.json.encode(body)) as response:
            if response.status != 200:
                reason = (await response.read(4096)).decode(errors="replace").strip()
                raise BridgeError(f"the engine answered {response.status}: {reason}")
            async for data in response:
                *lines, pending = (pending + data).split(b"\n")
                for line in lines:
                    first = first or time.monotonic() - began
                    count = _count(line) or count
        return count, first

    @contextlib.asynccontextmanager
    async def _engines(self, choice: Choice, folder: Path) -> AsyncIterator[list[LocalInstance]]:
        configs = [
            msgspec.structs.replace(
                self._config,
                index=number,
                attach=None,
                models_dir=str(self._models),
                num_parallel=choice.slots,
                context_length=self._context,
                max_loaded=1,
                num_thread=choice.threads or None,
                num_batch=choice.batch,
                kv_cache_type=choice.kv_type,
                gpus=self._device,
            )
            for number in range(choice.engines)
        ]
        late = _Late()
        sharing = self._sharing(choice)
        keeper = None
        if self._gpus is not None:
            keeper = GpuKeeper(
                self._gpus(),  # which it lets go of when it ends
                without="",
                folder=folder / "mps",
                node="tune",
                instances=[(f"tune/{config.index}", config.gpus) for config in configs],
                sharing=sharing,
                engines=late,
            )
        node_class = NodeClass(isolation=Isolation(walls=()), gpu=sharing)
        launcher = IsolatedLauncher(
            folder, node_class=node_class, cgroups=None, without="none is needed to measure", devices=keeper
        )
        supervisor = late.supervisor = EngineSupervisor(
            configs,
            folder,
            lambda _: None,
            node="tune",
            launcher=launcher,
            probing=ProbePolicy(quiet_s=3600.0),
        )
        tasks = [asyncio.create_task(supervisor.run(), name="tuned-engines")]
        if keeper is not None:
            tasks.append(asyncio.create_task(keeper.run(), name="tuned-gpus"))
        try:
            yield await _ready(supervisor)
        finally:
            await supervisor.stop()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _sharing(self, choice: Choice) -> GpuSharing | None:
        if self._gpus is None:
            return None
        return GpuSharing(
            devices=(self._device,) if self._device else (),
            per_gpu=choice.engines,
            mps=choice.engines > 1,
            thread_percentage=choice.thread_percentage,
        )


class _Late:
    """The supervisor, before there is one: the keeper and it need each other."""

    supervisor: EngineSupervisor

    def process(self, instance: str) -> tuple[int, int] | None:
        return self.supervisor.process(instance)

    def fail(self, instance: str, reason: str) -> None:
        self.supervisor.fail(instance, reason)

    def halt(self, instance: str) -> None:
        self.supervisor.halt(instance)


async def _ready(supervisor: EngineSupervisor) -> list[LocalInstance]:
    """The engines once all answer.

    Raises:
        BridgeError: one does not, with why.
    """
    end = time.monotonic() + START_S
    while True:
        instances = supervisor.instances()
        if all(one.state == "ready" for one in instances):
            return list(instances)
        failed = [status for status in supervisor.status() if status.failures > 1]
        if failed or time.monotonic() > end:
            status = (failed or supervisor.status())[0]
            reason = status.reason or "it does not answer"
            raise BridgeError(f"the engine does not start: {reason}; {' / '.join(status.log_tail[-2:])}")
        await asyncio.sleep(0.05)


def _count(line: bytes) -> int:
    """The token count of a stream's last line; 0 of any other."""
    if not line.strip():
        return 0
    answer = msgspec.json.decode(line, type=dict[str, Any])
    if "error" in answer:
        raise BridgeError(f"the engine failed: {answer['error']}")
    return int(answer.get("eval_count", 0)) if answer.get("done") else 0
