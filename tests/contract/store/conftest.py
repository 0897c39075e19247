"""Fixtures of the store's contract suite."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from bridge_core.errors import Fatal
from bridge_core.etcd_server import find_etcd
from bridge_core.store.api import Store
from tests.contract.store.beds import Bed, Certificates, EtcdBed, FakeBed


@pytest.fixture(scope="module")
def etcd_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdBed]:
    """One etcd a module; tests keep apart by their prefixes."""
    try:
        find_etcd()
    except Fatal as fault:
        pytest.skip(str(fault))
    folder = tmp_path_factory.mktemp("etcd")
    bed = EtcdBed(folder, Certificates(folder))
    bed.server.start()
    yield bed
    bed.server.stop()


@pytest.fixture
async def etcd_bed(etcd_process: EtcdBed) -> AsyncIterator[EtcdBed]:
    """A real etcd that answers, left running and answering."""
    if not etcd_process.server.pid:
        etcd_process.server.start()
    await etcd_process.ready()
    yield etcd_process
    etcd_process.server.signal(signal.SIGCONT)


@pytest.fixture
async def own_etcd(tmp_path: Path) -> AsyncIterator[EtcdBed]:
    """A server that the test may change for good."""
    bed = EtcdBed(tmp_path, Certificates(tmp_path))
    bed.server.start()
    await bed.ready()
    yield bed
    bed.server.stop()


@pytest.fixture(params=["fake", pytest.param("etcd", marks=pytest.mark.etcd)])
async def bed(request: pytest.FixtureRequest) -> AsyncIterator[Bed]:
    """Either; what a test does on both has to come out the same."""
    if request.param == "fake":
        yield FakeBed()
        return
    etcd = request.getfixturevalue("etcd_process")
    if not etcd.server.pid:
        etcd.server.start()
    await etcd.ready()
    yield etcd
    etcd.server.signal(signal.SIGCONT)


@pytest.fixture
async def store(bed: Bed) -> AsyncIterator[Store]:
    """A client of the bed."""
    client = bed.client()
    yield client
    await client.close()


@pytest.fixture
def prefix(request: pytest.FixtureRequest) -> str:
    """A corner of the store of the test's own."""
    return f"/test/{request.node.name}/"
