"""When a provider's key set is fetched, and which one counts."""

from __future__ import annotations

import pytest

from bridge_registry.key_sets.refresh_rules import concern, failed, is_due, keys_for
from bridge_registry.records import KeySetRecord

URI, OTHER = "https://a.example/keys", "https://b.example/keys"
KEPT = KeySetRecord("keys", 1000.0, URI)


@pytest.mark.parametrize(
    ("record", "now", "due"),
    [
        (None, 1000.0, True),
        (KEPT, 1000.0, False),
        (KEPT, 4599.0, False),
        (KEPT, 4600.0, True),
        (KEPT, 999.0, True),  # from the future: a clock was wrong
        (KeySetRecord("keys", 1000.0, OTHER), 1000.0, True),
    ],
)
def test_a_set_is_fetched_when_it_is_old_or_of_another_address(
    record: KeySetRecord | None, now: float, due: bool
) -> None:
    assert is_due(URI, 3600.0, record, None, now) is due


def test_a_failed_fetch_is_tried_again_ever_later_up_to_a_bound() -> None:
    failures, now, pauses = failed(None, URI, "away", 0.0), 0.0, []
    for _ in range(9):
        pause = next(wait for wait in range(1, 400) if is_due(URI, 3600.0, None, failures, now + wait))
        pauses.append(pause)
        now += pause
        failures = failed(failures, URI, "away", now)
    assert pauses == [5, 10, 20, 40, 80, 160, 300.0, 300.0, 300.0]
    assert failures.since == 0.0


def test_failures_at_another_address_say_nothing_of_this_one() -> None:
    assert is_due(URI, 3600.0, None, failed(None, OTHER, "away", 0.0), 1.0)
    assert failed(failed(None, OTHER, "away", 0.0), URI, "away", 5.0).since == 5.0


def test_a_set_counts_for_the_address_that_it_is_from() -> None:
    assert keys_for(URI, KEPT) == "keys"
    assert keys_for(OTHER, KEPT) == ""
    assert keys_for(None, KEPT) == ""
    assert keys_for(URI, None) == ""


def test_an_operator_is_told_whether_tokens_still_count() -> None:
    failures = failed(None, URI, "login.example answered 500", 1000.0)
    assert concern("corp", KEPT, failures, 9000.0) == (
        "the key set of the identity provider corp cannot be fetched since 2 h: login.example answered 500; "
        "the one of 2 h ago stays in use"
    )
    assert concern("corp", None, failures, 1180.0).endswith("since 3 min: login.example answered 500; "
        "none of its tokens count")  # fmt: skip
