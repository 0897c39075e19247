"""Writes what each agent's pod costs to end to the API of Kubernetes.

A program beside the registries, as their viewer: `patch` on `pods/status` in one namespace is all that its
account may do. Through that the API takes annotations and conditions, and nothing of what a pod runs; `patch`
on `pods` would let its holder have any pod run another image.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec
import structlog

from bridge_core.errors import Unavailable
from bridge_registry.complaint import Complaint
from bridge_registry.external_metrics.reader import FiguresReader
from bridge_registry.kubernetes_api import MOUNTED, Call, calling
from bridge_registry.pod_costs import cost_rules
from bridge_registry.pod_costs.cost_rules import Holder, Written
from bridge_wire.v1 import scaling_pb2 as pb

log = structlog.get_logger()

_EVERY_S: Final = 2.0
_FRESH_S: Final = 10.0
_ROUND_S: Final = 20.0
_MOST_BYTES: Final = 1 << 20  # the API answers with the whole pod
_MOST_HOLDERS: Final = 100_000


class CostOptions(msgspec.Struct, frozen=True):
    """How it runs; see the command."""

    registries: tuple[str, ...]
    certificate: Path
    key: Path
    ca: Path
    namespace: str
    address: tuple[str, int] | None = None
    folder: Path = MOUNTED


class CostWriter:
    """See the module.

    Args:
        options: How it runs.
        clock: Monotonic seconds.
    """

    def __init__(self, options: CostOptions, clock: Callable[[], float] = time.monotonic) -> None:
        self._options = options
        self._clock = clock
        self._written: dict[str, Written] = {}
        self._failed: set[str] = set()  # pods whose last write was refused

    async def write(self, found: pb.AutoscalingResponse) -> int:
        """Tells the pods whose cost changed; how many were written to.

        A failure ends the round. The pod that it came with is the last of the next one: the API, or a webhook
        before it, may refuse a single pod, and the others are told all the same.

        Raises:
            Unavailable: the API cannot be asked, does not let this account write, or took too long.
        """
        costs = cost_rules.costs(holders(found))
        self._written = {pod: last for pod, last in self._written.items() if pod in costs}
        self._failed &= costs.keys()
        late = sorted(
            cost_rules.due(costs, self._written, self._clock()), key=lambda pod: pod in self._failed
        )
        if not late:
            return 0
        count = 0
        try:
            async with (
                asyncio.timeout(_ROUND_S),
                calling(self._options.address, self._options.folder, _MOST_BYTES) as call,
            ):
                for pod in late:
                    self._failed.add(pod)
                    there = await self._tell(call, pod, costs[pod])
                    self._failed.discard(pod)
                    self._written[pod] = Written(costs[pod] if there else None, self._clock())
                    count += there
        except TimeoutError as fault:
            raise Unavailable(f"the Kubernetes API took longer than {_ROUND_S:g} s") from fault
        return count

    async def _tell(self, call: Call, pod: str, cost: int) -> bool:
        """Whether the pod is there."""
        path = f"/api/v1/namespaces/{self._options.namespace}/pods/{pod}/status".encode()
        status, _ = await call("PATCH", path, b"application/merge-patch+json", cost_rules.patch_of(cost))
        if status in {401, 403}:
            raise Unavailable(
                f"the Kubernetes API answered {status}: pods cannot be told what they cost to end",
                hint=f"its service account needs `patch` on pods/status in {self._options.namespace}",
            )
        if status not in {200, 404}:
            raise Unavailable(f"the Kubernetes API answered {status} to a change of the pod {pod}")
        return status == 200


def holders(found: pb.AutoscalingResponse) -> list[Holder]:
    """What a registry says of instances, bounded.

    Raises:
        Unavailable: it tells of more than there can be.
    """
    if sum(len(policy.instances) for policy in found.policies) > _MOST_HOLDERS:
        raise Unavailable(f"a registry tells of more than {_MOST_HOLDERS} instances")
    return [
        Holder(one.instance, one.part, one.in_flight + one.queued, one.loaded, one.known)
        for policy in found.policies
        for one in policy.instances
    ]


async def run(options: CostOptions) -> None:
    """Writes until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    reader = FiguresReader(options.registries, options.certificate, options.key, options.ca)
    log.info("pod_costs_running", namespace=options.namespace)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(reader.run()), group.create_task(_writing(options, reader))]
        await stop.wait()
        for task in tasks:
            task.cancel()


async def _writing(options: CostOptions, reader: FiguresReader) -> None:
    writer, complaint = CostWriter(options), Complaint("pod_costs_not_written")
    while True:
        await asyncio.sleep(_EVERY_S)
        # What is not known now stays as it was written.
        if reader.answer is None or time.time() - reader.figures.at > _FRESH_S:
            continue
        with complaint.of_failure():
            if count := await writer.write(reader.answer):
                log.info("pod_costs_written", pods=count)
