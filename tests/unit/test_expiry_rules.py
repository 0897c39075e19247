"""Whose business the end of a certificate is, and when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_core.identity.expiry_rules import Expiry, expiry_concern

DAY = 86_400.0
YEAR = 365 * DAY


@pytest.mark.parametrize(
    ("kind", "life", "left", "told"),
    [
        ("root", 10 * YEAR, 91 * DAY, False),
        ("root", 10 * YEAR, 89 * DAY, True),
        ("intermediate", 5 * YEAR, 31 * DAY, False),
        ("intermediate", 5 * YEAR, 29 * DAY, True),
        ("intermediate", 10 * DAY, 2 * DAY, False),
        ("intermediate", 10 * DAY, 0.5 * DAY, True),
        ("etcd-ca", 10 * YEAR, 89 * DAY, True),
        ("registry", 90 * DAY, 20 * DAY, False),
        ("registry", 90 * DAY, 5 * DAY, True),
        ("node", DAY, 0.2 * DAY, False),
        ("node", DAY, 0.05 * DAY, True),
        ("guard", 90 * DAY, -1.0, True),
    ],
)
def test_it_is_told_while_there_is_time(kind: str, life: float, left: float, told: bool) -> None:
    one = Expiry(kind, "x", 0.0, life)
    assert bool(expiry_concern(one, life - left)) is told


def test_what_to_do_is_said() -> None:
    assert "rotate begin --new-root" in expiry_concern(Expiry("root", "ab", 0.0, YEAR), YEAR - 1.0)
    assert "rotate begin" in expiry_concern(Expiry("intermediate", "ab", 0.0, YEAR), YEAR - 1.0)
    assert "could not be renewed" in expiry_concern(Expiry("guard", "g", 0.0, YEAR), YEAR - 1.0)


@given(kind=st.sampled_from(["root", "intermediate", "node", "guard"]), life=st.floats(1.0, 20 * YEAR))
def test_once_told_it_is_told_to_the_end_and_never_from_the_start(kind: str, life: float) -> None:
    one = Expiry(kind, "x", 1e9, 1e9 + life)
    told = [bool(expiry_concern(one, 1e9 + life * at / 100)) for at in range(120)]
    assert told == sorted(told)
    assert told[100]
    assert not told[0]
