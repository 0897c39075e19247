"""Instance records in the store: what is written, and what after a write nobody confirmed."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.membership.registration_rules import Written, after, plan, records
from bridge_core.snapshot import Instance
from bridge_core.store.api import Delete, Op, Put

KEY = "/bridge/v1/members/node1/0"


def test_a_record_lies_under_its_instance_id() -> None:
    [(key, value)] = records([Instance(id="node1/0", node="node1", slots=4)]).items()
    assert key == KEY
    assert value == b'{"id":"node1/0","node":"node1","slots":4}'


@pytest.mark.parametrize(
    ("written", "lease", "expected"),
    [
        ({}, 0, []),
        ({}, 7, [Put(KEY, b"v", 7)]),
        ({KEY: (7, b"v")}, 7, []),
        ({KEY: (7, b"old")}, 7, [Put(KEY, b"v", 7)]),
        ({KEY: (6, b"v")}, 7, [Put(KEY, b"v", 7)]),
        ({KEY: None}, 7, [Put(KEY, b"v", 7)]),
        ({KEY: (7, b"v"), "gone": (7, b"x")}, 7, [Delete("gone")]),
        ({KEY: (7, b"v"), "perhaps": None}, 7, [Delete("perhaps")]),
    ],
)
def test_plan(written: Written, lease: int, expected: list[Op]) -> None:
    assert plan({KEY: b"v"}, written, lease) == expected


keys = st.sampled_from(["a", "b", "c"])
values = st.sampled_from([b"1", b"2"])


@given(
    steps=st.lists(
        st.tuples(
            st.dictionaries(keys, values), st.integers(1, 2), st.sampled_from(["done", "lost", "hidden"])
        ),
        max_size=8,
    )
)
def test_whatever_was_lost_one_confirmed_write_makes_the_store_right(
    steps: list[tuple[dict[str, bytes], int, str]],
) -> None:
    store: dict[str, tuple[int, bytes]] = {}
    written: Written = {}
    for desired, lease, fate in [*steps, ({"a": b"1"}, 3, "done")]:
        ops = plan(desired, written, lease)
        if fate != "lost":
            for op in ops:
                if isinstance(op, Put):
                    store[op.key] = (op.lease, op.value)
                else:
                    store.pop(op.key, None)
        written = after(written, ops, known=fate == "done")
        if fate == "done":
            assert store == {key: (lease, value) for key, value in desired.items()}
