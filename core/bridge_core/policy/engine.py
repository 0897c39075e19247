"""Decides who may do what, by the policies of one snapshot. Pure.

Rules (why they are so: docs/adr/access-policies.md):
1. A Deny that holds wins over every Allow, and over every default; for admins, too.
2. Else an Allow that holds allows.
3. Else the default counts (`defaults`), unless the model is closed. A model is closed once an Allow in
   force names it for `predict`, `embed` or `*`: then nobody may do anything with it that no Allow names
   them for, not even who calls a node's loopback; admins alone may, by their role. Allows of other
   actions close nothing.
4. Who is allowed to predict or embed may list and show as well: clients look before they ask. A Deny
   forbids what it names, and no more.
5. All conditions of a policy must hold, and each policy stands for itself.
6. A policy in shadow decides nothing. It is named where it alone, put in force, would have refused.
7. Names of models are compared in canonical form, patterns with every spelling (`resources`). A route is
   asked about by its own name: who may use it needs no right to its backends, and gets none by it.
8. A condition that this agent cannot answer (the labels of the node that will answer, before one is
   chosen; a client's address, over a hop) refuses nothing here and allows for now: `Verdict.by_node` says
   that the node that answers has the last word.
9. An action that names no model (`name` empty: a blob's upload) is allowed by any Allow of the action,
   whichever models that names, and refused by a Deny of the action that names all of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec

from bridge_core.identity.principal import Principal
from bridge_core.policy import resources
from bridge_core.policy.conditions import NO, UNDECIDED, UNKNOWN, YES, Answer, Check
from bridge_core.policy.defaults import may_beside_policies, may_by_default
from bridge_core.policy.facts import Facts
from bridge_core.policy.globs import Patterns
from bridge_core.policy.statements import AccessPolicy, Action, Condition, ResourceKind
from bridge_core.policy.subjects import Subjects, identities
from bridge_core.security_settings import SecuritySettings

_CLOSING: Final[frozenset[Action]] = frozenset({"predict", "embed", "*"})
_SEEING: Final[tuple[Action, ...]] = ("list", "show")
_MOST: Final = 8192  # of what is remembered, by names that clients make up
_NO_FACTS: Final = Facts()


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What was decided.

    Attributes:
        allowed: Whether it may be done.
        policy: Which one decided; empty: none, the defaults did.
        reason: In words, why: for those who may know the policies.
        shadowed: Policies in shadow that would have refused it.
        by_node: It hangs on the node that answers as well, which decides again.
    """

    allowed: bool
    policy: str = ""
    reason: str = ""
    shadowed: tuple[str, ...] = ()
    by_node: bool = False


class _Rule:
    """One policy."""

    __slots__ = (
        "acts",
        "allowed",
        "checks",
        "closes",
        "denied",
        "deny",
        "name",
        "of_subject",
        "shadow",
        "subjects",
    )

    def __init__(self, policy: AccessPolicy) -> None:
        self.name = policy.name
        self.deny = policy.effect == "Deny"
        self.shadow = policy.shadow
        self.subjects = Subjects(policy.subjects)
        acts = set[Action](policy.actions)
        self.closes = not self.deny and not acts.isdisjoint(_CLOSING)
        if self.closes:
            acts.update(_SEEING)
        self.acts = acts
        found = [(Check(one), one) for one in policy.conditions]
        self.of_subject: list[tuple[Check, Condition]] = [one for one in found if one[0].of_subject]
        self.checks = tuple(check for check, _ in found if not check.of_subject)
        self.allowed = Verdict(True, self.name, f"policy {self.name} allows it")
        self.denied = Verdict(False, self.name, f"policy {self.name} denies it")

    def names_action(self, action: Action) -> bool:
        return action in self.acts or "*" in self.acts

    def is_about(self, who: Principal, known: tuple[tuple[str, str], ...]) -> bool:
        """Whether it names somebody, with the attributes that they have."""
        if not self.subjects.include(known):  # type: ignore[arg-type]  # what `identities` made
            return False
        return all(
            self._counts(check.of_attribute(who.attributes.get(condition.key)))
            for check, condition in self.of_subject
        )

    def holds(self, facts: Facts) -> Answer:
        """Whether its conditions about the request do: YES, NO or UNKNOWN."""
        found = YES
        for check in self.checks:
            answer = check.of_request(facts)
            if answer is UNKNOWN:
                found = UNKNOWN
            elif answer is not YES and not self._counts(answer):
                return NO
        return found

    def _counts(self, answer: Answer) -> bool:
        return answer is YES or (answer is UNDECIDED and self.deny)


