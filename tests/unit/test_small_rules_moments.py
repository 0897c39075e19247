"""Certificates, key sets and stamps: a moment before and at each of their times."""

from __future__ import annotations

import pytest

from bridge_cli.attestation.attestation_rules import refusal
from bridge_core.attestation import AttestationPolicy, Enclave, Evidence, Machine
from bridge_core.audit.anchor_rules import Anchored, failed, is_due, is_late, seen, stamped
from bridge_core.identity.expiry_rules import Expiry, expiry_concern
from bridge_core.identity.rotation_rules import CertificateState, certificate_state, renew_at
from bridge_registry.key_sets import refresh_rules
from bridge_registry.key_sets.refresh_rules import Failures
from bridge_registry.records import KeySetRecord

DAY = 86_400.0

# -- certificates


@pytest.mark.parametrize(("jitter", "at"), [(0.0, 165.0), (0.5, 170.0), (1.0, 175.0)])
def test_a_certificate_is_renewed_at_seven_tenths_of_its_life(jitter: float, at: float) -> None:
    assert renew_at(100.0, 200.0, jitter) == pytest.approx(at)


@pytest.mark.parametrize(
    ("now", "state"),
    [
        (79.9, "NOT_YET_VALID"),
        (80.0, "FRESH"),
        (169.9, "FRESH"),
        (170.1, "DUE"),
        (220.0, "DUE"),
        (220.1, "EXPIRED"),
    ],
)
def test_what_a_certificate_is_at_a_moment(now: float, state: str) -> None:
    assert certificate_state(100.0, 200.0, now, 0.5) is CertificateState[state]


@pytest.mark.parametrize(
    ("kind", "life", "left", "told"),
    [
        ("node", 100 * DAY, 10.1 * DAY, False),
        ("node", 100 * DAY, 10 * DAY, True),
        ("root", 900 * DAY, 90 * DAY + 1, False),
        ("root", 900 * DAY, 90 * DAY, True),
        ("etcd-ca", 900 * DAY, 90 * DAY, True),
        ("etcd-ca", 900 * DAY, 90 * DAY + 1, False),
        ("intermediate", 900 * DAY, 30 * DAY, True),
        ("intermediate", 900 * DAY, 30 * DAY + 1, False),
        ("intermediate", 30 * DAY, 3.1 * DAY, False),  # as long as its notice: the last tenth counts
        ("intermediate", 30 * DAY, 3 * DAY, True),
        ("intermediate", 31 * DAY, 30 * DAY, True),
    ],
)
def test_how_long_before_its_end_one_is_told(kind: str, life: float, left: float, told: bool) -> None:
    one = Expiry(kind, "x", 0.0, life)
    assert bool(expiry_concern(one, life - left)) is told
    assert " ended " in expiry_concern(one, life)
    assert " ended " not in expiry_concern(one, life - 1.0)


# -- key sets


def due(failures: Failures | None, now: float, fetched: float | None = 0.0, source: str = "u") -> bool:
    record = None if fetched is None else KeySetRecord(source="u", keys="k", fetched=fetched)
    return refresh_rules.is_due(source, 600.0, record, failures, now)


def test_a_key_set_is_fetched_when_it_is_older_than_its_provider_says() -> None:
    assert [due(None, now) for now in (0.0, 599.9, 600.0, -1.0)] == [False, False, True, True]
    assert due(None, 1.0, fetched=None)
    assert due(None, 1.0, source="elsewhere")


def test_what_failed_is_tried_after_five_seconds_and_then_twice_as_long() -> None:
    failures = refresh_rules.failed(None, "u", "away", 100.0)
    assert (failures.count, failures.since, failures.last) == (1, 100.0, 100.0)
    assert [due(failures, now) for now in (100.0, 104.9, 105.0, 99.9)] == [False, False, True, True]
    failures = refresh_rules.failed(failures, "u", "still away", 105.0)
    assert (failures.count, failures.since, failures.last) == (2, 100.0, 105.0)
    assert [due(failures, now) for now in (114.9, 115.0)] == [False, True]
    for _ in range(20):
        failures = refresh_rules.failed(failures, "u", "away", 200.0)
    assert [due(failures, now) for now in (499.9, 500.0)] == [False, True]
    assert refresh_rules.failed(failures, "other", "away", 300.0) == Failures("other", "away", 300.0, 300.0)
    assert not due(Failures("other", "away", 100.0, 100.0), 101.0)


def test_which_set_counts_and_how_old_it_is() -> None:
    record = KeySetRecord(source="u", keys="k", fetched=0.0)
    assert refresh_rules.keys_for("u", record) == "k"
    assert refresh_rules.keys_for("v", record) == refresh_rules.keys_for(None, record) == ""
    assert refresh_rules.keys_for("u", None) == ""
    failures = Failures("u", "away", 0.0, 0.0)
    said = refresh_rules.concern("corp", record, failures, 7199.0)
    assert "since 120 min: away; the one of 120 min ago stays in use" in said
    assert "since 2 h: away; the one of 2 h ago" in refresh_rules.concern("corp", record, failures, 7200.0)
    assert "since 10000 h" in refresh_rules.concern("corp", record, failures, 36_000_000.0)
    assert "since 0 min" in refresh_rules.concern("corp", None, failures, -90.0)
    other = Failures("v", "away", 0.0, 0.0)
    assert refresh_rules.concern("corp", record, other, 0.0).endswith("none of its tokens count")


