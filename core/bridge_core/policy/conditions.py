"""The conditions of a policy, compiled. Pure.

What is asked about may be absent, unreadable, or unknown to the agent that asks:

| | the answer |
|---|---|
| absent, and NotIn | undecided |
| absent, any other operator | no |
| of the wrong type, or the condition itself makes no sense | undecided |
| not known at this agent | unknown |

Undecided holds in a Deny and does not in an Allow: what cannot be read opens nothing.
"""

from __future__ import annotations

import ipaddress
from enum import Enum
from functools import lru_cache
from typing import Final

from bridge_core.addresses import ip_of
from bridge_core.policy.facts import DAYS, Facts, clock, number
from bridge_core.policy.globs import Glob
from bridge_core.policy.statements import Condition, Operator

NODE: Final = "node."
_IS_ONE_OF: Final[frozenset[Operator]] = frozenset({"In", "NotIn"})
_NUMBERS: Final[frozenset[Operator]] = frozenset({"In", "NotIn", "Exists", "Gt", "Lt"})
_TEXTS: Final[frozenset[Operator]] = frozenset({"In", "NotIn", "Exists", "Gt", "Lt", "Matches"})
OF_REQUEST: Final[dict[str, frozenset[Operator]]] = {
    "time": frozenset({"Gt", "Lt"}),
    "weekday": _IS_ONE_OF,
    "network": frozenset({"CIDR", "Exists"}),
    "num_ctx": _NUMBERS,
    "keep_alive": _NUMBERS,
    "images": _NUMBERS,
}
"""Keys about a request, and what they can be asked; any other key is an attribute or a node's label."""


class Answer(Enum):
    """Whether a condition holds."""

    NO = 0
    YES = 1
    UNDECIDED = 2
    UNKNOWN = 3


# Looked up at once; an attribute of an Enum is not.
NO: Final = Answer.NO
YES: Final = Answer.YES
UNDECIDED: Final = Answer.UNDECIDED
UNKNOWN: Final = Answer.UNKNOWN


def operators_of(key: str) -> frozenset[Operator]:
    """The operators that fit a key."""
    return OF_REQUEST.get(key, _TEXTS)


class Check:
    """One condition.

    Attributes:
        of_subject: It is about who asks, and so the same for all of a principal's requests.
    """

    __slots__ = (
        "_globs",
        "_key",
        "_label",
        "_networks",
        "_numbers",
        "_operator",
        "_sound",
        "_texts",
        "of_subject",
    )

    def __init__(self, condition: Condition) -> None:
        key, operator, values = condition.key, condition.operator, condition.values
        self._key = key
        self._label = key.removeprefix(NODE) if key.startswith(NODE) else ""
        self._operator = operator
        self.of_subject = key not in OF_REQUEST and not key.startswith(NODE)
        self._texts = frozenset(values)
        self._globs = [Glob(value) for value in values]
        self._numbers: list[float] = []
        self._networks: list[tuple[int, int, int]] = []  # version, mask, address
        self._sound = fault(condition) is None
        if self._sound and operator == "CIDR":
            networks = [ipaddress.ip_network(value) for value in values]
            self._networks = [(one.version, int(one.netmask), int(one.network_address)) for one in networks]
        elif self._sound and (operator in {"Gt", "Lt"} or operators_of(key) == _NUMBERS):
            read = clock if key == "time" else number
            self._numbers = [found for value in values if (found := read(value)) is not None]

    def of_attribute(self, value: str | None) -> Answer:
        """Whether it holds for an attribute of the subject; None: it has none of that name."""
        return self._of_text(value) if self._sound else UNDECIDED

    def of_request(self, facts: Facts) -> Answer:
        """Whether it holds for a request."""
        key = self._key
        if not self._sound:
            return UNDECIDED
        if key == "num_ctx":
            return self._of_number(facts.num_ctx)
        if key == "network":
            return self._of_address(facts.network)
        if self._label:
            return UNKNOWN if facts.node is None else self._of_text(facts.node.get(self._label))
        if key == "time":
            return self._of_number(facts.second_of_day)
        if key == "weekday":
            return self._of_text(facts.weekday)
        return self._of_number(facts.keep_alive if key == "keep_alive" else facts.images)

    def _of_text(self, value: str | None) -> Answer:
        operator = self._operator
        if value is None:
            return UNDECIDED if operator == "NotIn" else NO
        if operator == "In":
            return YES if value in self._texts else NO
        if operator == "NotIn":
            return NO if value in self._texts else YES
        if operator == "Exists":
            return YES
        if operator == "Matches":
            return YES if any(glob.matches(value) for glob in self._globs) else NO
        found = number(value)
        return UNDECIDED if found is None else self._of_number(found)

    def _of_number(self, value: float | None) -> Answer:
        operator = self._operator
        if value is None:
            return UNDECIDED if operator == "NotIn" else NO
        if operator == "Exists":
            return YES
        if value != value:  # noqa: PLR0124 - how one that is no number is found
            return UNDECIDED
        if operator == "Gt":
            return YES if value > self._numbers[0] else NO
        if operator == "Lt":
            return YES if value < self._numbers[0] else NO
        return YES if (value in self._numbers) is (operator == "In") else NO

    def _of_address(self, value: str | None) -> Answer:
        if value is None:
            return UNKNOWN
        if not value:
            return NO
        if self._operator == "Exists":
            return YES
        address = _address(value)
        if address is None:
            return UNDECIDED
        version, bits = address
        for its, mask, network in self._networks:
            if its == version and bits & mask == network:
                return YES
        return NO


def fault(condition: Condition) -> str | None:
    """Why a condition makes no sense, in words; None where it does."""
    key, operator, values = condition.key, condition.operator, condition.values
    fit = operators_of(key)
    if operator not in fit:
        return f"{operator} does not fit {key}: one of {', '.join(sorted(fit))}"
    if key == NODE:
        return "node. needs a label behind it: node.zone, or node.name"
    if operator == "Exists":
        return "Exists takes no values" if values else None
    if not values:
        return f"{operator} needs a value: without one it would never hold"
    if operator in {"Gt", "Lt"} and len(values) > 1:
        return f"{operator} takes one value"
    for value in values:
        said = _value_fault(key, operator, value)
        if said is not None:
            return said
    return None


def _value_fault(key: str, operator: Operator, value: str) -> str | None:
    if key == "time":
        return None if clock(value) is not None else f"{value!r} is no time of the day such as 08:00 (UTC)"
    if key == "weekday":
        return None if value in DAYS else f"{value!r} is no day: one of {', '.join(DAYS)}"
    if operator == "CIDR":
        try:
            ipaddress.ip_network(value)
        except ValueError as wrong:
            return f"{value!r} is no network such as 10.0.0.0/8: {wrong}"
        return None
    if (operator in {"Gt", "Lt"} or key in OF_REQUEST) and number(value) is None:
        return f"{value!r} is no number"
    return None


@lru_cache(maxsize=1024)
def _address(text: str) -> tuple[int, int] | None:
    """Version and number of an address; None: it is none."""
    try:
        address = ip_of(text)
    except ValueError:
        return None
    return address.version, int(address)
