"""The watch of one prefix on real etcd: lists, follows, and starts over as watch_rules says."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from typing import Any

import grpc
import grpc.aio
import structlog

from bridge_core.store import watch_rules as rules
from bridge_core.store.api import Changes, KeyListing, StoreRefused, StoreUnavailable, WatchEvent
from bridge_core.store.convert import header_of, key_range, listing_of, range_of, response_of
from bridge_core.store.endpoints import Endpoint, Endpoints, cancelled_only_by_callers, translate
from bridge_wire.etcd.rpc_pb2 import WatchCreateRequest, WatchProgressRequest, WatchRequest
from bridge_wire.etcd.rpc_pb2_grpc import KVStub, WatchStub

log = structlog.get_logger()


class StoreWatch:
    """Follows one prefix; `events` is what `Store.watch` returns.

    A server that is paused or cut off says nothing, and neither does a quiet prefix: after
    `idle_s` of silence the server is asked for its progress, and one that does not answer is left.
    """

    def __init__(self, endpoints: Endpoints, prefix: str) -> None:
        self._endpoints = endpoints
        self._prefix = prefix
        self._timing = endpoints.timing
        self._position: rules.WatchPosition | None = None
        self._backoff = endpoints.timing.backoff()
        self._interrupted = False
        self._refused = False
        self.closed = False

    async def events(self) -> AsyncGenerator[WatchEvent, None]:
        """See `bridge_core.store.api`."""
        while not self.closed:
            try:
                if self._position is None:
                    yield await self._list()
                async with contextlib.aclosing(self._follow()) as changes:
                    async for change in changes:
                        yield change
            except StoreUnavailable as fault:
                self._say(fault)
                await asyncio.sleep(self._backoff.next_s())
            except StoreRefused as fault:
                if self._endpoints.fault is None:  # the server's own word, not a failed handshake
                    raise
                self._say(fault)
                await asyncio.sleep(self._backoff.next_s())

    def _say(self, fault: StoreUnavailable | StoreRefused) -> None:
        # Once an outage: every attempt of every watch would fill the log while nothing changes.
        if not self._interrupted:
            self._interrupted = True
            log.warning("store_watch_interrupted", prefix=self._prefix, reason=fault.message)

    async def _list(self) -> KeyListing:
        request = range_of(self._prefix)

        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            return await KVStub(channel).Range(request, timeout=timeout)  # type: ignore[no-untyped-call]  # generated

        answer, _ = await self._endpoints.read(call)
        self._position = rules.listed(header_of(answer.header))
        return listing_of(answer)

    async def _follow(self) -> AsyncGenerator[Changes, None]:
        """Changes from the position on, until it is lost (then it is None) or the stream breaks."""
        endpoint = await self._resume()
        if self._position is None:
            return
        metadata = (("hasleader", "true"),)  # a server cut off from its cluster ends the stream
        stream = WatchStub(endpoint.channel()).Watch(metadata=metadata)  # type: ignore[no-untyped-call]  # generated
        try:
            with cancelled_only_by_callers(endpoint.url):
                await self._within(stream.write(self._create(self._position)), "the watch request")
            while self._position is not None:
                with cancelled_only_by_callers(endpoint.url):
                    response = response_of(await self._next(stream))
                self._endpoints.answered(endpoint)
                self._backoff.reset()
                if self._interrupted:
                    self._interrupted = False
                    log.info("store_watch_resumed", prefix=self._prefix)
                verdict, changes = rules.received(self._position, response)
                for change in changes:
                    yield change
                self._settle(verdict)
                self._refused = isinstance(verdict, rules.WatchRefused)
        except grpc.RpcError as error:
            fault = translate(error, endpoint.url)
            self._endpoints.failed(endpoint, fault)
            raise fault from error
        except StoreUnavailable as fault:
            self._endpoints.failed(endpoint, fault, timeout=True)
            raise
        finally:
            stream.cancel()

    async def _resume(self) -> Endpoint:
        """Finds an endpoint and makes sure that it continues our history."""
        request = range_of(self._prefix, count_only=True)

        async def call(channel: grpc.aio.Channel, timeout: float) -> Any:
            return await KVStub(channel).Range(request, timeout=timeout)  # type: ignore[no-untyped-call]  # generated

        answer, endpoint = await self._endpoints.read(call)
        if self._position is not None:
            self._settle(rules.resumed(self._position, header_of(answer.header)))
        return endpoint

    def _settle(self, verdict: rules.Verdict) -> None:
        if isinstance(verdict, rules.WatchRefused):
            # etcd also says so when a change of users overtook the request; a listing tells them apart.
            if self._refused:
                raise StoreRefused(f"etcd refuses to watch {self._prefix}: {verdict.reason}")
            self._position = None
        elif isinstance(verdict, rules.WatchLost):
            log.info("store_watch_lists_again", prefix=self._prefix, reason=verdict.reason)
            self._position = None
        else:
            self._position = verdict

    def _create(self, position: rules.WatchPosition) -> WatchRequest:
        key, range_end = key_range(self._prefix)
        create = WatchCreateRequest(
            key=key, range_end=range_end, start_revision=position.next_revision, progress_notify=True
        )
        return WatchRequest(create_request=create)

    async def _next(self, stream: Any) -> Any:
        # Cancelling a read cancels the call, so the read is kept while the server is asked.
        read = asyncio.ensure_future(stream.read())
        try:
            done, _ = await asyncio.wait({read}, timeout=self._timing.idle_s)
            if not done:
                ask = WatchRequest(progress_request=WatchProgressRequest())
                await self._within(stream.write(ask), "a progress request")
                done, _ = await asyncio.wait({read}, timeout=self._timing.answer_s)
            if not done:
                raise StoreUnavailable(f"the watch of {self._prefix} fell silent")
            answer = read.result()
        finally:
            # Also takes note of a failure that came while the question was being sent.
            read.cancel()
            await asyncio.gather(read, return_exceptions=True)
        if answer is grpc.aio.EOF:
            raise StoreUnavailable(f"etcd ended the watch of {self._prefix}")
        return answer

    async def _within(self, write: Any, what: str) -> None:
        try:
            async with asyncio.timeout(self._timing.answer_s):
                await write
        except TimeoutError as fault:
            raise StoreUnavailable(f"etcd did not take {what}") from fault
        except asyncio.InvalidStateError as fault:  # the call ended between two reads
            raise StoreUnavailable(f"etcd ended the watch of {self._prefix}") from fault
