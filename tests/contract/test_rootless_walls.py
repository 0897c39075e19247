"""An agent of an ordinary user: which walls and limits stand, which do not, and what it says of those."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from bridge_agent.limits.cgroup import find_hierarchy, open_cgroups
from bridge_core.node_class import ResourceLimits

SOMEBODY = 61236  # nobody's number on any machine
WALLS = ("mount", "pid", "ipc", "uts", "net", "capabilities", "no_new_privs")
pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="SKIPPED LOUDLY: only root can become another user for this test"
)

# Run as that user; prints one line of JSON.
AGENT = """
import asyncio, contextlib, json, os, sys
from pathlib import Path
from bridge_agent.limits.cgroup import open_cgroups
from bridge_agent.engines.network import connect_inside
from bridge_agent.limits.isolation import probe
from bridge_agent.limits.launcher import IsolatedLauncher
from bridge_core.errors import BridgeError
from bridge_core.node_class import Isolation, ResourceLimits, NodeClass
from tests.inside import inside

asked = json.loads(sys.argv[1])
state, models = Path(asked["ground"]) / "state", Path(asked["ground"]) / "models"

async def main():
    cgroups, why = open_cgroups(f"test-{os.getpid()}")
    said = {"probe": await probe(), "without": why}
    isolation = Isolation(walls=tuple(asked["walls"]), require=tuple(asked["require"]))
    node_class = NodeClass(isolation=isolation, limits=ResourceLimits(**asked["limits"]))
    it = IsolatedLauncher(state, node_class=node_class, cgroups=cgroups, without=why)
    try:
        async with inside(
            it, state, asked["inside"], models=models, python=asked["python"]
        ) as (process, found):
            (report,) = it.reports()
            if "net" in report.walls:
                where = ("127.0.0.1", found["port"])
                with contextlib.closing(connect_inside(process.pid, where, 30)) as door:
                    said["door"] = door.getpeername()[1]
            said |= {"found": found, "walls": report.walls, "missing": report.missing}
            said["groups"] = sorted(cgroups.instances()) if cgroups else []
    except BridgeError as fault:
        said["refused"] = str(fault)
    said["left"] = sorted(cgroups.instances()) if cgroups else []
    print(json.dumps(said))

asyncio.run(main())
"""


def as_somebody(arguments: list[str], groups: tuple[Path, ...] = (), **options: Any):
    """Runs a program as that user, in cgroups if any are given."""
    enter = [
        "sh",
        "-c",
        'n=$1; shift; while [ $n -gt 0 ]; do echo $$ >"$1" || exit 9; shift; n=$((n-1)); done',
    ]
    enter[2] += f'; exec setpriv --reuid {SOMEBODY} --regid {SOMEBODY} --clear-groups -- "$@"'
    files = [str(group / "cgroup.procs") for group in groups]
    return subprocess.run(
        [*enter, "sh", str(len(files)), *files, *arguments],
        capture_output=True,
        text=True,
        check=False,
        cwd="/",
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *filter(None, sys.path)]),
        },
        timeout=120,
        **options,
    )


@functools.cache
def somebodys_python() -> str:
    """An interpreter that another user can run, with what the agent imports."""
    for python in (sys.executable, "/usr/bin/python3"):
        if (
            shutil.which("setpriv")
            and as_somebody(
                [python, "-c", "import os, sys, tests.inside, psutil; os.stat(sys.executable)"]
            ).returncode
            == 0
        ):
            return python
    return ""


@pytest.fixture
def ground():
    if not somebodys_python():
        pytest.skip("SKIPPED LOUDLY: no interpreter here that another user could run the agent with")
    folder = Path(tempfile.mkdtemp(prefix="bridge-rootless-", dir="/var/tmp"))
    folder.chmod(0o755)
    os.chown(folder, SOMEBODY, SOMEBODY)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def delegated():
    """A group in every tree that the user may do with as it likes, as systemd's Delegate=yes makes one."""
    ours, why = open_cgroups(f"test-{os.getpid()}-rootless")
    if ours is None:
        pytest.skip(f"SKIPPED LOUDLY: no cgroups here: {why}")
    made = tuple(Path(group).parent for group in ours.prepare("n1/user", ResourceLimits()))
    groups = tuple(group / "user" for group in made)
    for group in groups:
        for path in (group, *group.glob("cgroup.*"), *group.glob("tasks")):
            os.chown(path, SOMEBODY, SOMEBODY)
    yield groups
    # The agent is gone: what it made below goes first.
    for group in groups:
        for inner in sorted(group.rglob("*/"), key=lambda one: -len(one.parts)):
            with contextlib.suppress(OSError):
                inner.rmdir()
    ours.remove("n1/user")


