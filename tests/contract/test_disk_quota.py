"""A limit of the disk, on file systems with project quotas: of this test's own, in a loop device."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bridge_agent.limits import disk_quota
from bridge_agent.limits.cgroup import LimitsRefused
from bridge_agent.limits.isolation import probe
from bridge_agent.limits.isolation_report import concerns
from bridge_agent.limits.launcher import IsolatedLauncher, IsolationRefused
from bridge_core.node_class import Isolation, NodeClass, ResourceLimits
from tests.engine_support import fake_config, supervised
from tests.inside import inside

MIB = 1 << 20
SIZE = 512 * MIB
MAKE = {
    "ext4": ("mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota", "-N", "20000"),
    "xfs": ("mkfs.xfs", "-q"),
}
FULL = {"EDQUOT", "ENOSPC"}  # ext4 says the one, xfs the other
ELSEWHERE = 7  # a project of an administrator
pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: only root mounts and sets quotas"),
]


def run(*argv: object) -> str:
    """Runs a command; what it complains of, "" when it succeeds."""
    done = subprocess.run([str(one) for one in argv], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else (done.stderr or done.stdout or str(done.returncode)).strip()


@pytest.fixture(scope="module", params=MAKE)
def disk(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    make = MAKE[request.param]
    folder = tmp_path_factory.mktemp("disk")
    image, point = folder / "image", folder / "mounted"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(SIZE)
    if shutil.which(make[0]) is None:
        pytest.skip(f"SKIPPED LOUDLY: there is no {make[0]} here (Debian: e2fsprogs, xfsprogs)")
    if why := run(*make, image):
        pytest.skip(f"SKIPPED LOUDLY: no {request.param} with project quotas can be made here: {why}")
    if why := run("mount", "-o", "loop,prjquota", image, point):
        pytest.skip(f"SKIPPED LOUDLY: {why.splitlines()[0]} (has this kernel project quotas?)")
    try:
        yield point
    finally:
        assert run("umount", point) == ""


@pytest.fixture
def ground(disk: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    folder = disk / request.node.originalname
    folder.mkdir()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
async def walls() -> None:
    if impossible := await probe():
        pytest.skip(f"SKIPPED LOUDLY: this machine does not allow every wall: {impossible}")


def launcher(state: Path, most: int | None, **isolation) -> IsolatedLauncher:
    isolation.setdefault("walls", ())
    node_class = NodeClass(limits=ResourceLimits(disk_max=most), isolation=Isolation(**isolation))
    return IsolatedLauncher(state, node_class=node_class, cgroups=None, without="not in this test")


def usage(folder: Path) -> tuple[int, int] | None:
    return disk_quota.usage(str(folder))


def free(folder: Path) -> int:
    there = os.statvfs(folder)
    return there.f_bavail * there.f_frsize


async def test_a_flood_of_home_and_models_ends_at_the_limit_and_leaves_the_disk_to_others(walls, ground):
    state, models = ground / "state", ground / "models"
    home = state / "engines/0/home"
    floods = {str(home / "flood"): 64 * MIB, str(models / "flood"): 64 * MIB}
    places = [str(ground / "flood"), str(state / "flood"), "/var/tmp/flood", "/usr/flood"]
    asked = {"fill": floods, "make": places, "litter": {f"{home}/empty-": 5000}}
    it = launcher(state, 8 * MIB)
    async with inside(it, state, asked, models=models) as (_, found):
        report = it.report("n1/0")
        assert set(report.walls) >= {"user", "mount"}
        assert report.stored.keys() == {str(home), str(models)}
        assert any(f"has filled {models}" in said for said in concerns([report]))
        stored, limit = usage(models)
        assert limit == 8 * MIB
        assert 7 * MIB <= stored <= limit
        assert usage(home)[0] <= limit
        assert free(ground) > SIZE // 2
        beside = ground / "beside"
        beside.write_bytes(bytes(16 * MIB))
    assert found["fill"].keys() == floods.keys()
    assert {*found["fill"].values(), found["litter"][f"{home}/empty-"]} <= FULL
    # Elsewhere is its own tmpfs, or read-only.
    assert [place for place in places if Path(place).exists()] == []


async def test_without_a_limit_the_same_flood_takes_what_it_likes(ground):
    # What shows that the test above could fail.
    state, models = ground / "state", ground / "models"
    floods = {str(state / "engines/0/home/flood"): 64 * MIB}
    async with inside(launcher(state, None), state, {"fill": floods}, models=models) as (_, found):
        assert found["fill"] == dict.fromkeys(floods, "ok")


async def test_an_engine_cannot_take_its_files_out_of_their_project(walls, ground):
    state, models = ground / "state", ground / "models"
    models.mkdir(mode=0o700)
    (models / "blob").write_bytes(bytes(MIB))
    asked = {"leave": [str(models), str(models / "blob")]}
    async with inside(launcher(state, 8 * MIB), state, asked, models=models) as (_, found):
        assert found["leave"] == {str(models): "EINVAL", str(models / "blob"): "EINVAL"}
        assert usage(models)[0] >= MIB, "what was there before counts"
    # Why there is the wall "user": without it, whoever owns a file does as it likes.
    async with inside(launcher(state, None), state, asked, models=models) as (_, found):
        assert set(found["leave"].values()) == {"ok"}


async def test_a_limit_follows_its_class_while_the_engine_runs_and_is_lifted_at_a_start(walls, ground):
    state = ground / "state"
    config = fake_config(ground)
    it = launcher(state, 8 * MIB)
    home = state / "engines/0/home"
    async with supervised(config, state, launcher=it, leave=True) as engine:
        await engine.state("ready", 60)
        isolation = it.node_class.isolation
        assert it.update(NodeClass(limits=ResourceLimits(disk_max=16 * MIB), isolation=isolation)) == ()
        assert usage(home)[1] == 16 * MIB
        assert it.update(NodeClass(limits=ResourceLimits(disk_max=SIZE * 2), isolation=isolation)) == (
            "n1/0",
        )
        assert "the disk has" in it.report("n1/0").pending
        assert usage(home)[1] == 16 * MIB
    again = launcher(state, 4 * MIB)
    async with supervised(config, state, launcher=again) as engine:
        await engine.state("ready", 60)
        assert engine.status.adopted
        assert usage(home)[1] == 4 * MIB
        assert again.update(NodeClass(isolation=isolation)) == ("n1/0",)
        assert "disk_max can be lifted only at its next start" in again.report("n1/0").pending
    async with supervised(config, state, launcher=launcher(state, None)) as engine:
        await engine.state("ready", 60)
        assert usage(home) is None


def test_models_are_copied_where_a_link_would_leave_the_project(ground):
    from bridge_engine.seed import seed

    models, cache = ground / "models", ground / "cache"
    seed(models, ["tiny"], cache)
    linked = {path.name for path in (models / "blobs").iterdir() if path.stat().st_nlink > 1}
    assert linked, "on one file system the blobs are the cache's own"
    shutil.rmtree(models)
    models.mkdir()
    disk_quota.hold([models], 64 * MIB)
    seed(models, ["tiny"], cache)
    blobs = list((models / "blobs").iterdir())
    assert {path.name for path in blobs} >= linked
    assert {path.stat().st_nlink for path in blobs} == {1}
    assert usage(models)[0] >= sum(path.stat().st_size for path in blobs)


def test_a_folder_of_another_project_is_left_alone(ground):
    folder = ground / "models"
    folder.mkdir()
    assert run("chattr", "-p", ELSEWHERE, folder) == ""
    with pytest.raises(LimitsRefused, match=f"belongs to project {ELSEWHERE} of its file system already"):
        disk_quota.hold([folder], 8 * MIB)
    disk_quota.hold([folder], None)
    assert usage(folder) is None


def test_links_are_not_followed_and_pipes_not_waited_for(ground):
    folder, outside = ground / "models", ground / "outside"
    folder.mkdir()
    outside.mkdir()
    (folder / "link").symlink_to(outside)
    os.mkfifo(folder / "pipe")
    disk_quota.hold([folder], 8 * MIB)
    (outside / "file").write_bytes(bytes(16 * MIB))  # of no project
    assert usage(outside) is None


async def test_where_the_file_system_has_no_quotas_nothing_is_started_and_it_says_why(walls):
    ground = Path("/dev/shm", f"bridge-test-{os.getpid()}")
    try:
        with pytest.raises(LimitsRefused, match="keeps no project quotas: mount it with prjquota"):
            async with inside(launcher(ground, 8 * MIB), ground, {}, models=ground / "models"):
                pass
        assert not (ground / "engines/0/home/answer").exists()
    finally:
        shutil.rmtree(ground, ignore_errors=True)


async def test_an_engine_of_another_user_is_not_started_with_a_limit_of_the_disk(walls, tmp_path):
    it = launcher(tmp_path / "state", 8 * MIB, uid=61235)
    with pytest.raises(IsolationRefused, match="'user' is required and not to be had: has no other user"):
        async with inside(it, tmp_path / "state", {}, models=tmp_path / "models"):
            pass
