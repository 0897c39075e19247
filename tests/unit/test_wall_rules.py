"""Which walls limits put up, and which of them forbid a start where they cannot stand."""

from __future__ import annotations

import pytest

from bridge_agent.limits.walls import decide, demanded
from bridge_core.node_class import Isolation, ResourceLimits


@pytest.mark.parametrize(
    ("limits", "walls"),
    [
        (ResourceLimits(), ()),
        (ResourceLimits(memory_max=1), ("cgroup",)),
        (ResourceLimits(disk_max=1), ("user", "mount")),
        (ResourceLimits(pids_max=1, disk_max=1), ("cgroup", "user", "mount")),
    ],
)
def test_a_limit_demands_the_walls_that_make_it_whole(limits: ResourceLimits, walls: tuple[str, ...]) -> None:
    assert demanded(limits) == walls


def test_no_other_user_is_in_an_engines_user_namespace() -> None:
    wanted = Isolation(walls=("mount", "user"), uid=990)
    decision = decide(wanted, {}, root=True)
    assert (decision.walls, decision.faults) == (("mount",), ())
    assert "no uid 990" in decision.missing["user"]
    (fault,) = decide(Isolation(walls=("mount",), require=("user",), uid=990), {}, root=True).faults
    assert "the wall 'user' is required and not to be had" in fault


def test_a_wall_that_only_serves_others_is_not_put_up_for_root() -> None:
    wanted = Isolation(walls=("mount",))
    assert decide(wanted, {}, root=True).walls == ("mount",)
    assert decide(wanted, {}, root=False).walls == ("user", "mount")


def test_an_engine_of_no_rights_needs_root_its_mounts_and_no_user_namespace() -> None:
    wanted = Isolation(walls=("mount", "unprivileged"))
    assert decide(wanted, {}, root=True).walls == ("mount", "unprivileged")
    assert "only root" in decide(wanted, {}, root=False).missing["unprivileged"]
    assert "needs the wall 'mount'" in decide(wanted, {"mount": "no"}, root=True).missing["unprivileged"]
    alone = decide(Isolation(walls=("unprivileged",)), {}, root=True)
    assert (alone.walls, set(alone.missing)) == ((), {"unprivileged"})
    both = decide(Isolation(walls=("user", "mount", "unprivileged")), {}, root=True)
    assert (both.walls, set(both.missing)) == (("user", "mount"), {"unprivileged"})
    # A user that was named is one, whoever it is.
    assert decide(Isolation(walls=("mount", "unprivileged"), uid=990), {}, root=True).missing == {}
    strict = decide(Isolation(walls=("mount",), require=("unprivileged",)), {"mount": "no"}, root=True)
    assert any("'unprivileged' is required" in fault for fault in strict.faults)
