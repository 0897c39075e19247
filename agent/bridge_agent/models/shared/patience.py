"""Work on storage that may hang: nobody waits for it longer than a time, and few threads hang with it.

A read of a mounted NFS or CephFS whose servers are gone blocks in the kernel and cannot be called off. So
each piece of work has a thread of its own, which nobody waits for beyond its time; while `most` of them
hang, further work is refused at once. The threads are daemons: the process may end without them.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from bridge_core.errors import BridgeError, Reaction

T = TypeVar("T")

MOST: Final = 8
"""Threads that may be at work, or hang, at one time."""


async def aside(work: Callable[[], None]) -> None:
    """Waits for what is done in a daemon thread; cancelled, it leaves the thread to its end."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()

    def over(fault: BaseException | None) -> None:
        if not done.done():
            if fault is None:
                done.set_result(None)
            else:
                done.set_exception(fault)

    def run() -> None:
        fault: BaseException | None = None
        try:
            work()
        except Exception as caught:  # noqa: BLE001 - raised again where it is waited for
            fault = caught
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            loop.call_soon_threadsafe(over, fault)

    threading.Thread(target=run, daemon=True, name="shared-storage-aside").start()
    await done


class StorageHangs(BridgeError):
    """The storage did not do it in time.

    Attributes:
        abandoned: A thread is still at it, and tells `late` when it is over.
    """

    reaction = Reaction.ELSEWHERE

    def __init__(self, message: str, *, abandoned: bool = False) -> None:
        super().__init__(message)
        self.abandoned = abandoned


def is_left(fault: BridgeError) -> bool:
    """Whether a thread is still at the work whose hang this fault tells of: it was raised `from` that."""
    cause = fault.__cause__
    return isinstance(cause, StorageHangs) and cause.abandoned


class _Work(Generic[T]):
    """One piece of work; `abandoned` and `over` are under its lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.done = threading.Event()
        self.abandoned = False
        self.result: list[T] = []
        self.fault: BaseException | None = None


class Patience:
    """Runs work in threads.

    Args:
        within_s: How long each may take.
        most: See `MOST`.
    """

    def __init__(self, within_s: float, most: int = MOST) -> None:
        self.within_s: Final = within_s
        self._slots = threading.Semaphore(most)
        self._lock = threading.Lock()
        self._hanging = 0

    @property
    def hanging(self) -> int:
        """Threads that nobody waits for any more, and that are not over."""
        with self._lock:
            return self._hanging

    def call(
        self,
        work: Callable[[], T],
        *,
        late: Callable[[T | None], None] = lambda _: None,
        within_s: float = 0.0,
    ) -> T:
        """What `work` returns; blocks for the time that it may take, and that waiting for a thread took.

        Args:
            work: Done in a thread.
            late: Told, in that thread, of a result that nobody waits for any more (None: it failed), to let
                go of what was opened or is in use.
            within_s: Another time than the usual one.

        Raises:
            StorageHangs: it took longer, all threads hang, or there is none to be had.
            Whatever `work` raises.
        """
        within = within_s or self.within_s
        until = time.monotonic() + within
        if not self._slots.acquire(timeout=within):
            raise StorageHangs(f"{self.hanging} reads and writes hang there already")
        one = _Work[T]()
        thread = threading.Thread(
            target=self._run, args=(one, work, late), daemon=True, name="shared-storage"
        )
        try:
            thread.start()
        except RuntimeError as fault:  # this process may have no more of them, or is about to end
            self._slots.release()
            raise StorageHangs(f"no thread can be had to read or write there ({fault})") from fault
        if not one.done.wait(max(0.0, until - time.monotonic())):
            with one.lock:
                if not one.done.is_set():
                    one.abandoned = True
                    with self._lock:
                        self._hanging += 1
                    raise StorageHangs(f"it did not answer within {within:g} s", abandoned=True)
        if one.fault is not None:
            raise one.fault
        return one.result[0]

    def _run(self, one: _Work[T], work: Callable[[], T], late: Callable[[T | None], None]) -> None:
        try:
            one.result.append(work())
        except BaseException as fault:  # noqa: BLE001 - raised again where it is waited for
            one.fault = fault
        with one.lock:
            one.done.set()
            abandoned = one.abandoned
        try:
            if abandoned:
                late(one.result[0] if one.result else None)
        finally:
            if abandoned:
                with self._lock:
                    self._hanging -= 1
            self._slots.release()
