"""Calling a registry as an admin."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from bridge_cli.access import IDENTITY_HINT, Access
from bridge_core.addresses import split_address
from bridge_core.errors import BridgeError, Fatal, Unavailable
from bridge_core.key_files import check_key_files
from bridge_core.registry_channel import CertificateRefused, WrongAuthority, open_channel
from bridge_core.tls import TlsFault, check_files
from bridge_wire.v1 import registry_pb2 as wire
from bridge_wire.v1 import registry_pb2_grpc as wire_grpc

T = TypeVar("T")

_CONNECT_S: Final = 3.0  # with others to go to, one that hangs is not waited for longer
_STATUS_S: Final = 5.0  # answered from memory

# gRPC's own lines come before our sentence and say the same less clearly.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")


class Services(wire_grpc.AdminStub):
    """The Admin stub; stubs of other services are made with its `channel`."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        super().__init__(channel)  # type: ignore[no-untyped-call]  # generated
        self.channel = channel


class _Unreached(Unavailable):
    """There was no connection, so nothing was asked."""


class _Elsewhere(Unavailable):
    """The registry does not lead and knows who does; nothing was done."""

    def __init__(self, refusal: BridgeError, address: str) -> None:
        super().__init__(refusal.message, hint=refusal.hint)
        self.address = address


async def ask(to: Access, work: Callable[[Any], Awaitable[T]]) -> T:
    """Runs `work` with the Admin stub of the first registry that answers, or of the leader that it names.

    Raises:
        Unavailable: no registry answers.
        BridgeError: one refused; its own words.
        Fatal: an address is none, or a file of the identity cannot be used.
    """
    unreached: list[_Unreached] = []
    for registry in to.registries:
        try:
            return await _ask(registry, to, work)
        except _Unreached as fault:
            unreached.append(fault)
        except _Elsewhere as elsewhere:
            return await _ask(elsewhere.address, to, work, last=True)
    if len(unreached) == 1:
        raise unreached[0]
    raise Unavailable("; ".join(fault.message for fault in unreached), hint=unreached[-1].hint)


async def status_of(to: Access) -> Any:
    """What the registry that leads says of the mesh; where none is known to lead, what any says.

    Raises:
        BridgeError: as `ask`.
    """

    async def work(stub: Any) -> Any:
        return await stub.Status(wire.StatusRequest(), timeout=_STATUS_S)

    status = await ask(to, work)
    if status.leader or not status.leader_address:
        return status
    try:
        return await _ask(status.leader_address, to, work, last=True)
    except Unavailable:  # gone, and its office not yet
        return status


async def _ask(registry: str, to: Access, work: Callable[[Any], Awaitable[T]], *, last: bool = False) -> T:
    patient = last or len(to.registries) == 1
    async with _stub(registry, to, patience_s=None if patient else _CONNECT_S) as stub:
        try:
            return await work(stub)
        except grpc.aio.AioRpcError as error:
            fault = _translate(error, registry)
            if last or error.code() is not grpc.StatusCode.UNAVAILABLE:
                raise fault from error
            # Whether it only did not lead is asked of it, not read from its words.
            with contextlib.suppress(grpc.aio.AioRpcError):
                status = await stub.Status(wire.StatusRequest(), timeout=_STATUS_S)
                if not status.leader and status.leader_address not in {"", registry}:
                    raise _Elsewhere(fault, status.leader_address) from error
            raise fault from error


@contextlib.asynccontextmanager
async def _stub(registry: str, to: Access, *, patience_s: float | None) -> AsyncIterator[Any]:
    split_address(registry)
    try:
        check_key_files(to.key)
        check_files(to.cert, to.key, to.ca)
    except TlsFault as fault:
        raise Fatal(fault.message, hint=IDENTITY_HINT) from fault
    opening = open_channel(
        registry, to.ca.read_bytes(), cert_pem=to.cert.read_bytes(), key_pem=to.key.read_bytes()
    )
    try:
        async with contextlib.AsyncExitStack() as stack:
            try:
                async with asyncio.timeout(patience_s):
                    channel = await stack.enter_async_context(opening)
            except TimeoutError:
                raise _Unreached(f"no registry answers at {registry} within {patience_s:g} s") from None
            except Unavailable as fault:
                raise _Unreached(fault.message, hint=fault.hint) from fault
            yield Services(channel)
    except WrongAuthority as fault:
        raise Fatal(f"{fault.message}; it has to be of the mesh of {to.ca}", hint=IDENTITY_HINT) from fault
    except CertificateRefused as fault:
        raise _Unreached(f"{fault.message} ({to.cert})", hint=IDENTITY_HINT) from fault


def _translate(error: grpc.aio.AioRpcError, registry: str) -> BridgeError:
    code, details = error.code(), (error.details() or "").rstrip(".")
    if code is grpc.StatusCode.UNAVAILABLE and "connect" in details:
        return Unavailable(f"the connection to the registry at {registry} was lost", hint="try again")
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return Unavailable(f"the registry at {registry} did not answer in time")
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return BridgeError(f"the registry at {registry} does not know this command", hint="is it older?")
    kind = Unavailable if code is grpc.StatusCode.UNAVAILABLE else BridgeError
    return kind(details or f"the registry at {registry} answers {code.name}")
