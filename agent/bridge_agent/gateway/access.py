"""Who may do what here, by the policies of the snapshot in force.

The node that a request comes in at decides, and the node that answers decides again, by its own snapshot:
each knows what the other does not (the client's address, its own labels).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Final

import msgspec

from bridge_agent.gateway.arrival import Arrival
from bridge_agent.gateway.asked_facts import facts_of
from bridge_agent.gateway.peek import Peek
from bridge_agent.routing.choose import Decision
from bridge_agent.routing.view import Index, MeshView, Skipped, Target
from bridge_core.identity.principal import Principal, local
from bridge_core.names import canonical_or_same
from bridge_core.policy.engine import PolicyBook, Rights, Verdict
from bridge_core.policy.facts import Facts, node_facts
from bridge_core.policy.statements import Action, ResourceKind
from bridge_core.snapshot import Snapshot

_MOST: Final = 4096  # principals that are remembered
_ELSEWHERE: Final = "policies do not let the caller use it there"


class Access:
    """Decides, and remembers what hangs on the snapshot and the caller alone.

    Args:
        view: Has the snapshot.
        node: This node's name.
        clock: Unix seconds.
    """

    def __init__(self, view: MeshView, node: str, clock: Callable[[], float] = time.time) -> None:
        self._view = view
        self._node = node
        self._clock = clock
        self._local = local(node)
        self._policies = view.current.policies
        self._book = _book(view.current)
        # By the principal's identity, for which each keeps it alive: of one name there may be several, as
        # another token of a user may say other groups.
        self._rights: dict[int, Rights] = {}
        view.subscribe(self._follow)

    def verdict(
        self,
        arrival: Arrival,
        action: Action,
        name: str,
        peeked: Peek | None = None,
        *,
        kind: ResourceKind = "Model",
    ) -> Verdict:
        """Whether a request may do something.

        Args:
            arrival: The request.
            action: What for.
            name: Of a model in canonical form, empty for none in particular; else a node's.
            peeked: What it asks for, where its body was read.
            kind: Of what it is done to.
        """
        who = arrival.caller.who
        rights = self._rights.get(id(who))
        if rights is None or rights.who is not who:
            rights = self._new_rights(who)
        verdict = rights.settled.get((action, kind, name))
        if verdict is None:
            node = node_facts(self._node, self._labels(self._node)) if arrival.over_hop else None
            verdict = rights.decide(action, kind, name, facts_of(arrival, peeked, self._clock(), node))
        return verdict

    def sees_of(self, arrival: Arrival) -> Callable[[str], bool]:
        """Whether a model of a canonical name is in the lists that a caller gets."""
        return lambda name: self.verdict(arrival, "list", name).allowed

    def explains(self, name: str) -> bool:
        """Whether a program on this node may see why requests for a model went where they went."""
        if not name:
            return True
        return self._book.decide(self._local, "explain", "Model", name, Facts(self._clock())).allowed

    def _new_rights(self, who: Principal) -> Rights:
        if len(self._rights) >= _MOST:
            self._rights = {}
        rights = self._rights[id(who)] = self._book.rights(who)
        return rights

    def _follow(self, index: Index) -> None:
        """Another snapshot may be in force: what is compiled stays while policies and settings do."""
        snapshot = index.snapshot
        self._rights = {}
        if snapshot.policies != self._policies or snapshot.mesh.security != self._book.settings:
            self._policies, self._book = snapshot.policies, _book(snapshot)

    def within(
        self, arrival: Arrival, action: Action, name: str, peeked: Peek | None, decision: Decision
    ) -> Decision:
        """A decision with only those candidates on whose nodes policies let the caller do it."""
        spare = decision.spare
        if spare is not None:
            spare = self.within(arrival, action, name, peeked, spare)
        allowed = self.there(arrival, action, name, peeked, decision.candidates)
        out = tuple(Skipped(one.id, _ELSEWHERE) for one in decision.candidates if one not in allowed)
        kept = [at for at, one in enumerate(decision.candidates) if one in allowed]
        work = tuple(decision.work[at] for at in kept) if decision.work else ()
        return msgspec.structs.replace(
            decision,
            candidates=allowed,
            skipped=(*decision.skipped, *out),
            work=work,
            spare=spare if spare is not None and spare.candidates else None,
        )

    def there(
        self, arrival: Arrival, action: Action, name: str, peeked: Peek | None, targets: Iterable[Target]
    ) -> tuple[Target, ...]:
        """Of these, those on nodes where policies let the caller do something."""
        rights, now = self._book.rights(arrival.caller.who), self._clock()
        found = []
        for target in targets:
            node = node_facts(target.node, self._labels(target.node))
            if rights.decide(action, "Model", name, facts_of(arrival, peeked, now, node)).allowed:
                found.append(target)
        return tuple(found)

    def _labels(self, node: str) -> dict[str, str]:
        record = self._view.index.node_record(node)
        return {} if record is None else record.labels


def asked_over_hop(index: Index, name: str, route: str) -> str:
    """What a forwarded request for a model asked for where it came in, in canonical form.

    It is the route, where one was named and by this node's own snapshot leads to the model; else the model.
    """
    if not route:
        return name
    asked = canonical_or_same(route)
    seen = set[str]()
    current: str | None = asked
    while current is not None and current not in seen:
        seen.add(current)
        found = index.routes.get(current)
        if found is None:
            return asked if current == name and current != asked else name
        if any(canonical_or_same(backend.model) == name for backend in found.backends):
            return asked
        current = None if found.fallback is None else canonical_or_same(found.fallback)
    return name


def _book(snapshot: Snapshot) -> PolicyBook:
    return PolicyBook(snapshot.policies, snapshot.mesh.security)
