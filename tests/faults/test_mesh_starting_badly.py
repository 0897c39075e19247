"""Parts that cannot start, or not yet: each says why in a sentence, and keeps trying where that helps."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.mesh_bed import Mesh, call
from tests.cluster.up_bed import Bridge
from tests.support import eventually

pytestmark = [pytest.mark.cluster, pytest.mark.faults, pytest.mark.etcd, pytest.mark.llamacpp]


async def test_without_etcd_agent_and_registry_say_so_and_recover(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    for part in ("etcd", "registry", "node2"):
        await asyncio.to_thread(mesh.kill, part)
    started = [mesh.start(part) for part in ("registry", "node2")]

    def says_so() -> bool:
        logs = mesh.logs()
        sentence = f"etcd at {mesh.mesh()['etcd']['endpoints'][0]} does not answer"
        return all(sentence in logs[f"logs/{part}-alone.log"] for part in ("registry", "node2"))

    try:
        await eventually(says_so, 60)
        assert [process.poll() for process in started] == [None, None]
        status, _, _ = await asyncio.to_thread(call, mesh.address("node2"), "GET", "/api/tags")
        assert status == 200
    finally:
        for process in started:
            process.terminate()
            process.wait(30)
    await mesh.repair()
    await mesh.whole()


async def test_an_unreadable_key_is_named(harmed_mesh: Mesh) -> None:
    mesh = harmed_mesh
    await asyncio.to_thread(mesh.kill, "node2")
    key = mesh.state / "node2" / "identity" / "key.pem"
    kept = key.read_bytes()
    key.write_bytes(b"-----BEGIN PRIVATE KEY-----\nnonsense\n")
    try:
        ended = await asyncio.to_thread(mesh.run, "up", check=False)
    finally:
        key.write_bytes(kept)
    assert ended.returncode == 1
    assert "key.pem" in ended.stderr
    await mesh.repair()
    await mesh.whole()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs root, to mount a small one")
    where = tmp_path / "disk"
    where.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(where)], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"a full disk needs the right to mount: {mounted.stderr.decode()}")
    try:
        yield where
    finally:
        subprocess.run(["umount", "-l", str(where)], check=True)


def test_up_on_too_small_a_disk_says_so_and_leaves_no_process(small_disk: Path) -> None:
    bed = Bridge(small_disk / "state", 1)
    try:
        ended = bed.run("up", "--nodes", "1", "--base-port", str(bed.base_port), check=False)
        assert ended.returncode == 1
        assert "no space left on device" in ended.stderr.lower(), ended.stderr
        assert not bed.processes()
    finally:
        bed.kill_everything()


async def test_a_disk_that_fills_up_stops_no_answers(harmed_mesh: Mesh, small_disk: Path) -> None:
    """Audit records are lost and counted; requests are answered."""
    mesh = harmed_mesh
    audit = mesh.state / "node2" / "audit"
    await asyncio.to_thread(mesh.kill, "node2")
    (small_disk / "filler").write_bytes(b"x" * (24 << 20))
    kept = mesh.state / "audit-kept"
    if audit.exists():
        audit.rename(kept)
    audit.symlink_to(small_disk)
    try:
        await mesh.repair()
        ask = {"model": "tiny", "prompt": "x", "stream": False, "options": {"num_predict": 1}}
        for _ in range(3):
            status, _, body = await asyncio.to_thread(
                call, mesh.address("node2"), "POST", "/api/generate", ask
            )
            assert status == 200, body

        async def counted() -> bool:
            _, _, page = await asyncio.to_thread(call, mesh.address("node2", "admin"), "GET", "/metrics")
            lost = [line for line in page.decode().splitlines() if "audit" in line and "lost" in line]
            return any(float(line.split()[-1]) > 0 for line in lost if not line.startswith("#"))

        await eventually(counted)
    finally:
        await asyncio.to_thread(mesh.kill, "node2")
        audit.unlink()
        await mesh.repair()
