"""What may be done where no policy says it. Pure.

| who | may |
|---|---|
| an admin with the role `operator` or `admin` | everything, closed models too |
| an admin with the role `viewer` | list, show and explain everything; else what a client may |
| `local`, listener `open` | everything at its own node, and use every model of the mesh |
| `local`, listener `policy` | what a client may |
| `local`, listener `off` | nothing, whatever policies say |
| a client, a user, a node's certificate | use models, where the mesh's default effect is Allow |

To use a model is to predict, embed, list, show, unload and explain. To change what a node has (pull, push,
create with its blobs, copy, delete) takes an admin, a policy, or somebody who sits at that node.
"""

from __future__ import annotations

from typing import Final

from bridge_core.identity.principal import ROLE, Principal
from bridge_core.policy.statements import Action, ResourceKind
from bridge_core.security_settings import SecuritySettings

USES: Final[frozenset[Action]] = frozenset({"predict", "embed", "list", "show", "unload", "explain"})
_CHANGING_ROLES: Final = frozenset({"operator", "admin"})
_SEES: Final[frozenset[Action]] = frozenset({"list", "show", "explain"})
CHANGES: Final[frozenset[Action]] = frozenset({"pull", "push", "create", "copy", "delete"})


def may_beside_policies(who: Principal, action: Action) -> bool:
    """Whether somebody may do something to whatever it is, by a role: no policy has to allow it."""
    if who.kind != "admin":
        return False
    return action in _SEES or who.attributes.get(ROLE) in _CHANGING_ROLES


def may_by_default(
    who: Principal, action: Action, kind: ResourceKind, name: str, settings: SecuritySettings
) -> bool:
    """Whether somebody may do something that no policy is about.

    Args:
        who: Who asks.
        action: What for.
        kind: Of what it is done to.
        name: Of a model in canonical form, empty for any; else a node's or document's.
        settings: The mesh's.
    """
    if may_beside_policies(who, action):
        return True
    local = who.kind == "local"
    if local and settings.local_listener == "off":
        return False
    if kind == "Config":
        return False
    if kind == "Node":
        # What a client may change is said by what it may do to models, wherever they lie.
        return name == who.name if local else action in CHANGES
    if local and settings.local_listener == "open":
        return True
    return action in USES and settings.default_effect == "Allow"
