"""Channels to etcd's endpoints, and calls that go to the one that answers.

Rules:
1. A channel an endpoint, so that each server's certificate is checked against its own name.
2. A read goes to another endpoint when one does not answer. A write is sent once: an endpoint
   that cannot be reached is passed over before anything is sent, and after that the outcome of
   a failure is the caller's to find out.
3. A channel whose calls time out twice in a row is replaced: a connection that a partition or a
   paused server has silenced would otherwise hold new calls until TCP gives up.
4. Certificates are read again when their files change, so a renewed one is used from the next
   call on.
5. A call that etcd turns away because its users or roles changed meanwhile is repeated, a write
   too: etcd says so before it does anything. A registry that starts makes such changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

import grpc
import grpc.aio
import msgspec

from bridge_core.backoff import Backoff
from bridge_core.errors import Fatal
from bridge_core.store.api import LeaseGone, StoreFault, StoreRefused, StoreUnavailable
from bridge_wire.etcd.rpc_pb2 import StatusRequest
from bridge_wire.etcd.rpc_pb2_grpc import MaintenanceStub

T = TypeVar("T")
Call = Callable[[grpc.aio.Channel, float], Awaitable[T]]


class ClientTls(msgspec.Struct, frozen=True):
    """The files of a client's identity (PEM). Read anew when they change.

    With a `server_name`, servers are known by that name in their certificates, not by the address
    that they were dialled at.
    """

    cert: Path
    key: Path
    ca: Path
    server_name: str | None = None


class StoreTiming(msgspec.Struct, frozen=True):
    """How long to wait for what, in seconds."""

    connect_s: float = 1.5  # for one endpoint to accept a connection
    answer_s: float = 3.0  # for one endpoint to answer a request
    idle_s: float = 5.0  # a watch this long silent is asked for its progress
    backoff_first_s: float = 0.05
    backoff_most_s: float = 1.0

    def backoff(self) -> Backoff:
        """The pauses of one loop that keeps trying."""
        return Backoff(random.Random(), first_s=self.backoff_first_s, most_s=self.backoff_most_s)  # noqa: S311 - jitter


_OPTIONS: Final = (
    # The proxies of the environment are not for the control plane.
    ("grpc.enable_http_proxy", 0),
    # gRPC's own retries would repeat writes.
    ("grpc.enable_retries", 0),
    # Two stores of one process share no connection, so a broken one is not inherited.
    ("grpc.use_local_subchannel_pool", 1),
    # etcd closes connections that ping more often than every 5 s.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 4_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # bounds one attempt to connect
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
)

# How often a call is repeated that a change of users or roles overtook (rule 5), and the pauses, at
# random below this: a registry that starts makes some ten such changes.
_OVERTAKEN: Final = "auth: revision in header is old"
_OVERTAKEN_TRIES: Final = 20
_OVERTAKEN_PAUSE_S: Final = 0.02

# What gRPC's text says when TLS, not the network, is what failed.
_TLS_SIGNS: Final = ("CERTIFICATE_VERIFY_FAILED", "ALERT", "certificate", "handshake failed")
_REFUSALS: Final = frozenset(
    {
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class StoreSilent(StoreUnavailable):
    """A stream of a connection that stands gave no answer in time."""


def translate(error: grpc.RpcError, url: str) -> StoreUnavailable | StoreRefused:
    """The error of the store that a gRPC error stands for."""
    code, details = error.code(), error.details() or ""
    if "requested lease not found" in details:
        return LeaseGone("the lease of this write is gone")
    if "too many requests" in details:
        return StoreUnavailable(f"etcd at {url} is overloaded")
    if "database space exceeded" in details:
        return StoreRefused(
            f"etcd at {url} is full", hint="compact and defragment it, then disarm its NOSPACE alarm"
        )
    if code in _REFUSALS:
        return StoreRefused(f"etcd at {url} refuses: {details}")
    if code is grpc.StatusCode.UNAVAILABLE and any(sign in details for sign in _TLS_SIGNS):
        return StoreRefused(
            f"no TLS connection to etcd at {url}: {details}",
            hint="check that the certificate is valid now and that both sides trust the same CA",
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return StoreUnavailable(f"etcd at {url} did not answer in time")
    return StoreUnavailable(f"etcd at {url} does not answer: {details or code.name}")


@contextlib.contextmanager
def cancelled_only_by_callers(url: str) -> Iterator[None]:
    """Turns the cancellation of a call whose channel was closed into StoreUnavailable.

    gRPC reports it as CancelledError, which would end the caller's task as if somebody had
    cancelled that.
    """
    try:
        yield
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        raise StoreUnavailable(f"the connection to etcd at {url} was closed") from None


class Endpoint:
    """One etcd server and the channel to it."""

    def __init__(self, url: str, tls: ClientTls | None) -> None:
        self.url = url
        self._target, secure = _parse(url, tls)
        self._tls = tls if secure else None
        self._channel: grpc.aio.Channel | None = None
        self._stamp: tuple[int, ...] = ()
        self._timeouts = 0
        self._closed = False
        self._closing: set[asyncio.Task[None]] = set()

    def channel(self) -> grpc.aio.Channel:
        """The channel for the next call.

        Raises:
            StoreRefused: the certificate's files cannot be read.
            StoreUnavailable: closed.
        """
        if self._closed:  # a loop that was told late must not open a channel that nobody closes
            raise StoreUnavailable("the store is closed")
        stamp = self._files_stamp()
        if self._channel is None or stamp != self._stamp:
            credentials = self._credentials()
            self._retire()
            self._stamp = stamp
            if credentials is None:
                self._channel = grpc.aio.insecure_channel(self._target, options=_OPTIONS)
            else:
                self._channel = grpc.aio.secure_channel(self._target, credentials, options=self._options())
        return self._channel

    def answered(self) -> None:
        """A call was answered."""
        self._timeouts = 0

    def timed_out(self) -> None:
        """A call was not: the second in a row costs the channel (rule 3)."""
        self._timeouts += 1
        if self._timeouts >= 2:
            self._timeouts = 0
            self._retire()

    @property
    def closing(self) -> bool:
        """Whether something still runs on a channel of the past."""
        return bool(self._closing)

    def leave(self) -> None:
        """It is called no more; what runs on it gets a little time."""
        self._closed = True
        self._retire()

    async def close(self) -> None:
        """Cuts everything that runs on it, for good."""
        self._closed = True
        for task in self._closing:
            task.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)
        if self._channel is not None:
            await self._channel.close(None)
            self._channel = None

    def _retire(self) -> None:
        if self._channel is None:
            return
        # What still runs on the old channel gets its time; watches notice by themselves.
        task = asyncio.ensure_future(self._channel.close(5.0))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        self._channel = None

    def _options(self) -> list[tuple[str, str | int]]:
        name = self._tls.server_name if self._tls is not None else None
        return [*_OPTIONS, *([("grpc.ssl_target_name_override", name)] if name else [])]

    def _files_stamp(self) -> tuple[int, ...]:
        if self._tls is None:
            return ()
        try:
            return tuple(path.stat().st_mtime_ns for path in (self._tls.cert, self._tls.key, self._tls.ca))
        except OSError as fault:
            raise _unreadable(fault) from fault

    def _credentials(self) -> grpc.ChannelCredentials | None:
        if self._tls is None:
            return None
        try:
            return grpc.ssl_channel_credentials(
                self._tls.ca.read_bytes(), self._tls.key.read_bytes(), self._tls.cert.read_bytes()
            )
        except OSError as fault:
            raise _unreadable(fault) from fault


class Endpoints:
    """All endpoints of one store, with the one that answered last in front.

    Attributes:
        fault: Why none answers and since when; None while one does.
    """

    def __init__(self, urls: Sequence[str], tls: ClientTls | None, timing: StoreTiming) -> None:
        if not urls:
            raise Fatal("no etcd endpoint given")
        self.timing = timing
        self.fault: StoreFault | None = None
        self._tls = tls
        self._endpoints = [Endpoint(url, tls) for url in urls]
        self._left: list[Endpoint] = []

    def replace(self, urls: Sequence[str]) -> None:
        """Calls go to these from now on; one that is kept keeps its channel and its place in front.

        Raises:
            Fatal: there is none, or one is not an address; nothing has changed then.
        """
        if not urls:
            raise Fatal("no etcd endpoint given")
        have = {one.url: one for one in self._endpoints}
        if have.keys() == set(urls):
            return
        new = [Endpoint(url, self._tls) for url in dict.fromkeys(urls) if url not in have]
        kept = [one for one in self._endpoints if one.url in urls]
        self._left = [one for one in self._left if one.closing] + [
            one for one in self._endpoints if one not in kept
        ]
        for one in self._left:
            one.leave()
        self._endpoints = kept + new

    async def read(self, call: Call[T]) -> tuple[T, Endpoint]:
        """Calls until an endpoint answers, twice round at most; for what may be repeated.

        Raises:
            StoreUnavailable, StoreRefused: the last endpoint's reason.
        """
        fault: StoreUnavailable | StoreRefused = StoreUnavailable("no etcd was asked")
        for endpoint in self._endpoints * 2:
            try:
                return await self.on(endpoint, call), endpoint
            except StoreUnavailable as unavailable:
                fault = unavailable
            except StoreRefused as refused:
                if self.fault is None:  # the server itself said so
                    raise
                fault = refused
        raise fault

    async def write(self, call: Call[T]) -> T:
        """Sends once, to the first endpoint that can be reached.

        Raises:
            StoreUnavailable: nothing was sent, or the outcome is unknown.
            StoreRefused: it was not done.
        """
        fault: StoreUnavailable | StoreRefused = StoreUnavailable("no etcd was asked")
        for endpoint in list(self._endpoints):
            try:
                await self._reach(endpoint)
            except (StoreUnavailable, StoreRefused) as unreached:
                fault = unreached
                continue
            return await self.on(endpoint, call)
        raise fault

    async def on(self, endpoint: Endpoint, call: Call[T]) -> T:
        """One call on one endpoint, its outcome noted."""
        try:
            with cancelled_only_by_callers(endpoint.url):
                answer = await self._not_overtaken(endpoint, call)
        except grpc.RpcError as error:
            fault = translate(error, endpoint.url)
            if isinstance(fault, StoreRefused) and error.code() is not grpc.StatusCode.UNAVAILABLE:
                self.answered(endpoint)
            else:
                self.failed(endpoint, fault, timeout=error.code() is grpc.StatusCode.DEADLINE_EXCEEDED)
            raise fault from error
        except (
            StoreRefused,
            StoreUnavailable,
        ) as fault:  # unreadable files, a closed channel, a silent stream
            self.failed(endpoint, fault, timeout=isinstance(fault, StoreSilent))
            raise
        self.answered(endpoint)
        return answer

    async def _not_overtaken(self, endpoint: Endpoint, call: Call[T]) -> T:
        for _ in range(_OVERTAKEN_TRIES):
            try:
                return await call(endpoint.channel(), self.timing.answer_s)
            except grpc.RpcError as error:
                if _OVERTAKEN not in (error.details() or ""):
                    raise
            await asyncio.sleep(random.uniform(0.0, _OVERTAKEN_PAUSE_S))  # noqa: S311 - jitter
        return await call(endpoint.channel(), self.timing.answer_s)

    def answered(self, endpoint: Endpoint) -> None:
        """Notes that `endpoint` answered."""
        endpoint.answered()
        self.fault = None

    def failed(
        self, endpoint: Endpoint, reason: StoreUnavailable | StoreRefused, *, timeout: bool = False
    ) -> None:
        """Notes that `endpoint` did not, and tries it last from now on."""
        if timeout:
            endpoint.timed_out()
        if endpoint is self._endpoints[0]:
            self._endpoints.append(self._endpoints.pop(0))
        since = time.monotonic() if self.fault is None else self.fault.since
        self.fault = StoreFault(since, str(reason))

    async def close(self) -> None:
        """Closes every channel."""
        for endpoint in (*self._endpoints, *self._left):
            await endpoint.close()

    async def _reach(self, endpoint: Endpoint) -> None:
        """Returns when a connection to `endpoint` stands; a harmless read makes one."""
        try:
            state = endpoint.channel().get_state(try_to_connect=True)
        except (StoreRefused, StoreUnavailable) as fault:
            self.failed(endpoint, fault)
            raise
        if state is grpc.ChannelConnectivity.READY:
            return

        async def status(channel: grpc.aio.Channel, _: float) -> Any:
            stub = MaintenanceStub(channel)  # type: ignore[no-untyped-call]  # generated
            return await stub.Status(StatusRequest(), timeout=self.timing.connect_s)

        await self.on(endpoint, status)


def _parse(url: str, tls: ClientTls | None) -> tuple[str, bool]:
    """GRPC's target for an endpoint, and whether it takes TLS."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    try:
        host, port = parts.hostname, parts.port or 2379
    except ValueError as fault:
        raise Fatal(f"etcd endpoint {url!r} is not an address: {fault}") from fault
    if host is None or parts.scheme not in {"", "http", "https"}:
        raise Fatal(f"etcd endpoint {url!r} is not an address", hint="write https://host:2379")
    secure = parts.scheme == "https" or (not parts.scheme and tls is not None)
    if secure and tls is None:
        raise Fatal(f"etcd endpoint {url!r} needs a client certificate", hint="or use http://")
    return (f"[{host}]:{port}" if ":" in host else f"{host}:{port}"), secure


def _unreadable(fault: OSError) -> StoreRefused:
    return StoreRefused(f"cannot read {fault.filename}: {fault.strerror}")
