"""Waiting until an etcd answers."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

from bridge_core.backoff import Backoff
from bridge_core.errors import BridgeError
from bridge_core.store.etcd import ClientTls, EtcdStore, StoreTiming


async def ready(urls: Sequence[str], tls: ClientTls | None, deadline_s: float) -> None:
    """Returns when the etcd at `urls` answers a linearizable read.

    Raises:
        BridgeError: it did not within `deadline_s`; the last reason.
    """
    end = time.monotonic() + deadline_s
    pause = Backoff(random.Random(), first_s=0.02, most_s=0.25)  # noqa: S311 - jitter
    store = EtcdStore(urls, tls, timing=StoreTiming(connect_s=0.5, answer_s=1.0))
    try:
        while True:
            try:
                await store.get("/bridge/ready")
                return
            except BridgeError:
                if time.monotonic() > end:
                    raise
            await asyncio.sleep(pause.next_s())
    finally:
        await store.close()
