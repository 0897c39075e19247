"""What stands around engines where no NodeClass applies to the node."""

from __future__ import annotations

import os
from typing import Final

from bridge_agent.limits.cgroup import find_hierarchy
from bridge_core.node_class import Isolation, NodeClass

# Not the wall "net": models are pulled through the network. No limits: the group alone holds each engine to
# the most that one may take of a node.
_BEHIND: Final = ("cgroup", "mount", "pid", "ipc", "uts", "capabilities", "no_new_privs")
DEFAULT: Final = NodeClass(name="default", isolation=Isolation(walls=(*_BEHIND, "unprivileged")))
DELEGATED: Final = NodeClass(name="default", isolation=Isolation(walls=_BEHIND))
# Somebody's own account, without groups of its own: nothing is walled off.
UNCLASSED: Final = NodeClass(name="none", isolation=Isolation(walls=()))


def default_class() -> NodeClass:
    """The class of this node where no other applies: by the rights that this process has."""
    if os.geteuid() == 0:
        return DEFAULT
    # A service of its user's own. In the scope of a terminal the group is the shell's, too.
    tree = next((one for one in find_hierarchy().trees.values() if one.version == 2), None)
    if tree is None or not tree.own.endswith(".service") or not os.access(tree.own, os.W_OK):
        return UNCLASSED
    return DELEGATED