# -- stamps


def test_a_log_is_stamped_once_an_hour_where_it_has_grown() -> None:
    grown = seen(Anchored(), 5, 100.0)
    assert grown.waiting_since == 100.0
    assert seen(grown, 6, 200.0) is grown
    assert is_due(grown, 0.0)
    for jitter, hour in ((0.0, 3420.0), (0.5, 3600.0), (1.0, 3780.0)):
        done = stamped(grown, 6, 1000.0, jitter)
        assert (done.size, done.at, done.due, done.waiting_since) == (
            6,
            1000.0,
            pytest.approx(1000 + hour),
            0.0,
        )
    done = stamped(grown, 6, 1000.0, 0.5)
    assert not is_due(done, 1e9), "nothing new"
    assert seen(done, 6, 1100.0).waiting_since == 0.0
    more = seen(done, 7, 1100.0)
    assert [is_due(more, now) for now in (4599.9, 4600.0)] == [False, True]
    assert [is_due(more, now) for now in (-2600.0, -2600.1)] == [False, True], "a clock set back"
    assert seen(more, 7, 1200.0).waiting_since == 1100.0
    assert seen(more, 5, 1200.0) == Anchored(waiting_since=1200.0), "another log"


def test_what_failed_is_tried_again_and_what_is_late_is_said() -> None:
    state, waits = Anchored(waiting_since=100.0), []
    for _ in range(9):
        state = failed(state, "no", 0.0, 1.0)
        waits.append(state.due)
    assert waits == [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert (state.failures, state.reason) == (9, "no")
    assert failed(Anchored(), "no", 0.0, 0.0).due == 15.0
    assert [is_late(state, now) for now in (10_900.0, 10_900.1)] == [False, True]
    stamped_since = Anchored(at=5000.0, waiting_since=100.0)
    assert [is_late(stamped_since, now) for now in (15_800.0, 15_800.1)] == [False, True]
    assert not is_late(Anchored(), 1e9)
    assert Anchored() == Anchored(0, 0.0, 0.0, 0, 0.0, "")


# -- attestation

FOUND = {"mr_enclave": "e", "mr_signer": "s"}
SGX = Evidence("sgx", FOUND, 2, 3, debug=False, report_data=b"r", tcb="UpToDate")


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [
        (Enclave(mr_enclave="e"), True),
        (Enclave(mr_signer="s"), True),
        (Enclave(mr_enclave="e", mr_signer="s", product=2, version=3), True),
        (Enclave(mr_enclave="x", mr_signer="s"), False),
        (Enclave(mr_enclave="e", mr_signer="x"), False),
        (Enclave(mr_enclave="e", product=1), False),
        (Enclave(mr_enclave="e", version=2), True),
        (Enclave(mr_enclave="e", version=4), False),
        (Enclave(), False),
    ],
)
def test_which_enclave_is_the_policys(wanted: Enclave, taken: bool) -> None:
    assert (refusal(SGX, [AttestationPolicy("p", enclaves=(wanted,))], None) == "") is taken


def test_evidence_of_one_kind_is_not_taken_for_the_other() -> None:
    registers = {"mr_td": "t", "rt_mr0": "0", "rt_mr1": "1", "rt_mr2": "2", "rt_mr3": "3"}
    tdx = Evidence("tdx", {**registers, **FOUND}, 0, 0, debug=False, report_data=b"r", tcb="UpToDate")
    machine = AttestationPolicy("p", machines=(Machine("t"),))
    assert refusal(tdx, [machine], b"r") == ""
    assert "mr_td t is not among" in refusal(tdx, [AttestationPolicy("p", enclaves=(Enclave("e"),))], None)
    both = Evidence("sgx", {**registers, **FOUND}, 0, 0, debug=False, report_data=b"r", tcb="UpToDate")
    assert "mr_enclave e is not among" in refusal(both, [machine], None)
    for name in ("rt_mr0", "rt_mr1", "rt_mr2", "rt_mr3"):
        assert refusal(tdx, [AttestationPolicy("p", machines=(Machine("t", **{name: "x"}),))], None)
        assert not refusal(tdx, [AttestationPolicy("p", machines=(Machine("t", **{name: name[-1]}),))], None)
    assert "not of this key" in refusal(tdx, [machine], b"x")
    assert refusal(tdx, [], None) == "there is no AttestationPolicy that could take it"
    assert refusal(tdx, [AttestationPolicy("q"), machine], None) == ""