class PolicyBook:
    """The policies of one snapshot, ready to decide.

    Args:
        policies: All of them.
        settings: Of the mesh.
    """

    def __init__(self, policies: Iterable[AccessPolicy], settings: SecuritySettings) -> None:
        self.settings = settings
        self._exact: dict[tuple[ResourceKind, str], list[int]] = {}
        self._patterns: dict[ResourceKind, Patterns] = {}
        self._rules: list[_Rule] = []
        for number, policy in enumerate(sorted(policies, key=lambda one: one.name)):
            self._rules.append(_Rule(policy))
            for resource in policy.resources:
                for kind in resource.kinds:
                    for name in resource.names:
                        self._enter(kind, name, number)
        self._about: dict[tuple[ResourceKind, str], tuple[_Rule, ...]] = {}

    def _enter(self, kind: ResourceKind, name: str, number: int) -> None:
        if resources.is_pattern(name):
            self._patterns.setdefault(kind, Patterns()).add(resources.pattern(kind, name), number)
        else:
            self._exact.setdefault((kind, resources.exact(kind, name)), []).append(number)

    def rights(self, who: Principal) -> Rights:
        """What somebody may do: to be kept for as long as the same principal asks."""
        return Rights(self, who)

    def decide(
        self, who: Principal, action: Action, kind: ResourceKind, name: str, facts: Facts = _NO_FACTS
    ) -> Verdict:
        """Whether somebody may do something.

        Args:
            who: Who asks.
            action: What for, one that is (not `*`).
            kind: Of what it is done to.
            name: Of a model or route in canonical form, empty for none in particular; else as it is.
            facts: Of the request.
        """
        return Rights(self, who).decide(action, kind, name, facts)

    def about(self, kind: ResourceKind, name: str) -> tuple[_Rule, ...]:
        """The policies that name a resource, by name."""
        found = self._about.get((kind, name))
        if found is None:
            if len(self._about) >= _MOST:
                self._about.clear()
            numbers = self._any(kind) if not name else self._named(kind, name)
            found = self._about[kind, name] = tuple(self._rules[number] for number in sorted(numbers))
        return found

    def _named(self, kind: ResourceKind, name: str) -> set[int]:
        numbers = set(self._exact.get((kind, name), ()))
        patterns = self._patterns.get(kind)
        if patterns is not None:
            for said in resources.spellings(kind, name):
                numbers.update(patterns.that_fit(said))
        return numbers

    def _any(self, kind: ResourceKind) -> set[int]:
        """Rule 9."""
        entered = {number for (its, _), found in self._exact.items() if its == kind for number in found}
        patterns = self._patterns.get(kind)
        whole = set(patterns.that_fit("")) if patterns is not None else set[int]()
        entered.update(() if patterns is None else patterns.numbers)
        return {number for number in entered if number in whole or not self._rules[number].deny}


