"""All engine instances of this node, and what the rest of the agent asks of them."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bridge_agent.ancillaries import Ancillaries
from bridge_agent.engines.config import EngineConfig
from bridge_agent.engines.instance import EngineInstance, InstanceStatus
from bridge_agent.engines.lifecycle_rules import Drain, Failed, Policy, Start, Stop
from bridge_agent.engines.process import Launcher, PlainLauncher
from bridge_agent.engines.runtime import EngineTiming
from bridge_agent.engines.view import LocalInstance
from bridge_agent.health.probe_rules import ProbePolicy
from bridge_core.errors import Fatal


class EngineSupervisor:
    """Runs the node's engine instances.

    Every method is to be called on the loop that runs `run`.

    Args:
        configs: One for each instance.
        state_dir: The agent's state folder; `engines/<n>` and `models` lie in it.
        publish: Called with all instances whenever one has changed, and once at the start.
        node: The node's name.
        clock: Monotonic time in seconds.
        rng: Random numbers in [0, 1), for the back-off.
        launcher: Starts processes; cgroups, namespaces and MPS come in here.
        policy: How patient to be with processes.
        timing: How often to look at engines.
        probing: When to make loaded models generate.
        ancillaries: Begins an instance anew whose own task failed; its engine runs on meanwhile.

    Raises:
        Fatal: two configurations have the same index.
    """

    def __init__(
        self,
        configs: Sequence[EngineConfig],
        state_dir: Path,
        publish: Callable[[tuple[LocalInstance, ...]], None],
        *,
        node: str,
        clock: Callable[[], float] = time.monotonic,
        rng: Callable[[], float] = random.random,
        launcher: Launcher | None = None,
        policy: Policy | None = None,
        timing: EngineTiming | None = None,
        probing: ProbePolicy | None = None,
        ancillaries: Ancillaries | None = None,
    ) -> None:
        twice = [index for index, count in Counter(config.index for config in configs).items() if count > 1]
        if twice:
            raise Fatal(f"engine {twice[0]} is configured twice", hint="give each engine its own index")
        self._publish = publish
        self._clock = clock
        self._ancillaries = ancillaries or Ancillaries(random.Random())  # noqa: S311 - jitter
        root = state_dir.absolute()  # engines run in folders of their own

        def made(config: EngineConfig) -> EngineInstance:
            return EngineInstance(
                f"{node}/{config.index}",
                config,
                root / "engines" / str(config.index),
                root / "models",
                launcher=launcher or PlainLauncher(),
                changed=self._changed,
                clock=clock,
                rng=rng,
                policy=policy or Policy(),
                timing=timing or EngineTiming(),
                probing=probing or ProbePolicy(),
            )

        self._make = {f"{node}/{config.index}": partial(made, config) for config in configs}
        self._instances = {instance_id: make() for instance_id, make in self._make.items()}
        self._news = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    async def run(self) -> None:
        """Starts or adopts every engine and keeps it running, until `stop`.

        Cancelled, it leaves the engines running, to be adopted by the next agent.
        """
        self._ended.clear()
        self._changed()
        try:
            async with asyncio.TaskGroup() as group:
                for instance_id in self._instances:
                    group.create_task(self._keep(instance_id), name=f"engine {instance_id} (kept)")
        finally:
            self._ended.set()

    async def _keep(self, instance_id: str) -> None:
        """Runs an instance; one whose task failed is begun anew, and takes over the engine that runs."""
        first = True

        async def run() -> None:
            nonlocal first
            if not first:
                former, fresh = self._instances[instance_id], self._make[instance_id]()
                fresh.succeed(former)
                self._instances[instance_id] = fresh
            first = False
            await self._instances[instance_id].run()

        await self._ancillaries.keep(f"engine {instance_id}", run)

    async def taken_up(self, within_s: float) -> None:
        """Returns once engines that ran before `run` are in use, or after `within_s`."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                while not all(instance.taken_up for instance in self._instances.values()):
                    self._news.clear()
                    await self._news.wait()

    def instances(self) -> tuple[LocalInstance, ...]:
        """All instances as they are now."""
        return tuple(instance.view for instance in self._instances.values())

    def status(self) -> list[InstanceStatus]:
        """All instances as an operator sees them; reads the ends of their logs."""
        return [instance.status() for instance in self._instances.values()]

    def reasons(self, *, failing: bool = False) -> dict[str, str]:
        """Why each instance last failed, empty where it never did; `failing`: of those whose last start did.

        Reads nothing of the disk: it may be asked each second.
        """
        return {id_: one.reason for id_, one in self._instances.items() if one.failing or not failing}

    def refresh(self, instance_id: str) -> None:
        """Looks at an instance's models at once: a mutation went through. Unknown ids are ignored."""
        if (instance := self._instances.get(instance_id)) is not None:
            instance.refresh()

    def activity(
        self, instance_id: str, now: float | None = None, *, model: str | None = None, progress: bool = True
    ) -> None:
        """Tells that an instance's model did something, so that probes neither disturb nor miss it.

        Args:
            instance_id: "<node>/<n>"; unknown ones are ignored.
            now: When, by the supervisor's clock; None: now.
            model: The model's canonical name; None, or one not loaded: whichever is.
            progress: True: a byte came from it. False: a request was sent to it.
        """
        instance = self._instances.get(instance_id)
        if instance is None:
            return
        at = self._clock() if now is None else now
        if progress:
            instance.heard(at, model)
        else:
            instance.sent(at, model)

    def process(self, instance_id: str) -> tuple[int, int] | None:
        """Pid and start time of an instance's process; None while there is none of ours."""
        instance = self._instances.get(instance_id)
        return None if instance is None else instance.process

    def fail(self, instance_id: str, reason: str) -> None:
        """An instance cannot go on as it is: its process is ended and started again."""
        if (instance := self._instances.get(instance_id)) is not None:
            instance.request(Failed(reason))

    def fail_untried(self, instance_id: str, reason: str) -> None:
        """As `fail`, for an instance that took no request yet; one that serves, or did, goes on."""
        if (instance := self._instances.get(instance_id)) is not None and instance.untried:
            instance.request(Failed(reason))

    def halt(self, instance_id: str) -> None:
        """Ends an instance's process; it stays stopped until `start`."""
        if (instance := self._instances.get(instance_id)) is not None:
            instance.request(Stop())

    def drain_one(self, instance_id: str) -> None:
        """No new work for an instance."""
        if (instance := self._instances.get(instance_id)) is not None:
            instance.request(Drain())

    def start(self, instance_id: str) -> None:
        """Starts an instance that was stopped, or takes its drain back."""
        if (instance := self._instances.get(instance_id)) is not None:
            instance.request(Start())

    def drain(self) -> None:
        """No new work: ready instances become draining, others stop."""
        for instance in self._instances.values():
            instance.request(Drain())

    def resume(self) -> None:
        """Takes a drain back: draining instances become ready, stopped ones start."""
        for instance in self._instances.values():
            instance.request(Start())

    async def stop(self) -> None:
        """Ends every engine that is ours; returns once they are gone and `run` has returned."""
        for instance in self._instances.values():
            instance.request(Stop(), final=True)
        await self._ended.wait()

    def _changed(self) -> None:
        self._news.set()
        self._publish(self.instances())
