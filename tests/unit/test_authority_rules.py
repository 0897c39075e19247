"""How one CA takes another's place: in whatever order, no node meets a certificate that it does not trust."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from bridge_registry.enrolment import authority_rules as rules
from bridge_registry.enrolment.authority_rules import Authorities, Holders, Issuer, NodeTrust, StepRefused

NODES = ("n1", "n2", "n3")


def issuer(number: int, root: int = 0) -> Issuer:
    return Issuer(f"i{number}", f"I{number}", f"R{root}", f"r{root}", b"key")


def steady() -> Authorities:
    return Authorities((issuer(0),))


def held(issuer_pin: str, *trusts: str) -> Holders:
    return Holders({name: NodeTrust(issuer_pin, frozenset(trusts)) for name in NODES})


def test_a_rotation_goes_its_way() -> None:
    announced = rules.begin(steady(), issuer(1), 1.0)
    assert [one.state for one in announced.issuers] == ["issuing", "announced"]
    with pytest.raises(StepRefused, match="n1, n2, n3 did not say yet"):
        rules.issue(announced, held("i0", "i0"), 2.0)
    issuing = rules.issue(announced, held("i0", "i0", "i1"), 2.0)
    assert (issuing.issuing.pin, issuing.other and issuing.other.state) == ("i1", "retired")
    with pytest.raises(StepRefused, match="n1, n2, n3 still hold"):
        rules.finish(issuing, held("i0", "i0", "i1"))
    done = rules.finish(issuing, held("i1", "i0", "i1"))
    assert [one.pin for one in done.issuers] == ["i1"]


def test_steps_out_of_order_are_refused() -> None:
    announced = rules.begin(steady(), issuer(1), 1.0)
    for step in (
        lambda: rules.begin(announced, issuer(2), 1.0),
        lambda: rules.begin(steady(), issuer(0), 1.0),
        lambda: rules.finish(announced, Holders()),
        lambda: rules.issue(steady(), Holders(), 1.0),
        lambda: rules.finish(steady(), Holders()),
        lambda: rules.abort(steady(), 1.0),
    ):
        with pytest.raises(StepRefused):
            step()


def test_admins_clients_and_tokens_keep_a_retired_ca_too() -> None:
    retired = rules.issue(rules.begin(steady(), issuer(1, root=1), 1.0), Holders(), 2.0)
    holders = held("i1", "i1")
    admin = msgspec.structs.replace(holders, others={"spiffe://m/admin/a": "i0"})
    with pytest.raises(StepRefused, match="spiffe://m/admin/a still hold"):
        rules.finish(retired, admin)
    token = msgspec.structs.replace(holders, tokens={"77": "r0"})
    with pytest.raises(StepRefused, match="the token 77"):
        rules.finish(retired, token)
    assert rules.finish(retired, msgspec.structs.replace(token, tokens={"77": "r1"})).roots == {"r1": "R1"}
    # Under the same root a token stays good.
    same = rules.issue(rules.begin(steady(), issuer(1), 1.0), Holders(), 2.0)
    assert rules.finish(same, token).issuing.pin == "i1"


def test_by_force_nobody_is_waited_for() -> None:
    announced = rules.begin(steady(), issuer(1), 1.0)
    issuing = rules.issue(announced, held("i0", "i0"), 2.0, force=True)
    assert rules.finish(issuing, held("i0", "i0"), force=True).issuing.pin == "i1"


def test_what_is_next_is_said() -> None:
    assert "no rotation" in rules.next_step(steady(), Holders())
    announced = rules.begin(steady(), issuer(1), 1.0)
    assert "wait for n1, n2, n3" in rules.next_step(announced, held("i0"))
    assert "rotate issue" in rules.next_step(announced, held("i0", "i1"))
    issuing = rules.issue(announced, held("i0", "i1"), 2.0)
    assert "wait for n1" in rules.next_step(issuing, held("i0", "i1"))
    assert "rotate finish" in rules.next_step(issuing, held("i1", "i1"))


class Rotation(RuleBasedStateMachine):
    """A mesh in which agents take snapshots, say what they trust, and renew, each at its own time."""

    @initialize()
    def found(self) -> None:
        self.now = steady()
        self.count = 0
        # What each node trusts, has said that it trusts, and holds.
        self.trusts = {name: {"i0"} for name in NODES}
        self.said = {name: {"i0"} for name in NODES}
        self.holds = dict.fromkeys(NODES, "i0")

    def holders(self) -> Holders:
        return Holders({name: NodeTrust(self.holds[name], frozenset(self.said[name])) for name in NODES})

    @rule(name=st.sampled_from(NODES))
    def takes_a_snapshot(self, name: str) -> None:
        self.trusts[name] = {one.pin for one in self.now.issuers}

    @rule(name=st.sampled_from(NODES))
    def says_what_it_trusts(self, name: str) -> None:
        self.said[name] = set(self.trusts[name])

    @rule(name=st.sampled_from(NODES))
    def renews(self, name: str) -> None:
        self.holds[name] = self.now.issuing.pin
        self.trusts[name] = {one.pin for one in self.now.issuers}

    @precondition(lambda self: self.now.other is None)
    @rule()
    def begins(self) -> None:
        self.count += 1
        self.now = rules.begin(self.now, issuer(self.count), float(self.count))

    @rule(step=st.sampled_from(["issue", "finish", "abort"]))
    def steps(self, step: str) -> None:
        try:
            if step == "issue":
                self.now = rules.issue(self.now, self.holders(), 1.0)
            elif step == "finish":
                self.now = rules.finish(self.now, self.holders())
            else:
                self.now = rules.abort(self.now, 1.0)
        except StepRefused:
            return

    @invariant()
    def everybody_trusts_everybody(self) -> None:
        if not hasattr(self, "now"):
            return
        assert self.now.sound
        for name in NODES:
            assert set(self.holds.values()) <= self.trusts[name], (name, self.now)
            assert self.holds[name] in {one.pin for one in self.now.issuers}  # registries take it, too


TestRotation = Rotation.TestCase
