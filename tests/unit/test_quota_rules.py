"""One node's quotas: what is granted, settled and given back, against a model that is a few sums."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bridge_agent.quotas.meter import Meter, OverQuota
from bridge_agent.quotas.quota_rules import QuotaBook, Refusal, Reservation
from bridge_agent.quotas.scope_rules import Scope
from bridge_agent.routing.view import MeshView
from bridge_agent.telemetry.quota_metrics import quota_metrics
from bridge_agent.telemetry.sources import QuotaFigures
from bridge_core.identity.principal import Principal, local
from bridge_core.names import canonical
from bridge_core.policy.statements import Subject
from bridge_core.quotas import LEASE_S, Bucket, CellLimit, Quota, equal_share, ranks
from bridge_core.snapshot import Node, Snapshot, Version, encode_entry

ANN = Principal("client", "ann", "spiffe://m/client/ann", ("staff", "dev"))
BOB = Principal("client", "bob", "spiffe://m/client/bob", ("staff",))
MODEL = canonical("m")
NOW_MS = 1_800_000_000_000


def book(*quotas: Quota, nodes: tuple[str, ...] = ("a",)) -> QuotaBook:
    made = QuotaBook("a")
    made.follow(quotas, nodes)
    return made


def reserve(
    of: QuotaBook,
    who: Principal = ANN,
    *,
    prompt: int = 1,
    output: int = 1,
    now: float = 0.0,
    ms: int = NOW_MS,
) -> Reservation | Refusal | None:
    return of.reserve(who, MODEL, prompt, output, now=now, now_ms=ms)


def begun(got: Any) -> Reservation:
    assert isinstance(got, Reservation)
    return got


class OneNode(RuleBasedStateMachine):
    """A node alone with two quotas, in whatever order requests begin and end."""

    QUOTAS = (
        Quota("each", requests=6, prompt_tokens=50, output_tokens=40, concurrency=3, window_s=60.0),
        Quota("all", per="all", output_tokens=60, concurrency=4, window_s=30.0),
    )

    def __init__(self) -> None:
        super().__init__()
        self.book = book(*self.QUOTAS)
        self.ms = NOW_MS
        self.running: list[tuple[Reservation, dict[Bucket, int]]] = []
        self.used: dict[Bucket, int] = {}  # the model: what was used, and by how much more than reserved
        self.excess: dict[Bucket, int] = {}

    def buckets(self, who: Principal, prompt: int, output: int) -> dict[Bucket, tuple[int, int]]:
        """What a request has to fit into: the amount and what it reserves."""
        found = {}
        for quota in self.QUOTAS:
            asked = {"requests": 1, "prompt_tokens": prompt, "output_tokens": output, "concurrency": 1}
            for resource, amount in asked.items():
                if whole := quota.amount(resource):  # type: ignore[arg-type]  # one of them
                    begins = 0 if resource == "concurrency" else self.ms // quota.window_ms * quota.window_ms
                    of = who.text if quota.per == "client" else ""
                    found[Bucket(quota.name, of, begins, resource)] = (whole, min(whole, amount))  # type: ignore[arg-type]
        return found

    def taken(self, bucket: Bucket) -> int:
        return self.used.get(bucket, 0) + sum(parts.get(bucket, 0) for _, parts in self.running)

    @rule(who=st.sampled_from((ANN, BOB)), prompt=st.integers(1, 30), output=st.integers(1, 30))
    def ask(self, who: Principal, prompt: int, output: int) -> None:
        wanted = self.buckets(who, prompt, output)
        fits = all(self.taken(bucket) + amount <= whole for bucket, (whole, amount) in wanted.items())
        got = reserve(self.book, who, prompt=prompt, output=output, ms=self.ms)
        assert isinstance(got, Reservation) is fits
        if isinstance(got, Reservation):
            self.running.append((got, {bucket: amount for bucket, (_, amount) in wanted.items()}))
        else:
            assert isinstance(got, Refusal)
            assert got.retry_after_s > 0

    @rule(prompt=st.integers(0, 40), output=st.integers(0, 60), data=st.data())
    def settle(self, prompt: int, output: int, data: st.DataObject) -> None:
        if not self.running:
            return
        reservation, parts = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        for _ in range(data.draw(st.integers(1, 3))):
            reservation.settle(prompt, output)
            reservation.give_back()
        for bucket, amount in parts.items():
            came = {"requests": 1, "prompt_tokens": prompt, "output_tokens": output, "concurrency": 0}
            self.used[bucket] = self.used.get(bucket, 0) + came[bucket.resource]
            self.excess[bucket] = self.excess.get(bucket, 0) + max(0, came[bucket.resource] - amount)

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        if self.running:
            reservation, _ = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
            reservation.give_back()
            reservation.settle(99, 99)

    @rule(ms=st.integers(1, 45_000))
    def time_passes(self, ms: int) -> None:
        self.ms += ms

    @rule()
    def report(self) -> None:
        self.book.report({}, 0.0, self.ms)

    @invariant()
    def the_book_says_what_the_model_says(self) -> None:
        for cell in self.book.cells:
            assert cell.claimed == self.taken(cell.bucket)

    @invariant()
    def never_more_than_the_quota_and_the_stated_overshoot(self) -> None:
        for bucket in {*self.used, *(one for _, parts in self.running for one in parts)}:
            whole = next(quota for quota in self.QUOTAS if quota.name == bucket.quota).amount(bucket.resource)
            assert self.taken(bucket) <= whole + self.excess.get(bucket, 0)
            if bucket.resource in ("requests", "concurrency"):
                assert self.taken(bucket) <= whole


TestOneNode = OneNode.TestCase
TestOneNode.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)


def test_windows_begin_at_multiples_of_their_length_in_unix_time() -> None:
    of = book(Quota("q", requests=1, window_s=60.0))
    begun(reserve(of, ms=60_000 * 5 + 59_999))
    refusal = reserve(of, ms=60_000 * 5 + 59_999)
    assert isinstance(refusal, Refusal)
    assert refusal.retry_after_s == 0.001
    begun(reserve(of, ms=60_000 * 6))


def test_what_is_larger_than_the_quota_passes_where_nothing_else_was_used() -> None:
    of = book(Quota("q", prompt_tokens=10))
    first = begun(reserve(of, prompt=500))
    assert isinstance(reserve(of, prompt=1), Refusal)
    first.give_back()
    begun(reserve(of, prompt=500)).settle(500, 0)
    assert isinstance(reserve(of, prompt=1), Refusal)


def test_a_refusal_leaves_nothing_reserved_in_quotas_that_it_fits_into() -> None:
    of = book(Quota("a", requests=5), Quota("b", concurrency=1))
    begun(reserve(of))
    assert isinstance(reserve(of), Refusal)
    assert {cell.bucket.quota: cell.claimed for cell in of.cells} == {"a": 1, "b": 1}


def test_a_shadow_never_refuses_and_says_so() -> None:
    of = book(Quota("s", requests=1, shadow=True), Quota("t", requests=2))
    assert begun(reserve(of)).shadowed == ""
    assert begun(reserve(of)).shadowed == "s"
    assert isinstance(reserve(of), Refusal)


def test_equal_shares_add_up_to_the_amount() -> None:
    for amount in range(12):
        for count in range(1, 6):
            names = [f"n{number}" for number in range(count)]
            places = ranks(names)
            assert sum(equal_share(amount, places[name], count) for name in names) == amount
    assert equal_share(9, None, 3) == 0


def test_what_was_leased_is_the_equal_share_again_once_the_lease_is_over() -> None:
    of = book(Quota("q", requests=9), nodes=("a", "b", "c"))
    bucket = Bucket("q", ANN.text, NOW_MS, "requests")
    of.take([CellLimit(bucket, 8, 0)], sent=100.0, now_ms=NOW_MS)
    for _ in range(8):
        begun(reserve(of, now=100.0 + LEASE_S - 0.01))
    assert isinstance(reserve(of, now=100.0 + LEASE_S - 0.01), Refusal)
    of.take([CellLimit(bucket, 0, 5)], sent=None, now_ms=NOW_MS)  # renews nothing
    assert isinstance(reserve(of, BOB, now=100.0 + LEASE_S), Reservation)
    (cell,) = (cell for cell in of.cells if cell.bucket == bucket)
    assert (cell.limit, cell.told) == (3, False)


def test_only_so_many_buckets_are_kept() -> None:
    of = book(Quota("q", requests=1, window_s=3600.0))
    seen = 0
    for number in range(9_000):
        who = Principal("user", f"u{number}", f"idp#u{number}")
        seen += isinstance(of.reserve(who, MODEL, 1, 1, now=0.0, now_ms=NOW_MS), Reservation)
    assert seen == len(list(of.cells)) == 8192
    who = Principal("user", "later", "idp#later")
    assert isinstance(of.reserve(who, MODEL, 1, 1, now=0.0, now_ms=NOW_MS + 3_600_000), Reservation)


@pytest.mark.parametrize(
    ("quota", "who", "of"),
    [
        (Quota("q"), ANN, [ANN.text]),
        (Quota("q", per="all"), ANN, [""]),
        (Quota("q", (Subject("User", "ann"),)), ANN, [ANN.text]),
        (Quota("q", (Subject("User", "ann"),)), BOB, []),
        (Quota("q", (Subject("Group", "staff"),)), BOB, [BOB.text]),
        (Quota("q", (Subject("Group", "staff"),), per="all"), BOB, [""]),
        (Quota("q", (Subject("Group", "*"),), per="group"), ANN, ["dev", "staff"]),
        (Quota("q", (Subject("Group", "d*"),), per="group"), BOB, []),
        (Quota("q", (Subject("Node", "n1"),)), local("n1"), ["local"]),
        (Quota("q", (Subject("Node", "n1"),)), local("n2"), []),
    ],
)
def test_of_whom_a_quota_counts(quota: Quota, who: Principal, of: list[str]) -> None:
    assert list(Scope(quota).counted(who)) == of


@pytest.mark.parametrize(
    ("models", "name", "covered"),
    [
        ((), "m", True),
        (("M:latest",), "m", True),
        (("library/m",), "m", True),
        (("m",), "m:7b", False),
        (("m*",), "m:7b", True),
        (("M*",), "mistral", True),
        (("team/*",), "team/x", True),
        (("m*",), "team/m", False),
    ],
)
def test_which_models_a_quota_is_about(models: tuple[str, ...], name: str, covered: bool) -> None:
    assert Scope(Quota("q", models=models)).covers(canonical(name)) is covered


def test_metrics_name_quotas_and_never_callers() -> None:
    view = MeshView("a")
    meter = Meter("a", view, unix_ms=lambda: NOW_MS)
    entries = {
        "node/a": encode_entry(Node("a", "x:1")),
        "quota/q": encode_entry(Quota("q", requests=1)),
        "quota/s": encode_entry(Quota("s", per="all", concurrency=1, shadow=True)),
    }
    view.publish(Snapshot(Version(1, 1), entries))
    got = [meter.admit(who, "/api/chat", MODEL, {}) for who in (ANN, ANN, BOB)]
    assert [isinstance(one, OverQuota) for one in got] == [False, True, False]
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in quota_metrics(QuotaFigures(meter, lambda: True))
        for sample in family.samples
    }
    assert samples == {
        ("bridge_quota_refused_total", "q", "requests"): 1,
        ("bridge_quota_shadowed_total", "s"): 1,
        ("bridge_quota_buckets", "q", "requests"): 2,
        ("bridge_quota_buckets", "s", "concurrency"): 1,
        ("bridge_quota_claimed", "q", "requests"): 2,
        ("bridge_quota_claimed", "s", "concurrency"): 2,
        ("bridge_quota_granted", "q", "requests"): 2,
        ("bridge_quota_granted", "s", "concurrency"): 1,
        ("bridge_quota_leased",): 1,
    }
    view.publish(Snapshot(Version(1, 2), {"node/a": entries["node/a"]}))
    assert not meter.refused
    assert not meter.shadowed
