"""What stands around an engine where no NodeClass applies: real processes, walls as they are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from bridge_agent.engines.logfile import LogFile
from bridge_agent.engines.process import LaunchSpec, ProcessRecord
from bridge_agent.limits import default_class, folders
from bridge_agent.limits.default_class import DEFAULT, DELEGATED, UNCLASSED
from bridge_agent.limits.isolation_report import concerns
from bridge_agent.limits.launcher import IsolatedLauncher, IsolationRefused
from bridge_agent.limits.surroundings import engine_groups
from bridge_agent.limits.walls import ENGINE_UID
from bridge_core.node_class import Isolation, NodeClass
from tests.contract.test_walls import every_wall, ground  # fixtures
from tests.engine_support import everything_of, fake_config, supervised
from tests.inside import inside

__all__ = ["every_wall", "ground"]

rooted = pytest.mark.skipif(os.geteuid() != 0, reason="SKIPPED LOUDLY: walls of an agent with root need root")
NO_GROUPS = {"cgroups": None, "without": "not in this test"}


@pytest.fixture
def umask() -> Iterator[None]:
    """That of our units."""
    usual = os.umask(0o077)
    yield
    os.umask(usual)


@rooted
async def test_an_engine_is_walled_off_without_a_word_of_anybody(every_wall, ground, umask) -> None:
    state = ground / "state"
    groups, why = engine_groups("n1", state)
    it = IsolatedLauncher(state, node_class=DEFAULT, cgroups=groups, without=why)
    async with supervised(fake_config(ground), state, launcher=it) as engine:
        await engine.state("ready", 60)
        report = it.report("n1/0")
        assert set(report.walls) | set(report.missing) == set(DEFAULT.isolation.walls or ())
        assert set(report.missing) <= {"cgroup"}
        pids = everything_of(ProcessRecord.load(engine.record))
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in pids} == {ENGINE_UID}
        if groups is not None:
            assert (report.limits.memory_max or 0) > 0  # at most 85 % of the node
        async with engine.client() as client:
            assert await client.version()


@rooted
async def test_a_wall_that_cannot_stand_is_named_and_the_engine_serves_without_it(every_wall, ground) -> None:
    state, shared = ground / "state", ground / "shared"
    shared.mkdir()
    config = msgspec.structs.replace(fake_config(ground), models_dir=str(shared))
    it = IsolatedLauncher(state, node_class=DEFAULT, **NO_GROUPS)
    async with supervised(config, state, launcher=it) as engine:
        await engine.state("ready", 60)
        report = it.report("n1/0")
        assert set(report.missing) == {"cgroup", "unprivileged"}
        assert "does not change hands" in report.missing["unprivileged"]
        assert shared.stat().st_uid == 0
        said = concerns([report])
        assert any(one.startswith("n1/0 has no wall unprivileged: ") for one in said)
        async with engine.client() as client:
            assert await client.version()


@rooted
async def test_a_program_that_only_root_can_execute_runs_as_root_and_says_so(every_wall, ground) -> None:
    state, program = ground / "state", ground / "engine"
    config = fake_config(ground)
    program.write_bytes(Path(config.binary or "").read_bytes())
    program.chmod(0o700)
    it = IsolatedLauncher(state, node_class=DEFAULT, **NO_GROUPS)
    config = msgspec.structs.replace(config, binary=str(program))
    async with supervised(config, state, launcher=it) as engine:
        await engine.state("ready", 60)
        assert "is closed to other users" in it.report("n1/0").missing["unprivileged"]


@rooted
async def test_required_it_refuses_instead(every_wall, ground) -> None:
    state, shared = ground / "state", ground / "shared"
    shared.mkdir()
    required = NodeClass("strict", isolation=Isolation(walls=("mount",), require=("unprivileged",)))
    it = IsolatedLauncher(state, node_class=required, **NO_GROUPS)
    with pytest.raises(IsolationRefused, match="the wall 'unprivileged' is required and not to be had"):
        async with inside(it, state, {}, models=shared):
            pass


@rooted
def test_a_model_that_nodes_share_by_links_stays_the_agents(ground) -> None:
    folder, models = ground / "engines/0", ground / "models"
    for one in (folder / "home", models):
        one.mkdir(parents=True)
    for name, mode in (("own", 0o644), ("shared", 0o644), ("closed", 0o600)):
        (models / name).write_bytes(b"blob")
        (models / name).chmod(mode)
    for name in ("shared", "closed"):
        (ground / f"cache-{name}").hardlink_to(models / name)
    spec = LaunchSpec(("true",), {}, folder, LogFile(folder / "log"), "n1/0", writable=(models,))
    folders.give(spec, ENGINE_UID, ENGINE_UID)
    owners = {path.name: path.stat().st_uid for path in models.iterdir()}
    # What the engine could not read otherwise has to be its own.
    assert owners == {"own": ENGINE_UID, "shared": 0, "closed": ENGINE_UID}


def test_the_default_goes_by_the_rights_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_class.default_class() == DEFAULT
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert default_class.default_class() == UNCLASSED
    assert set(DELEGATED.isolation.walls or ()) < set(DEFAULT.isolation.walls or ())
