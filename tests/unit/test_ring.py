"""The ring: frozen placement, agreement with uhashring's ketama, bounded movement."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uhashring import HashRing

from bridge_core import ring as ring_module
from bridge_core.ring import Ring

VECTORS = json.loads((Path(__file__).parent / "vectors" / "ring.json").read_text())
KEYS = [f"key-{n}".encode() for n in range(500)]

members = st.dictionaries(
    st.from_regex(r"node[0-9]{1,3}/[0-3]", fullmatch=True), st.integers(1, 400), min_size=1, max_size=12
)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["name"])
def test_placement_is_frozen(vector):
    ring = Ring([(name, weight) for name, weight in vector["instances"]], vector["points"])
    assert ring.digest.hex() == vector["digest"]
    assert len(ring) == vector["size"]
    for key, order in vector["lookups"].items():
        assert list(ring.lookup(key.encode())) == order


def test_agrees_with_uhashring_where_weights_are_equal():
    names = [f"node{n}/0" for n in range(40)]
    theirs = HashRing(nodes=dict.fromkeys(names, 1), hash_fn="ketama")
    ours = Ring([(name, 100) for name in names], 160)
    assert [ours.owner(key) for key in KEYS] == [theirs.get_node(key.decode()) for key in KEYS]


@settings(max_examples=40)
@given(members, st.randoms(use_true_random=False))
def test_order_of_members_does_not_matter(nodes, random):
    shuffled = list(nodes.items())
    random.shuffle(shuffled)
    assert Ring(shuffled, 160).digest == Ring(nodes.items(), 160).digest


@settings(max_examples=40)
@given(members, st.data())
def test_only_the_keys_of_who_leaves_move(nodes, data):
    gone = data.draw(st.sampled_from(sorted(nodes)))
    before = Ring(nodes.items(), 160)
    after = Ring([(name, weight) for name, weight in nodes.items() if name != gone], 160)
    for key in KEYS[:100]:
        order = [name for name in before.lookup(key) if name != gone]
        assert list(after.lookup(key)) == order


@settings(max_examples=40)
@given(members, st.data())
def test_a_restricted_ring_is_the_ring_of_those_alone(nodes, data):
    kept = data.draw(st.sets(st.sampled_from(sorted(nodes))))
    part = Ring(nodes.items(), 160).restrict(kept)
    assert part.digest == Ring([(name, nodes[name]) for name in kept], 160).digest


def test_share_of_keys_moved_is_bounded():
    names = [(f"node{n}/0", 100) for n in range(50)]
    before, after = Ring(names, 160), Ring(names[1:], 160)
    keys = [f"k{n}".encode() for n in range(20_000)]
    moved = sum(before.owner(key) != after.owner(key) for key in keys)
    owned = sum(before.owner(key) == "node0/0" for key in keys)
    assert moved == owned
    assert moved / len(keys) <= 1.5 / 50


def test_points_are_proportional_to_weight():
    ring = Ring([("a/0", 100), ("b/0", 50), ("c/0", 1), ("d/0", 0)], 160)
    assert ring.instances == ("a/0", "b/0", "c/0")
    assert len(ring) == 160 + 80 + 4


def test_an_empty_ring_owns_nothing():
    ring = Ring([], 160)
    assert ring.owner(b"x") is None
    assert list(ring.lookup(b"x")) == []
    assert list(Ring([("a/0", 100)], 160).restrict(set()).lookup(b"x")) == []


@settings(max_examples=40)
@given(st.lists(st.binary(min_size=16, max_size=16).map(lambda digest: digest * 2), max_size=20))
def test_many_points_are_placed_as_few_are(parts):
    """Also where points of several instances coincide."""
    assert ring_module._place_many(parts) == ring_module._place(parts)


def test_a_ring_of_many_instances_has_the_order_of_its_parts():
    names = [f"node{n}/0" for n in range(300)]
    whole = Ring([(name, 100) for name in names], 160)
    few = set(names[:20])
    part = Ring([(name, 100) for name in few], 160)
    for key in KEYS[:50]:
        assert [name for name in whole.lookup(key) if name in few] == list(part.lookup(key))
