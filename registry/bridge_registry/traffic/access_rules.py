"""A question to the policies, read from an admin's words: pure."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Final, get_args

import msgspec

from bridge_core.clients import Admin, Client
from bridge_core.errors import BridgeError
from bridge_core.identity.principal import ROLE, Principal, local
from bridge_core.names import InvalidName, canonical
from bridge_core.policy.conditions import NODE, OF_REQUEST
from bridge_core.policy.facts import DAYS, Facts, clock, number
from bridge_core.policy.statements import Action, ResourceKind
from bridge_core.quantities import parse_duration
from bridge_core.spelling import did_you_mean, shortened

_ACTIONS: Final[tuple[Action, ...]] = tuple(one for one in get_args(Action) if one not in {"*", "drain"})
_FORMS: Final = "NAME, client/NAME, admin/NAME, node/NAME, local@NODE, group/NAME or user/PROVIDER#SUBJECT"
_DAY_S: Final = 86_400
_MONDAY: Final = 4 * _DAY_S  # the first one, in Unix seconds
_FOR_EVER: Final = -1.0


class Known(msgspec.Struct, frozen=True):
    """Whom the mesh knows.

    Attributes:
        domain: Its trust domain.
        clients: By name.
        admins: By name.
        clusters: Identity providers whose tokens are Kubernetes' own.
    """

    domain: str
    clients: Mapping[str, Client]
    admins: Mapping[str, Admin]
    clusters: Collection[str] = ()


def subject(text: str, groups: tuple[str, ...], attributes: Mapping[str, str], known: Known) -> Principal:
    """Whom an admin means.

    Args:
        text: In one of the forms that policy.proto names.
        groups: More that it belongs to.
        attributes: More that it has.
        known: Whom the mesh knows.

    Raises:
        BridgeError: nobody, in words.
    """
    kind, slash, name = text.partition("/")
    if text.startswith("local@"):
        return local(text.removeprefix("local@"))
    if not slash or "#" in kind:
        kind, name = ("user", text) if "#" in text else ("client", text)
    if not name:
        raise BridgeError(f"{shortened(repr(text))} names nobody", hint=_FORMS)
    uri = f"spiffe://{known.domain}/{kind}/{name}"
    if kind == "client":
        client = known.clients.get(name)
        if client is None:
            hint = (
                _FORMS
                if not known.clients
                else did_you_mean(name, known.clients).removeprefix(": ") or _FORMS
            )
            raise BridgeError(f"there is no client {shortened(name)}", hint=hint)
        return Principal("client", name, uri, (*client.groups, *groups), {**client.attributes, **attributes})
    if kind == "group":
        return Principal("client", "", f"any client of {name}", (name, *groups), attributes)
    if kind == "user":
        provider, mark, account = name.partition("#")
        if not (provider and mark and account):
            raise BridgeError("a user is <provider>#<subject>", hint=_FORMS)
        is_account = provider in known.clusters
        return Principal("user", account, name, groups, attributes, service_account=is_account)
    if kind == "node":
        return Principal("node", name, uri, groups, attributes)
    if kind == "admin":
        admin = known.admins.get(name)
        if admin is None:
            raise BridgeError(
                f"there is no admin {shortened(name)}", hint="`bridgectl admin list` lists them"
            )
        return Principal("admin", name, uri, (), {ROLE: admin.role})
    raise BridgeError(f"{shortened(repr(kind))} is no kind of subject", hint=_FORMS)


def action(text: str) -> Action:
    """What is to be done.

    Raises:
        BridgeError: policies know nothing of the kind.
    """
    found = next((one for one in _ACTIONS if one == text), None)
    if found is None:
        says = f"{shortened(repr(text))} is no action of policies"
        raise BridgeError(says + did_you_mean(text, _ACTIONS), hint=f"one of {', '.join(_ACTIONS)}")
    return found


def resource(kind: str, name: str) -> tuple[ResourceKind, str]:
    """What it is done to.

    Raises:
        BridgeError: it cannot be that.
    """
    if kind == "Node":
        if not name:
            raise BridgeError("which node?")
        return "Node", name
    if kind not in {"", "Model"}:
        raise BridgeError(f"policies are about a Model or a Node, not a {shortened(kind)}")
    try:
        return "Model", canonical(name) if name else ""
    except InvalidName:
        raise BridgeError(f"{shortened(repr(name))} is not a model name") from None


def split(given: Mapping[str, str]) -> tuple[dict[str, str], dict[str, str]]:
    """What is said of the request, and what of the subject."""
    of_request = {key: value for key, value in given.items() if key in OF_REQUEST or key.startswith(NODE)}
    return of_request, {key: value for key, value in given.items() if key not in of_request}


def facts(given: Mapping[str, str], now: float) -> Facts:
    """What is so besides.

    Args:
        given: By the keys of conditions about a request.
        now: Unix seconds, where no time is given.

    Raises:
        BridgeError: a value is none.
    """
    labels = {key.removeprefix(NODE): value for key, value in given.items() if key.startswith(NODE)}
    return Facts(
        _moment(given.get("weekday"), given.get("time"), now),
        given.get("network"),
        _amount(given, "num_ctx"),
        _seconds(given.get("keep_alive")),
        _amount(given, "images") or 0.0,
        labels or None,
    )


def _moment(day: str | None, time: str | None, now: float) -> float:
    second = now % _DAY_S
    if time is not None:
        at = clock(time)
        if at is None:
            raise BridgeError(f"time={shortened(time)} is no time of the day such as 08:00 (UTC)")
        second = at
    if day is None:
        return now - now % _DAY_S + second
    if day not in DAYS:
        raise BridgeError(f"weekday={shortened(day)} is no day: one of {', '.join(DAYS)}")
    return _MONDAY + DAYS.index(day) * _DAY_S + second


def _amount(given: Mapping[str, str], key: str) -> float | None:
    if key not in given:
        return None
    found = number(given[key])
    if found is None:
        raise BridgeError(f"{key}={shortened(given[key])} is no number")
    return found


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    found = number(text)
    if found is None:
        try:
            found = parse_duration(text)
        except ValueError:
            raise BridgeError(
                f"keep_alive={shortened(text)} is no number of seconds, and no duration"
            ) from None
    return math.inf if found <= _FOR_EVER else found
