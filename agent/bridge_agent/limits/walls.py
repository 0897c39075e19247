"""Which walls an engine gets, decided from what is wanted, required and possible. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from bridge_agent.limits.spec import by_groups
from bridge_core.node_class import Isolation, ResourceLimits

# In the order in which they are named to people.
WALLS: Final = (
    *("cgroup", "user", "mount", "pid", "ipc", "uts", "net", "unprivileged", "capabilities", "no_new_privs"),
)
NAMESPACES: Final = ("user", "mount", "pid", "ipc", "uts", "net")
# Where nothing is asked for: they cost nothing and break nothing. Groups take root or delegation,
# which an agent of somebody's own account has not.
FREE: Final = ("capabilities", "no_new_privs")
FREE_FOR_ROOT: Final = ("cgroup", *FREE)
# Whom engines behind the wall "unprivileged" run as: above what systems give to users and services, below
# what they give to containers. One for all: engines of several nodes on a machine share models by links.
ENGINE_UID: Final = 65_600


class WallDecision(msgspec.Struct, frozen=True):
    """The walls to put up, those that cannot be (with why), and the faults that forbid a start."""

    walls: tuple[str, ...]
    missing: Mapping[str, str]
    faults: tuple[str, ...]


def demanded(limits: ResourceLimits) -> tuple[str, ...]:
    """The walls without which an engine would be held to its limits by half.

    A quota holds what lies in folders, so the engine must write nowhere else ("mount"), and have no
    right that stands above quotas, as root's and a file owner's do outside a user namespace ("user").
    """
    found = ("cgroup",) if by_groups(limits) != ResourceLimits() else ()
    return found if limits.disk_max is None else (*found, "user", "mount")


def decide(isolation: Isolation, impossible: Mapping[str, str], *, root: bool) -> WallDecision:
    """Chooses the walls.

    A user namespace is only a means: an agent without root needs one for the others, one with
    root does not, and gets none unless it is asked for.

    Args:
        isolation: What is wanted.
        impossible: Wall to the reason why this machine does not allow it, from a probe.
        root: Whether the agent has root's privileges.
    """
    asked = isolation.walls
    if asked is None:
        asked = FREE_FOR_ROOT if root else FREE
    unknown = [wall for wall in (*asked, *isolation.require) if wall not in WALLS]
    faults = [f"there is no wall {wall!r}; there are {', '.join(WALLS)}" for wall in dict.fromkeys(unknown)]
    wanted = {wall for wall in (*asked, *isolation.require) if wall in WALLS}
    if not root and wanted & set(NAMESPACES):
        wanted.add("user")
    missing: dict[str, str] = {
        wall: impossible[wall] for wall in WALLS if wall in wanted and wall in impossible
    }
    if not root and "user" in missing:
        missing.update(
            {
                wall: f"needs root or a user namespace ({missing['user']})"
                for wall in NAMESPACES
                if wall in wanted
            }
        )
    if "unprivileged" in wanted and isolation.uid is None:
        if not root:
            missing["unprivileged"] = "only root can run engines as another user"
        elif "user" in wanted:
            missing["unprivileged"] = "the wall 'user' has no other user in it than the agent's own"
        elif "mount" in missing or "mount" not in wanted:
            # The state folder is the agent's alone; inside its own mounts the engine passes through.
            missing.setdefault("unprivileged", "needs the wall 'mount' to reach its folders")
    if root and isolation.uid is not None and "user" in wanted:
        missing.setdefault("user", f"has no other user in it than the agent's own, no uid {isolation.uid}")
    if isolation.uid is not None and not root:
        faults.append(f"only root can run engines as another user (uid {isolation.uid})")
    elif isolation.uid is not None and "mount" not in wanted - missing.keys():
        # The state folder is the agent's alone; inside its own mounts the engine passes through.
        faults.append(f"engines of uid {isolation.uid} need the wall 'mount' to reach their folders")
    faults.extend(
        f"the wall {wall!r} is required and not to be had: {missing[wall]}"
        for wall in missing
        if wall in isolation.require
    )
    return WallDecision(
        tuple(wall for wall in WALLS if wall in wanted and wall not in missing), missing, tuple(faults)
    )
