"""Reads what the autoscaler wants from whichever registry leads, again and again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import grpc.aio
import structlog

from bridge_core.errors import BridgeError, Unavailable
from bridge_core.registry_channel import open_channel
from bridge_registry.external_metrics.metric_rules import Figures, PolicyFigures
from bridge_wire.v1 import scaling_pb2 as pb
from bridge_wire.v1.scaling_pb2_grpc import ScalingStub

log = structlog.get_logger()

_EVERY_S: Final = 2.0
_CALL_S: Final = 5.0
_CHANNEL_S: Final = 600.0  # then another one, with the certificate as it is on disk by then
_MOST: Final = 1000  # policies


class FiguresReader:
    """Asks with an admin's certificate; the role viewer is enough.

    Args:
        registries: host:port of each, asked in turn until one leads.
        certificate: The admin's, PEM; read anew for each connection.
        key: Its key.
        ca: The mesh's.
        clock: Unix seconds.
        every_s: Between two questions.
        channel_s: How long a connection is used.

    Attributes:
        figures: What was read last.
        answer: All that the registry said of it; None: it said nothing yet.
    """

    def __init__(
        self,
        registries: Sequence[str],
        certificate: Path,
        key: Path,
        ca: Path,
        *,
        clock: Callable[[], float] = time.time,
        every_s: float = _EVERY_S,
        channel_s: float = _CHANNEL_S,
    ) -> None:
        self._registries = tuple(registries)
        self._certificate, self._key, self._ca = certificate, key, ca
        self._clock = clock
        self._every_s = every_s
        self._channel_s = channel_s
        self.figures = Figures()
        self.answer: pb.AutoscalingResponse | None = None

    async def run(self) -> None:
        """Reads until cancelled."""
        while True:
            for address in self._registries:
                while await self._follow(address):
                    pass
            await asyncio.sleep(self._every_s)

    async def _follow(self, address: str) -> bool:
        """Reads from one registry over one connection; whether it answered to the end of that."""
        fault: str
        try:
            ca, certificate, key = (one.read_bytes() for one in (self._ca, self._certificate, self._key))
            async with open_channel(address, ca, cert_pem=certificate, key_pem=key) as channel:
                desk = ScalingStub(channel)  # type: ignore[no-untyped-call]  # generated
                until = self._clock() + self._channel_s
                while self._clock() < until:
                    found = await desk.Autoscaling(pb.AutoscalingRequest(), timeout=_CALL_S)
                    self.figures, self.answer = Figures(_figures(found), self._clock(), ""), found
                    await asyncio.sleep(self._every_s)
            return True
        except grpc.aio.AioRpcError as refused:
            fault = f"{address}: {refused.details()}"
        except (BridgeError, OSError) as refused:
            fault = f"{address}: {refused}"
        if fault != self.figures.fault:
            log.warning("figures_not_read", reason=fault)
        self.figures = Figures(self.figures.policies, self.figures.at, fault)
        return False


def _figures(found: pb.AutoscalingResponse) -> tuple[PolicyFigures, ...]:
    if len(found.policies) > _MOST:
        raise Unavailable(f"a registry tells of {len(found.policies)} policies, more than {_MOST}")
    return tuple(
        PolicyFigures(one.policy, one.model, one.wanted, one.unmet, one.needed_slots, one.queued)
        for one in found.policies
    )
