"""Access policies as a snapshot has them."""

from __future__ import annotations

from typing import Annotated, Final, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Name, Text

SubjectKind: TypeAlias = Literal["User", "Group", "Node", "ServiceAccount"]
ResourceKind: TypeAlias = Literal["Model", "Node", "Config"]
Action: TypeAlias = Literal[
    "predict",
    "embed",
    "list",
    "show",
    "pull",
    "push",
    "create",
    "copy",
    "delete",
    "unload",
    "explain",
    "drain",
    "admin",
    "*",
]
Operator: TypeAlias = Literal["In", "NotIn", "Exists", "Gt", "Lt", "Matches", "CIDR"]
Effect: TypeAlias = Literal["Allow", "Deny"]

MAX_PARTS: Final = 256  # subjects, resources, actions, conditions or values of one policy


class Subject(msgspec.Struct, frozen=True):
    """Whom a policy is about; in the name `*` stands for any characters."""

    kind: SubjectKind
    name: Text


class Resource(msgspec.Struct, frozen=True):
    """What a policy is about; in names `*` stands for any characters, of a model but a slash."""

    kinds: Annotated[tuple[ResourceKind, ...], msgspec.Meta(max_length=MAX_PARTS)]
    names: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_PARTS)]


class Condition(msgspec.Struct, frozen=True, omit_defaults=True):
    """What must hold besides; all conditions of a policy must.

    Attributes:
        key: An attribute of the subject by its name; `time` (HH:MM, UTC), `weekday` (Mon … Sun),
            `network` (the client's address), `num_ctx`, `keep_alive` (seconds), `images` (how many) of
            the request; `node.<label>` of the node that answers.
        operator: How it is compared.
        values: With what.
    """

    key: Text
    operator: Operator
    values: Annotated[tuple[Text, ...], msgspec.Meta(max_length=MAX_PARTS)] = ()


class AccessPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """One ModelAccessPolicy. A Deny that applies wins over every Allow.

    Attributes:
        name: The document's.
        shadow: It decides nothing; what it would have refused is recorded.
    """

    name: Name
    subjects: Annotated[tuple[Subject, ...], msgspec.Meta(max_length=MAX_PARTS)]
    resources: Annotated[tuple[Resource, ...], msgspec.Meta(max_length=MAX_PARTS)]
    actions: Annotated[tuple[Action, ...], msgspec.Meta(max_length=MAX_PARTS)]
    conditions: Annotated[tuple[Condition, ...], msgspec.Meta(max_length=MAX_PARTS)] = ()
    effect: Effect = "Allow"
    shadow: bool = False
