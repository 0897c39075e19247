"""Whether shared storage is asked, who may publish into it, and where it may lie."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge_agent.models.shared import section
from bridge_agent.models.shared.section import SharedSection, shared_faults
from bridge_agent.models.shared.standing_rules import FIRST_REST_S, MOST_REST_S, TRIAL_S, Standing
from bridge_core.names import canonical
from bridge_registry.shared_storage.hold_rules import MARGIN_S, PublicationRecord, key_of, refusal, valid_ms

TIER = "0123456789abcdef" * 2
MODEL = canonical("team/big:v1")


def test_it_rests_twice_as_long_after_each_failure_up_to_a_bound() -> None:
    standing, now, rests = Standing(), 100.0, []
    for _ in range(9):
        standing.failed("it hangs", now)
        rest = next(s for s in range(1, 400) if standing.asks(now + s))
        rests.append(rest)
        now += rest
    assert rests == [5, 10, 20, 40, 80, 160, 300, 300, 300]


def test_one_goes_ahead_after_a_rest_and_the_others_wait_for_what_it_says() -> None:
    standing = Standing()
    assert standing.failed("it hangs", 0.0)
    assert not standing.asks(FIRST_REST_S - 0.001)
    assert standing.asks(FIRST_REST_S)
    assert not standing.asks(FIRST_REST_S)
    assert not standing.asks(FIRST_REST_S + TRIAL_S - 0.001)
    assert standing.asks(FIRST_REST_S + TRIAL_S)  # nobody reported on the attempt
    standing.answered()
    assert standing.asks(FIRST_REST_S)
    assert standing.fault == ""


def test_since_when_and_why_is_of_the_present_outage() -> None:
    standing = Standing()
    assert standing.failed("first", 10.0)
    assert not standing.failed("x" * 1000, 20.0)
    assert (standing.since, standing.faults, len(standing.fault)) == (10.0, 2, 256)
    standing.answered()
    assert standing.failed("later", 30.0)
    assert (standing.since, standing.faults) == (30.0, 3)
    assert not standing.asks(30.0 + FIRST_REST_S - 0.001)  # it answered meanwhile: the rests are short again
    assert standing.asks(30.0 + FIRST_REST_S)


class Asked(RuleBasedStateMachine):
    """Storage that fails and comes back, against a dumb count of what may be asked."""

    def __init__(self) -> None:
        super().__init__()
        self.standing = Standing()
        self.now = 0.0
        self.failed_at: float | None = None
        self.asked_since = 0

    @rule(by=st.floats(0.0, 400.0))
    def time_passes(self, by: float) -> None:
        self.now += by

    @rule()
    def asks(self) -> None:
        if self.standing.asks(self.now):
            self.asked_since += 1
        else:
            assert self.failed_at is not None

    @rule()
    def fails(self) -> None:
        self.standing.failed("it hangs", self.now)
        self.failed_at, self.asked_since = self.now, 0

    @rule()
    def answers(self) -> None:
        self.standing.answered()
        self.failed_at = None

    @invariant()
    def who_waits_is_not_kept(self) -> None:
        if self.failed_at is not None:
            # One attempt a rest, and rests are no shorter than the first.
            assert self.asked_since <= 1 + (self.now - self.failed_at) / TRIAL_S

    @invariant()
    def it_is_never_given_up(self) -> None:
        if self.failed_at is not None and not self.asked_since and self.now - self.failed_at >= MOST_REST_S:
            copy = Standing()
            copy.__dict__.update(self.standing.__dict__)
            assert copy.asks(self.now)


TestAsked = Asked.TestCase


@pytest.mark.parametrize(
    ("shared", "store", "wrong"),
    [
        ("/mnt/models", "/var/lib/bridge/agent/models", False),
        ("/models", "/models", True),
        ("/models/", "/models", True),
        ("/models/shared", "/models", True),
        ("/models", "/models/own", True),
        ("/models2", "/models", False),
        ("/mnt/../models", "/models", True),
    ],
)
def test_the_nodes_own_store_and_the_shared_one_do_not_lie_in_each_other(
    shared: str, store: str, wrong: bool
) -> None:
    assert bool(shared_faults(SharedSection(shared), (store,))) is wrong
    assert shared_faults(None, (store,)) == []


def test_a_link_onto_the_models_folder_is_the_models_folder(tmp_path: Path) -> None:
    store, beside = tmp_path / "models", tmp_path / "beside"
    for one in (store / "inner", beside):
        one.mkdir(parents=True)
    for target, wrong in ((store, True), (store / "inner", True), (tmp_path, True), (beside, False)):
        (tmp_path / "link").unlink(missing_ok=True)
        (tmp_path / "link").symlink_to(target)
        for shared in (tmp_path / "link", tmp_path / "beside" / ".." / "link"):
            assert bool(shared_faults(SharedSection(str(shared)), (str(store),))) is wrong
        # And the other way round: the node's own store is the link.
        assert bool(shared_faults(SharedSection(str(target)), (str(tmp_path / "link"),)))


def test_the_models_folder_by_another_mount_is_the_models_folder(tmp_path: Path) -> None:
    """A bind mount has the device and the number of what it shows, as a second name of a folder has here."""
    store = tmp_path / "models"
    store.mkdir()
    (whole,) = {section._canonical(str(one)) for one in (store, tmp_path / "x" / ".." / "models")}
    elsewhere = ("/mnt/elsewhere", (whole[1][0], (0, 1)))
    assert section._one_in_the_other(whole, elsewhere)
    assert not section._one_in_the_other(whole, ("/mnt/elsewhere", ((0, 0), (0, 1))))
    assert not section._one_in_the_other(whole, ("/mnt/elsewhere", ()))


def test_it_is_a_folder_or_a_bucket() -> None:
    assert "one of them" in shared_faults(SharedSection(), ())[0]
    assert "one of them" in shared_faults(SharedSection("/mnt/x", s3="file:/etc/s3.json"), ())[0]
    assert shared_faults(SharedSection(s3="credential:bridge-s3"), ("/models",)) == []
    for good, s3 in (
        (True, "file:/x"),
        (True, "credential:a.b-c"),
        (False, "/x"),
        (False, "file:x"),
        (False, "exec:/x"),
    ):
        try:
            msgspec.convert({"s3": s3}, SharedSection)
        except msgspec.ValidationError:
            assert not good
        else:
            assert good


def test_a_lease_lies_where_no_other_model_or_tier_has_one() -> None:
    key = key_of(TIER, MODEL)
    assert key is not None
    assert re.fullmatch(rf"/bridge/v1/publishing/{TIER}/[0-9a-f]{{64}}", key)
    assert key != key_of(TIER, canonical("team/big:v2"))
    assert key != key_of(TIER[::-1], MODEL)


@pytest.mark.parametrize(
    ("tier", "model"),
    [
        (TIER.upper(), MODEL),
        (TIER[1:], MODEL),
        (f"{TIER}0", MODEL),
        (f"{TIER[:-2]}/.", MODEL),
        (TIER, "team/big:v1"),
        (TIER, MODEL.upper()),
        (TIER, "a/b/c/d/e"),
        (TIER, ""),
    ],
)
def test_what_is_no_tier_or_no_model_has_no_lease(tier: str, model: str) -> None:
    assert key_of(tier, model) is None


@given(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6))
def test_a_holder_never_believes_longer_than_the_store(expires_at: float, now: float) -> None:
    told = valid_ms(expires_at, now)
    assert told >= 0
    assert told == 0 or now + told / 1000 <= expires_at - MARGIN_S + 1e-6
    if expires_at - now > MARGIN_S + 0.002:
        assert told >= (expires_at - now - MARGIN_S) * 1000 - 1


def test_a_second_writer_is_told_who_the_first_is() -> None:
    said = refusal(PublicationRecord("n1", MODEL, 100.0), 112.4)
    assert said == f"node n1 is publishing {MODEL} there, for 12 s now"
    assert refusal(PublicationRecord("n1", MODEL, 100.0), 50.0).endswith("for 0 s now")
