"""What listeners may take of the process's descriptors."""

from __future__ import annotations

import resource
from collections.abc import Iterator

import pytest

from bridge_agent.listeners import NAMES, connections_of, limits_of, raise_descriptors
from bridge_core.bounds import number


@pytest.fixture(params=[1024, 4096])
def soft(request: pytest.FixtureRequest) -> Iterator[int]:
    """A process that may have so many."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (request.param, before[1]))
    yield request.param
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_all_listeners_together_leave_descriptors_for_the_agent_itself(soft: int) -> None:
    assert sum(connections_of(name) for name in NAMES) <= soft * 8 // 10
    assert all(connections_of(name) > 0 for name in NAMES)


def test_strangers_are_a_part_of_a_listeners_connections(soft: int) -> None:
    for name in ("https", "peer"):
        limits = limits_of(name)
        assert 0 < limits.strangers_each < limits.strangers < limits.connections


def test_the_agent_asks_for_the_descriptors_that_it_may_have(soft: int) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    raise_descriptors()
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] >= min(hard, 65_536)


def test_the_admin_listener_takes_no_large_body() -> None:
    assert limits_of("admin").body == 64 * 1024


@pytest.mark.parametrize(
    ("value", "read"),
    [(b"7", 7), (b"100", 100), (b"101", None), (b"", None), (b"-1", None), (b"1.5", None), (None, None),
     (b"9" * 5000, None), ("\u0663".encode(), None), (b" 7", None)],
)  # fmt: skip
def test_numbers_of_others_are_read_within_bounds(value: bytes | None, read: int | None) -> None:
    assert number(value, 100) == read
