"""What scenarios of a registry begin with."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.fakes.store import FakeEtcd
from tests.registry_bed import Bed, leading


@pytest.fixture
async def etcd() -> FakeEtcd:
    """The store in memory."""
    return FakeEtcd()


@pytest.fixture
async def bed(tmp_path: Path, etcd: FakeEtcd) -> AsyncIterator[Bed]:
    """A registry over it, which leads."""
    async with leading(tmp_path, etcd) as found:
        yield found