class Rights:
    """What one principal may do, by one snapshot: what hangs on nothing else is decided once.

    Args:
        book: The snapshot's policies.
        who: The principal.

    Attributes:
        settled: What hangs on no request, by action, kind and name, as far as it was asked.
    """

    __slots__ = ("_book", "_cases", "_known", "settled", "who")

    def __init__(self, book: PolicyBook, who: Principal) -> None:
        self._book = book
        self._known = identities(who)
        self._cases: dict[tuple[Action, ResourceKind, str], _Case] = {}
        self.settled: dict[tuple[Action, ResourceKind, str], Verdict] = {}
        self.who = who

    def decide(self, action: Action, kind: ResourceKind, name: str, facts: Facts) -> Verdict:
        """The decision; see `PolicyBook.decide`."""
        key = action, kind, name
        verdict = self.settled.get(key)
        if verdict is not None:
            return verdict
        case = self._cases.get(key)
        if case is None:
            if len(self._cases) + len(self.settled) >= _MOST:
                self._cases.clear()
                self.settled.clear()
            case = self._new_case(action, kind, name)
            if case.settled is not None:
                self.settled[key] = case.settled
                return case.settled
            self._cases[key] = case
        return case.decide(facts)

    def _new_case(self, action: Action, kind: ResourceKind, name: str) -> _Case:
        who, settings = self.who, self._book.settings
        if who.kind == "local" and settings.local_listener == "off":
            return _Case(Verdict(False, "", "the mesh's setting localListener is off"))
        about = self._book.about(kind, name)
        its = [rule for rule in about if rule.names_action(action) and rule.is_about(who, self._known)]
        closes = kind == "Model" and bool(name) and not may_beside_policies(who, action)
        closed = closes and any(rule.closes and not rule.shadow for rule in about)
        by_default = may_by_default(who, action, kind, name, settings)
        if closed:
            otherwise = Verdict(
                False, "", "the model is closed: policies say who may use it, none names the caller for this"
            )
        elif by_default:
            otherwise = Verdict(True, "", "no policy says otherwise, and by default it is allowed")
        else:
            otherwise = Verdict(False, "", "no policy allows it, and by default it is not allowed")
        mine = set(map(id, its))
        would_close = [(rule, id(rule) in mine) for rule in about if closes and rule.closes and rule.shadow]
        case = _Case(None)
        case.denies = _until_sure(rule for rule in its if rule.deny and not rule.shadow)
        case.allows = _until_sure(rule for rule in its if not rule.deny and not rule.shadow)
        case.otherwise = otherwise
        case.shadow_denies = [rule for rule in its if rule.deny and rule.shadow]
        case.would_close = would_close
        return case.settle()


class _Case:
    """One action of one principal on one resource: what is left to be asked of each request."""

    __slots__ = ("allows", "denies", "otherwise", "settled", "shadow_denies", "would_close")

    def __init__(self, settled: Verdict | None) -> None:
        self.settled = settled
        self.denies: list[_Rule] = []
        self.allows: list[_Rule] = []
        self.shadow_denies: list[_Rule] = []
        self.would_close: list[tuple[_Rule, bool]] = []
        self.otherwise = Verdict(False)

    def settle(self) -> _Case:
        """Decides it for good where no request can make a difference."""
        rules = [
            *self.denies,
            *self.allows,
            *self.shadow_denies,
            *(rule for rule, mine in self.would_close if mine),
        ]
        if not any(rule.checks for rule in rules):
            self.settled = self.decide(_NO_FACTS)
        return self

    def decide(self, facts: Facts) -> Verdict:
        """See `PolicyBook.decide`."""
        by_node = False
        for rule in self.denies:
            answer = rule.holds(facts)
            if answer is YES:
                return rule.denied
            by_node = by_node or answer is UNKNOWN
        verdict, maybe = self.otherwise, None
        for rule in self.allows:
            answer = rule.holds(facts)
            if answer is YES:
                verdict = rule.allowed
                break
            if answer is UNKNOWN and maybe is None:
                maybe = rule
        if not verdict.allowed:
            if maybe is None:
                return verdict
            verdict, by_node = maybe.allowed, True
        shadowed = self._shadowed(facts, by_default=verdict is self.otherwise)
        if not shadowed and not by_node:
            return verdict
        return Verdict(True, verdict.policy, verdict.reason, shadowed, by_node)

    def _shadowed(self, facts: Facts, *, by_default: bool) -> tuple[str, ...]:
        found = [rule.name for rule in self.shadow_denies if rule.holds(facts) is YES]
        if by_default:
            found += [rule.name for rule, mine in self.would_close if not mine or rule.holds(facts) is NO]
        return tuple(sorted(found)) if found else ()


def _until_sure(rules: Iterable[_Rule]) -> list[_Rule]:
    """Up to the first that hangs on nothing of a request: those behind it are never asked."""
    found = []
    for rule in rules:
        found.append(rule)
        if not rule.checks:
            break
    return found
