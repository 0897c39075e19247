"""Who of the admins may what: pure.

Rules:
1. `viewer` sees everything; `operator` also changes what nodes, models, clients and documents do; `admin`
   also says who the admins are, restores the store and has authorities replaced.
2. Before anybody is on record the founder is: the admin whose certificate every registry has in its own
   folder, beside the key of the CA. Once somebody is on record, what is recorded alone counts.
3. There is always one with the role admin, and a name is never given twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from bridge_core.clients import Admin, Role
from bridge_core.errors import BridgeError
from bridge_registry.records import AdminRecord

FOUNDER: Final = "admin"
ROLES: Final[tuple[Role, ...]] = ("viewer", "operator", "admin")
MAX_ADMINS: Final = 1000  # on record, those deleted included
MAX_WITH_ALL: Final = 64  # with the role admin: a transaction looks at every one of them
_FOUNDER: Final = AdminRecord(Admin(FOUNDER, "admin"))


def on_record(records: Mapping[str, AdminRecord]) -> Mapping[str, AdminRecord]:
    """Every admin there ever was, the founder included."""
    return records or {FOUNDER: _FOUNDER}


def present(records: Mapping[str, AdminRecord]) -> dict[str, AdminRecord]:
    """The admins there are."""
    return {name: one for name, one in on_record(records).items() if not one.deleted}


def deciding(records: Mapping[str, AdminRecord]) -> list[str]:
    """Who has the role admin: of them none may go unseen, or nobody might be left."""
    return [name for name, one in present(records).items() if one.admin.role == "admin"]


def role_of(name: str, records: Mapping[str, AdminRecord]) -> Role | None:
    """What an admin may; None: there is none of this name."""
    found = on_record(records).get(name)
    return None if found is None or found.deleted else found.admin.role


def suffices(role: Role, needed: Role) -> bool:
    """Whether a role may what another one is needed for."""
    return ROLES.index(role) >= ROLES.index(needed)


def checked_role(text: str) -> Role:
    """The role that `text` names.

    Raises:
        BridgeError: none.
    """
    for role in ROLES:
        if role == text:
            return role
    raise BridgeError(f"{text[:80]!r} is no role of an admin", hint=f"one of {', '.join(ROLES)}")


def check_new(name: str, role: Role, records: Mapping[str, AdminRecord]) -> None:
    """Returns when a certificate may be made for an admin of this name and role.

    Raises:
        BridgeError: it may not.
    """
    found = on_record(records).get(name)
    if found is None:
        if len(on_record(records)) >= MAX_ADMINS:
            raise BridgeError(f"a mesh has {MAX_ADMINS} admins at most, those deleted included")
        if role == "admin" and len(deciding(records)) >= MAX_WITH_ALL:
            raise BridgeError(f"{MAX_WITH_ALL} at most have the role admin", hint="make an operator")
    elif found.deleted:
        raise BridgeError(
            f"the admin {name} was deleted, and names of admins are not given again",
            hint="choose another name",
        )
    elif found.admin.role != role:
        raise BridgeError(
            f"there is an admin {name} already, with the role {found.admin.role}",
            hint="choose another name; for another certificate of the same admin say the same role",
        )


def check_deletion(name: str, records: Mapping[str, AdminRecord]) -> AdminRecord:
    """The record of an admin who may be deleted.

    Raises:
        BridgeError: there is none of this name, or it is the last who may everything.
    """
    found = present(records).get(name)
    if found is None:
        raise BridgeError(f"there is no admin {name[:80]!r}", hint="`bridgectl admin list` shows them")
    if deciding(records) == [name]:
        raise BridgeError(
            f"{name} is the only one with the role admin: nobody could make another",
            hint="make another first: `bridgectl admin create NAME --role admin`",
        )
    return found
