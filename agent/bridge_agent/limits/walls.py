"""Which walls an engine gets, decided from what is wanted, required and possible. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

# In the order in which they are named to people.
WALLS: Final = ("cgroup", "user", "mount", "pid", "ipc", "uts", "net", "capabilities", "no_new_privs")
NAMESPACES: Final = ("user", "mount", "pid", "ipc", "uts", "net")


class Isolation(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a NodeClass asks for.

    Attributes:
        walls: Put up where the machine allows it.
        require: Without one of these the engine does not start.
        uid: Unprivileged user the engine runs as; None: the agent's own.
        gid: Its group.
    """

    walls: tuple[str, ...] = ()
    require: tuple[str, ...] = ()
    uid: int | None = None
    gid: int | None = None


class Decision(msgspec.Struct, frozen=True):
    """The walls to put up, those that cannot be (with why), and the faults that forbid a start."""

    walls: tuple[str, ...]
    missing: Mapping[str, str]
    faults: tuple[str, ...]


def decide(isolation: Isolation, impossible: Mapping[str, str], *, root: bool) -> Decision:
    """Chooses the walls.

    A user namespace is only a means: an agent without root needs one for the others, one with
    root does not, and gets none unless it is asked for.

    Args:
        isolation: What is wanted.
        impossible: Wall to the reason why this machine does not allow it, from a probe.
        root: Whether the agent has root's privileges.
    """
    unknown = [wall for wall in (*isolation.walls, *isolation.require) if wall not in WALLS]
    faults = [f"there is no wall {wall!r}; there are {', '.join(WALLS)}" for wall in dict.fromkeys(unknown)]
    wanted = {wall for wall in (*isolation.walls, *isolation.require) if wall in WALLS}
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
    faults.extend(
        f"the wall {wall!r} is required and not to be had: {missing[wall]}"
        for wall in missing
        if wall in isolation.require
    )
    return Decision(
        tuple(wall for wall in WALLS if wall in wanted and wall not in missing), missing, tuple(faults)
    )
