"""A model's origin with the shared tier before it: what the tier has right does not come from outside.

See `OriginPort`. Made anew for each pull, so that a tier which failed one is tried again by the next.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from bridge_agent.models.origin import OriginFault, OriginPort, Stream
from bridge_agent.models.piece_rules import piece_count, piece_size
from bridge_agent.models.shared.tier import SharedTier, TierBlob, TierFault
from bridge_core.model_store.layout import hex_digest

AHEAD_BYTES: Final = 16 << 20
"""Of a blob that are on their way from the tier at one time: they are in memory meanwhile."""


class TieredOrigin:
    """The tier, and beyond it the origin.

    Args:
        tier: Asked first for each blob.
        beyond: Asked for what the tier does not have, or not right; None: nobody is.
    """

    def __init__(self, tier: SharedTier, beyond: OriginPort | None) -> None:
        self._tier: Final = tier
        self._beyond: Final = beyond
        self._lock = threading.Lock()
        self._gave: set[str] = set()
        self._passed_over: dict[str, str] = {}  # digest, and why

    def manifest(self) -> bytes:
        """See `OriginPort`: the origin's, whatever the tier has."""
        if self._beyond is None:
            raise OriginFault("it comes from the shared storage alone", hopeless=True)
        return self._beyond.manifest()

    def open(self, digest: str, size: int, piece: int) -> Stream:
        """See `OriginPort`."""
        with self._lock:
            passed_over = self._passed_over.get(digest)
        if passed_over is None:
            try:
                blob = self._tier.open(hex_digest(digest), size)
            except TierFault as fault:
                self.pass_over(digest, fault.message)
            else:
                with self._lock:
                    self._gave.add(digest)
                return _TierStream(self, blob, digest)
        return self.open_beyond(digest, size, piece)

    def open_beyond(self, digest: str, size: int, piece: int) -> Stream:
        """The blob from the origin. Raises OriginFault; hopeless where there is none."""
        if self._beyond is None:
            raise OriginFault(self._passed_over.get(digest, "there is no origin"), hopeless=True)
        return self._beyond.open(digest, size, piece)

    def pass_over(self, digest: str, why: str) -> None:
        """The tier is not asked for this blob any more."""
        with self._lock:
            self._passed_over[digest] = why

    def kept(self, digest: str) -> None:
        """See `OriginPort`."""
        with self._lock:
            whole = digest in self._gave and digest not in self._passed_over
        if whole:
            self._tier.gave()

    def doubted(self, digest: str, size: int, stopped: Callable[[], bool]) -> None:
        """See `OriginPort`: reads the tier's file, which is passed over where it is not what it should be."""
        hex_ = hex_digest(digest)
        if self._has_given(digest) and not self._tier.doubt(hex_, size, stopped):
            self.pass_over(digest, f"what the shared storage has as blob {hex_[:12]} is wrong")

    def _has_given(self, digest: str) -> bool:
        with self._lock:
            return digest in self._gave


class _TierStream:
    """A blob on its way from the tier; where that fails, the rest comes from the origin.

    Where each piece is a question of its own, those that follow are asked for meanwhile, `AHEAD_BYTES` of
    them at most.
    """

    def __init__(self, origin: TieredOrigin, blob: TierBlob, digest: str) -> None:
        self._origin = origin
        self._blob = blob
        self._digest = digest
        self._rest: Stream | None = None
        self._ahead = max(1, min(blob.ahead, AHEAD_BYTES // piece_size(blob.size)))
        self._count = piece_count(blob.size)
        self._coming: dict[int, Future[bytes]] = {}
        self._threads = ThreadPoolExecutor(self._ahead, "tier-ahead") if self._ahead > 1 else None

    def read(self, piece: int) -> bytes:
        """See `Stream`."""
        if self._rest is None:
            try:
                return self._piece(piece)
            except TierFault as fault:
                self._origin.pass_over(self._digest, fault.message)
                self._let_go()
            self._rest = self._origin.open_beyond(self._digest, self._blob.size, piece)
        return self._rest.read(piece)

    def _piece(self, piece: int) -> bytes:
        if self._threads is None:
            return self._blob.piece(piece)
        for one in range(piece, min(piece + self._ahead, self._count)):
            if one not in self._coming:
                self._coming[one] = self._threads.submit(self._blob.piece, one)
        return self._coming.pop(piece).result()

    def close(self) -> None:
        """See `Stream`."""
        self._let_go()
        if self._rest is not None:
            self._rest.close()

    def _let_go(self) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)
            self._coming.clear()  # what came meanwhile is in memory
        self._blob.close()
