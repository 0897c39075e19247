"""Whether this machine's clock and the registry's agree: certificates are of no use where they do not."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import grpc.aio
import structlog

from bridge_agent.membership.link_status import LinkStatus
from bridge_agent.membership.standing_rules import clock_concern
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.identity.rotation_rules import CLOCK_SKEW_S
from bridge_core.registry_channel import open_channel
from bridge_wire.v1 import registry_pb2 as pb
from bridge_wire.v1.registry_pb2_grpc import EnrolmentStub

log = structlog.get_logger()

_CALL_S: Final = 10.0
_EVERY_S: Final = 300.0
_AGAIN_S: Final = 20.0  # while it is off, or nobody answers
_GLANCE_S: Final = 0.5  # between looks whether the clock was set
_JUMP_S: Final = 1.0  # that it is set by; time servers move it by less, and slowly


async def clock_lead(address: str, ca_pem: bytes, now: Callable[[], float] = time.time) -> float:
    """How many seconds this machine's clock is ahead of the registry's; never more than is certain.

    The registry is known by its certificate, whatever time that is of.

    Raises:
        BridgeError: it could not be asked.
    """
    try:
        async with open_channel(address, ca_pem, any_time=True) as channel:
            stub: Any = EnrolmentStub(channel)  # type: ignore[no-untyped-call]  # generated
            before = now()
            answer: pb.HelloResponse = await stub.Hello(pb.HelloRequest(), timeout=_CALL_S)
            after = now()
    except grpc.aio.AioRpcError as fault:
        raise Unavailable(f"registry {address} does not say the time: {fault.details()}") from fault
    theirs = answer.server_time_unix_ms / 1000
    if theirs > after:
        return after - theirs
    return max(0.0, before - theirs)


async def check_clock(address: str, ca_pem: bytes, now: Callable[[], float] = time.time) -> None:
    """Returns when the clocks agree as far as certificates need it.

    Raises:
        Fatal: they do not; both times are named.
        BridgeError: the registry could not be asked.
    """
    lead = await clock_lead(address, ca_pem, now)
    if abs(lead) > CLOCK_SKEW_S:
        at = now()
        raise Fatal(
            f"{clock_concern(lead)}: it is {_said(at)} here and {_said(at - lead)} there",
            hint="set it (timedatectl set-ntp true), then join again: the token has not been used",
        )


class ClockWatch:
    """Compares the clocks again and again; `status` says how they stand.

    Args:
        registries: Their addresses, asked in turn.
        ca: Whom to trust for it.
        now: The wall clock in seconds.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        registries: Callable[[], Sequence[str]],
        ca: Path,
        *,
        now: Callable[[], float],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registries = registries
        self._ca = ca
        self._now = now
        self._clock = clock
        self.status = LinkStatus("clock", now)
        self.status.works()

    async def run(self) -> None:
        """Asks until cancelled."""
        while True:
            agree = await self._look()
            await self._unless_set(_EVERY_S if agree else _AGAIN_S)

    async def _unless_set(self, longest_s: float) -> None:
        """Waits, but no longer than until this machine's clock is set: then it may be off from now on.

        The monotonic clock stands where a machine sleeps, so that it looks as if the other was set then:
        to ask once more is right there, too.
        """
        before, until = self._now() - self._clock(), self._clock() + longest_s
        while (  # noqa: ASYNC110 - the kernel tells nobody
            self._clock() < until and abs(self._now() - self._clock() - before) < _JUMP_S
        ):
            await asyncio.sleep(_GLANCE_S)

    async def _look(self) -> bool:
        for address in self._registries():
            try:
                lead = await clock_lead(address, self._ca.read_bytes(), self._now)
            except (BridgeError, OSError):
                continue  # that nobody answers is the other links' to say
            if abs(lead) <= CLOCK_SKEW_S:
                self.status.works()
                return True
            if self.status.failed(f"{clock_concern(lead)}: set it, or no certificate will be of its now"):
                log.warning("clock_is_off", ahead_s=round(lead, 1), registry=address)
            return False
        return False


def _said(at: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(at))
