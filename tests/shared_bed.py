"""Shared storage in a plain folder, with models put there as a publisher does; and a registry of leases."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

from bridge_agent.models.piece_rules import span
from bridge_agent.models.shared.hold import PublishHold
from bridge_agent.models.shared.patience import Patience
from bridge_core.errors import BridgeError, Unavailable
from bridge_core.names import ModelName
from tests.contract.models_bed import digest_of, manifest_of

T = TypeVar("T")


def forever() -> bool:
    return True


def goes_on(_: int) -> None:
    return


def pieces(data: bytes) -> Callable[[int], bytes]:
    def read(piece: int) -> bytes:
        begin, length = span(len(data), piece)
        return data[begin : begin + length]

    return read


class Share:
    """A folder that several nodes have mounted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)
        (root / "manifests").mkdir()

    def blob(self, data: bytes) -> Path:
        """Where the blob of these bytes is or would be."""
        return self.root / "blobs" / digest_of(data).replace(":", "-")

    def manifest(self, name: str) -> Path:
        """Where a model's manifest is or would be."""
        parsed = ModelName.parse(name)
        return self.root / "manifests" / parsed.host / parsed.namespace / parsed.model / parsed.tag

    def put(self, name: str, *blobs: bytes, config: bytes = b"{}") -> bytes:
        """Puts a model there; returns its manifest."""
        for one in (*blobs, config):
            self.blob(one).write_bytes(one)
        data, path = manifest_of(*blobs, config=config), self.manifest(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return data

    def all(self) -> dict[str, tuple[int, bytes]]:
        """Every file, what is in it, and when it was written."""
        return {
            str(one.relative_to(self.root)): (one.stat().st_mtime_ns, one.read_bytes())
            for one in sorted(self.root.rglob("*"))
            if one.is_file()
        }


class Hanging(Patience):
    """Storage whose reads and writes hang while `stop` was called and not yet `go`.

    Only those are given up soon: a busy machine is not taken for a hung one.
    """

    def __init__(self) -> None:
        super().__init__(60.0)
        self._going = threading.Event()
        self._going.set()

    def stop(self) -> None:
        self._going.clear()

    def go(self) -> None:
        self._going.set()

    def call(
        self,
        work: Callable[[], T],
        *,
        late: Callable[[T | None], None] = lambda _: None,
        within_s: float = 0.0,
    ) -> T:
        def waited() -> T:
            self._going.wait()
            return work()

        within = within_s if self._going.is_set() else 0.05
        return super().call(waited, late=late, within_s=within)


class Leases:
    """A registry that gives leases as the real one does, in this process.

    Attributes:
        holders: By tier and model.
        valid_s: What is answered to a beat.
    """

    address = "leases.test:1"

    def __init__(self, node: str = "a", *, of: Leases | None = None) -> None:
        self.node = node
        self.holders: dict[tuple[str, str], str] = {} if of is None else of.holders
        self.alone: dict[str, str] = {} if of is None else of.alone  # the model that is removed, by tier
        self.valid_s = 10.0
        self.down = False
        self.tokens = 0

    @contextlib.asynccontextmanager
    async def publish(self) -> AsyncIterator[_Call]:
        if self.down:
            raise Unavailable("this registry is down")
        call = _Call(self)
        try:
            yield call
        finally:
            await call.done()


class _Call:
    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._key: tuple[str, str] | None = None
        self._alone = False

    async def send(self, tier: str, model: str, *, alone: bool = False) -> None:
        if self._leases.down:
            raise Unavailable("this registry is down")
        if self._key is None:
            for (at, other), holder in self._leases.holders.items():
                if at == tier and (alone or other in (model, self._leases.alone.get(tier))):
                    raise BridgeError(
                        f"registry {self._leases.address} refused: node {holder} is publishing {other}"
                    )
            self._key, self._alone = (tier, model), alone
            if alone:
                self._leases.alone[tier] = model
            self._leases.holders[self._key] = self._leases.node
            self._leases.tokens += 1

    async def receive(self) -> PublishHold:
        if self._leases.down:
            raise Unavailable("this registry is down")
        return PublishHold(self._leases.tokens, self._leases.valid_s, self._alone)

    async def done(self) -> None:
        if self._key is not None:
            self._leases.holders.pop(self._key, None)
            if self._alone:
                self._leases.alone.pop(self._key[0], None)
            self._key = None