def run_agent(ground: Path, groups: tuple[Path, ...] = (), **asked: Any) -> dict[str, Any]:
    python = somebodys_python()
    asked = {
        "ground": str(ground),
        "walls": WALLS,
        "require": [],
        "limits": {},
        "inside": {},
        "python": python,
    } | asked
    done = as_somebody([python, "-c", AGENT, json.dumps(asked)], groups)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_every_wall_of_a_user_stands_or_is_named_with_its_reason(ground):
    (ground / "secret").write_text("SECRET")
    asked = {"read": [str(ground / "secret"), "/etc/passwd"], "make": [str(ground / "models/new")]}
    said = run_agent(ground, inside=asked)
    found = said["found"]
    assert set(said["walls"]) | set(said["missing"]) == {*WALLS, "user"}
    assert not set(said["walls"]) & set(said["missing"])
    assert all(reason for reason in said["missing"].values())
    assert found["uid"] == SOMEBODY
    assert set(found["capabilities"][:16]) == {"0"}
    assert found["no_new_privs"] == "1"
    if "mount" in said["walls"]:
        assert found["read"][str(ground / "secret")] == "ENOENT"
        assert found["read"]["/etc/passwd"].startswith("root:")
        assert found["make"] == {str(ground / "models/new"): "ok"}
    if "net" in said["walls"]:
        assert found["interfaces"] == ["lo"]
        assert said["door"] == found["port"], "its agent, and nobody else, gets in"
    if "pid" in said["walls"]:
        assert found["pids"] == 1


def test_without_delegation_groups_are_missing_and_required_they_forbid_the_start(ground):
    said = run_agent(ground, walls=["cgroup"])
    assert said["missing"].keys() == {"cgroup"}
    assert "Delegate=yes" in said["missing"]["cgroup"] or "no cgroup controller" in said["missing"]["cgroup"]
    said = run_agent(ground, walls=[], require=["cgroup"])
    assert "'cgroup' is required and not to be had" in said["refused"]
    # A limit that nothing would hold is no limit: it is refused as well.
    said = run_agent(ground, walls=[], limits={"pids_max": 100})
    assert "'cgroup' is required and not to be had" in said["refused"]


def test_a_delegated_subtree_holds_a_users_engines(ground, delegated):
    controllers = set(find_hierarchy().controllers)
    limits = {"memory_max": 256 << 20} if "memory" in controllers else {}
    limits |= {"pids_max": 64} if "pids" in controllers else {}
    said = run_agent(ground, delegated, walls=["cgroup", "no_new_privs"], require=["cgroup"], limits=limits)
    assert said["without"] == ""
    assert said["walls"] == ["cgroup", "no_new_privs"], said
    assert said["groups"] == ["0"]
    assert said["left"] == []


def test_where_user_namespaces_are_forbidden_each_wall_says_so(ground):
    # A user namespace inside which no further one may be made: as on machines that forbid them.
    python = somebodys_python()
    asked = {
        "ground": str(ground),
        "walls": ["mount", "net"],
        "require": [],
        "limits": {},
        "inside": {},
        "python": python,
    }
    script = 'echo 0 >/proc/sys/user/max_user_namespaces && exec setpriv --bounding-set=-all -- "$@"'
    unshare = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c", script, "sh"]
    done = as_somebody([*unshare, python, "-c", AGENT, json.dumps(asked)])
    if done.returncode != 0:
        pytest.skip(f"SKIPPED LOUDLY: no user namespace to forbid others in: {done.stderr[-200:]}")
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["walls"] == []
    assert set(said["missing"]) == {"user", "mount", "net"}
    assert all("unshare: No space left on device" in reason for reason in said["missing"].values()), said
