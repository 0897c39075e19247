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
