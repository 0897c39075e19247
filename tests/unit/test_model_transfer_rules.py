"""Which pieces from whom: the rules of transfers, claims, paces, pieces and manifests."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models import piece_rules
from bridge_agent.models.claim_rules import Claims, in_order
from bridge_agent.models.manifest_rules import BadManifest, blobs_of, read_manifest
from bridge_agent.models.pace_rules import Pace
from bridge_agent.models.piece_rules import (
    piece_count,
    piece_size,
    read_have,
    span,
    write_have,
)
from bridge_agent.models.transfer_rules import ALONE_S, OPEN_S, OUTSIDE, Ask, Transfer
from bridge_core.decoding import Undecodable

D = "d" * 64


# -- pieces


@given(st.integers(0, 1 << 43))
def test_pieces_cover_a_blob_once_and_are_few(size: int) -> None:
    count = piece_count(size)
    assert count <= (1 << 14)
    if not count:
        assert size == 0
        return
    assert span(size, 0)[0] == 0
    begin, length = span(size, count - 1)
    assert begin + length == size
    assert 0 < length <= piece_size(size)
    if count > 1:
        assert span(size, 1) == (piece_size(size), min(piece_size(size), size - piece_size(size)))


@pytest.mark.parametrize("piece", [-1, 2])
def test_there_are_no_other_pieces(piece: int) -> None:
    with pytest.raises(IndexError):
        span((4 << 20) + 1, piece)


def test_pieces_grow_only_where_there_would_be_too_many() -> None:
    assert piece_size((4 << 20) * (1 << 14)) == (4 << 20)
    assert piece_size((4 << 20) * (1 << 14) + 1) == 2 * (4 << 20)
    assert [piece_count(n) for n in (0, 1, 4 << 20, (4 << 20) + 1)] == [0, 1, 1, 2]


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.just(n), st.integers(0, (1 << n) - 1))))
def test_what_is_had_is_read_as_it_was_written(case: tuple[int, int]) -> None:
    count, have = case
    assert read_have(write_have(have, count), count) == have


@pytest.mark.parametrize("text", ["", "g", "-1", "0x1", "8", "ALL", "f" * 5000])
def test_what_is_not_had_is_not_believed(text: str) -> None:
    with pytest.raises(ValueError, match="has"):
        read_have(text, 3)


# -- transfers


@given(
    st.integers(1, 40),
    st.lists(st.integers(0, (1 << 40) - 1), min_size=1, max_size=6),
    st.data(),
)
def test_every_piece_that_somebody_has_comes_once(count: int, haves: list[int], data: st.DataObject) -> None:
    transfer = Transfer(count)
    for at, have in enumerate(haves):
        transfer.heard(f"n{at}", have)
    under_way: list[Ask] = []
    came: list[int] = []
    for _ in range(20 * count + 50):
        ask = transfer.next(0.0, data.draw(st.integers(0, 1 << 30)))
        if ask is not None:
            assert haves[int(ask.source[1:])] >> ask.piece & 1
            assert ask.piece not in {one.piece for one in under_way}
            assert ask.piece not in came
            under_way.append(ask)
        assert len(under_way) <= 8
        assert all(len(one.asked) <= 3 for one in transfer.sources.values())
        if under_way and (ask is None or data.draw(st.booleans())):
            done = under_way.pop(data.draw(st.integers(0, len(under_way) - 1)))
            transfer.came(done.piece, done.source)
            came.append(done.piece)
        if ask is None and not under_way:
            break
    everything = 0
    for have in haves:
        everything |= have & ((1 << count) - 1)
    assert transfer.have == everything
    assert transfer.uncovered == ((1 << count) - 1) & ~everything
    assert transfer.whole == (transfer.uncovered == 0)
    assert sorted(came) == sorted(transfer.given)


def test_the_rarest_piece_goes_first() -> None:
    transfer = Transfer(3)
    transfer.heard("a", 0b111)
    transfer.heard("b", 0b111)
    transfer.heard("c", 0b101)
    asks = [transfer.next(0.0, 0) for _ in range(2)]
    # Of sources that nothing is under way from, the one that has least; of what the next one has, the rarest.
    assert [(ask.source, ask.piece) for ask in asks if ask] == [("c", 0), ("a", 1)]


def test_what_only_one_source_has_is_shared_out_among_who_fetch() -> None:
    transfer = Transfer(6)
    transfer.shared(1, 3)
    transfer.heard("a", 0b111111)
    assert {ask.piece for _ in range(3) if (ask := transfer.next(0.0, 0))} == {1, 4}
    transfer.heard("b", 0b000100)  # a second one has it: it is nobody's any more
    ask = transfer.next(0.0, 0)
    assert ask == Ask("b", 2)


def test_who_could_ask_for_nothing_else_for_a_moment_asks_for_all() -> None:
    transfer = Transfer(6)
    transfer.shared(2, 3)
    transfer.heard("a", 0b000011)
    assert transfer.next(10.0, 0) is None
    assert transfer.next(10.0 + ALONE_S - 0.01, 0) is None
    assert transfer.next(10.0 + ALONE_S, 0) == Ask("a", 0)
    assert transfer.next(10.0 + ALONE_S, 0) == Ask("a", 1)
    transfer.came(0, "a")
    transfer.came(1, "a")
    transfer.heard("a", 0b011011)
    assert transfer.next(9.99 + ALONE_S + OPEN_S, 0) == Ask("a", 3)
    transfer.came(3, "a")
    assert transfer.next(10.0 + ALONE_S + OPEN_S, 0) is None


def test_a_wait_for_what_nobody_has_yet_opens_nothing() -> None:
    transfer = Transfer(6)
    transfer.shared(2, 3)
    assert transfer.next(0.0, 0) is None
    assert transfer.next(100.0, 0) is None
    transfer.heard("a", 0b000011)
    assert transfer.next(100.0, 0) is None


def test_who_has_it_first_sends_hardly_more_than_one_copy() -> None:
    """Seven nodes, one source: who asks for a piece has it at the next step, and says so to all."""
    count, draw = 210, random.Random(7)
    nodes = {f"n{at}": Transfer(count) for at in range(7)}
    for at, transfer in enumerate(nodes.values()):
        transfer.shared(at, len(nodes))
    sent = dict.fromkeys(("first", *nodes), 0)
    now = 0.0
    while not all(transfer.whole for transfer in nodes.values()):
        now += 0.1
        assert now < 60
        for name, transfer in nodes.items():
            transfer.heard("first", (1 << count) - 1)
            for other, known in nodes.items():
                if other != name:
                    transfer.heard(other, known.have)
        asked = []
        for transfer in nodes.values():
            while (ask := transfer.next(now, draw.getrandbits(30))) is not None:
                asked.append((transfer, ask))
        for transfer, ask in asked:
            transfer.came(ask.piece, ask.source)
            sent[ask.source] += 1
    assert count <= sent["first"] < 1.5 * count
    assert max(sent[name] for name in nodes) < 1.5 * count


def test_many_who_fetch_begin_in_different_places() -> None:
    firsts = set()
    for draw in range(16):
        transfer = Transfer(16)
        transfer.heard("a", (1 << 16) - 1)
        ask = transfer.next(0.0, draw)
        assert ask is not None
        firsts.add(ask.piece)
    assert firsts == set(range(16))


def test_a_source_that_fails_in_a_row_is_dropped_and_a_piece_between_forgives() -> None:
    transfer = Transfer(4)
    transfer.heard("a", 0b1111)
    for _ in range(3 - 1):
        ask = transfer.next(0.0, 0)
        assert ask is not None
        transfer.failed(ask.piece, "a", "no")
    ask = transfer.next(0.0, 0)
    assert ask is not None
    transfer.came(ask.piece, "a")
    for at in range(3):
        assert not transfer.dropped, at
        ask = transfer.next(0.0, 0)
        assert ask is not None
        transfer.failed(ask.piece, "a", "no")
    assert transfer.dropped == {"a": f"failed {3} times in a row, last: no"}
    assert transfer.next(0.0, 0) is None
    transfer.heard("a", 0b1111)
    assert transfer.next(0.0, 0) is None
    assert transfer.uncovered.bit_count() == 3


def test_a_busy_source_rests() -> None:
    transfer = Transfer(2)
    transfer.heard("a", 0b11)
    ask = transfer.next(0.0, 0)
    assert ask is not None
    transfer.busy(ask.piece, "a", 10.0)
    assert transfer.next(10.0 + 0.25 - 0.01, 0) is None
    assert transfer.next(10.0 + 0.25, 0) is not None


def test_what_no_node_has_comes_from_outside_in_order() -> None:
    transfer = Transfer(5, have=0b00001)
    transfer.heard("a", 0b00110)
    assert [transfer.next_outside(0), transfer.next_outside(4), transfer.next_outside(0)] == [3, 4, None]
    transfer.failed(3, OUTSIDE, "no")
    assert transfer.next_outside(4) == 3
    transfer.came(3, OUTSIDE)
    assert transfer.given == {3: OUTSIDE}
    transfer.gone("a")
    assert transfer.next_outside(2) == 2


def test_who_gave_what_others_know_otherwise_is_dropped() -> None:
    transfer = Transfer(3)
    for piece, source in enumerate(("a", "b", OUTSIDE)):
        transfer.heard(source, 0b111) if source else None
        transfer.came(piece, source)
    bad = transfer.wrong({0: "x", 1: "y", 2: "z"}, {"b": {0: "good", 1: "other", 2: "z"}})
    assert bad == {0}
    assert set(transfer.dropped) == {"a"}
    assert transfer.have == 0b110


def test_where_nobody_contradicts_all_of_it_is_fetched_again() -> None:
    transfer = Transfer(3, have=0b100)
    transfer.heard("a", 0b111)
    transfer.came(0, "a")
    transfer.came(1, OUTSIDE)
    assert transfer.wrong({0: "x", 1: "y", 2: "z"}, {"a": {0: "x", 1: "y", 2: "z"}}) == {0, 1, 2}
    assert set(transfer.dropped) == {"a"}
    assert not transfer.have
    assert not transfer.given


# -- claims


def test_one_node_fetches_and_the_others_are_told_who() -> None:
    claims = Claims()
    assert claims.ask(D, "a", 0, 0.0, offers=True).fetcher == "a"
    said = claims.ask(D, "b", 0, 0.1, offers=True)
    assert (said.fetcher, said.sources) == ("a", ())
    assert claims.ask(D, "c", 0, 0.2, offers=False).sources == ("b",)


def test_a_fetcher_that_is_gone_is_followed_by_the_next() -> None:
    claims = Claims()
    claims.ask(D, "a", 0, 0.0, offers=True)
    assert claims.ask(D, "b", 0, 6.0, offers=True).fetcher == "a"
    assert claims.ask(D, "b", 0, 6.0 + 0.1, offers=True).fetcher == "b"


def test_a_fetcher_that_gives_up_is_followed_by_the_next() -> None:
    claims = Claims()
    claims.ask(D, "a", 0, 0.0, offers=True)
    assert claims.ask(D, "a", 0, 1.0, offers=False).fetcher == ""
    assert claims.ask(D, "b", 0, 1.0, offers=True).fetcher == "b"


def test_a_fetcher_that_gains_nothing_loses_its_claim_for_a_while() -> None:
    claims = Claims()
    at, step = 0.0, 6.0 / 2
    while at <= 60.0:
        assert claims.ask(D, "a", 1, at, offers=True).fetcher == "a", at
        at += step
    assert claims.ask(D, "a", 1, at, offers=True).fetcher == ""
    assert claims.ask(D, "b", 0, at, offers=True).fetcher == "b"


def test_a_fetcher_that_gains_keeps_its_claim() -> None:
    claims = Claims()
    for at in range(int(3 * 60.0)):
        assert claims.ask(D, "a", at, float(at), offers=True).fetcher == "a"
        assert claims.ask(D, "b", 0, float(at), offers=True).fetcher == "a"


@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.floats(0.0, 20.0), st.integers(0, 5), st.booleans()),
        max_size=40,
    )
)
def test_there_is_never_a_fetcher_who_did_not_offer(steps: list[tuple[str, float, int, bool]]) -> None:
    claims, now, offered = Claims(), 0.0, set[str]()
    for node, after, have, offers in steps:
        now += after
        offered = offered | {node} if offers else offered - {node}
        fetcher = claims.ask(D, node, have, now, offers=offers).fetcher
        assert not fetcher or fetcher in offered


def test_claims_are_bounded() -> None:
    claims = Claims()
    for number in range(4096 + 10):
        claims.ask(f"{number:064x}", "a", 0, 0.0, offers=True)
    assert len(claims._wanted) == 4096
    for number in range(64 + 5):
        claims.ask(D, f"n{number}", 0, float(number) / 100, offers=False)
    assert len(claims._wanted[D].seen) == 64
    claims.ask(D, "z", 0, 600.0, offers=False)
    assert list(claims._wanted) == [D]


def test_every_node_asks_the_same_coordinator() -> None:
    nodes = [f"node{n}" for n in range(9)]
    assert in_order(D, nodes) == in_order(D, reversed(nodes))
    assert in_order(D, nodes)[:2] == ["node0", "node1"]
    assert len({in_order(f"{n:064x}", nodes)[0] for n in range(200)}) == len(nodes)


# -- pace


def test_the_pace_holds_over_a_while() -> None:
    pace, began, sent = Pace(1000, 100), 50.0, 0
    now = began
    while sent < 20_000:
        now += pace.pause(500, now, busy=False)
        sent += 500
    assert now - began == pytest.approx((sent - 500) / 1000 - 0.25, abs=0.01)


@pytest.mark.parametrize(
    ("most", "busy", "is_busy", "second"),
    [(0, 0, True, 0.0), (0, 100, False, 0.0), (0, 100, True, 1.0), (50, 100, True, 2.0), (200, 0, True, 0.5)],
)
def test_the_slower_of_both_paces_counts(most: int, busy: int, is_busy: bool, second: float) -> None:
    pace = Pace(most, busy)
    first = pace.pause(100, 100.0, busy=is_busy)
    assert first == 0.0
    assert pace.pause(1, 100.0, busy=is_busy) == pytest.approx(max(0.0, second - 0.25))


# -- manifests


def _manifest(**layer: object) -> bytes:
    base = {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{'a' * 64}", "size": 5}
    config = {"mediaType": "application/vnd.docker.container.image.v1+json", "digest": f"sha256:{'b' * 64}"}
    return json.dumps({"config": {**config, "size": 1}, "layers": [{**base, **layer}]}).encode()


def test_a_manifest_as_it_should_be() -> None:
    manifest = read_manifest(_manifest(name="part/0.safetensors"))
    assert [layer.digest[7] for layer in blobs_of(manifest)] == ["a", "b"]


@pytest.mark.parametrize(
    ("layer", "said"),
    [
        ({"digest": "sha256:" + "A" * 64}, "layer 1 has the digest"),
        ({"digest": f"sha256-{'a' * 64}"}, "layer 1 has the digest"),
        ({"digest": "../" + "a" * 64}, "layer 1 has the digest"),
        ({"digest": f"sha256:{'a' * 64}\n"}, "layer 1 has the digest"),
        ({"size": -1}, "layer 1 has the size -1"),
        ({"size": (1 << 43) + 1}, "layer 1 has the size"),
        ({"mediaType": "symlink"}, "media type"),
        ({"mediaType": "application/vnd.x.symlink"}, "media type"),
        ({"mediaType": "a/b\r\nX: y"}, "media type"),
        ({"name": "../x"}, "leads out"),
        ({"name": "a/../../x"}, "leads out"),
        ({"name": "/etc/passwd"}, "leads out"),
        ({"name": "a\\..\\x"}, "leads out"),
        ({"name": "a\x00"}, "zero"),
        ({"name": "a" * 513}, "too long"),
        ({"from": "a" * 513}, "too long"),
        ({"digest": f"sha256:{'b' * 64}", "size": 2}, "another size"),
        ({"size": 1 << 43}, "bytes"),
    ],
)
def test_a_manifest_that_nobody_in_good_faith_writes(layer: dict[str, object], said: str) -> None:
    with pytest.raises(BadManifest, match=said):
        read_manifest(_manifest(**layer))


def test_a_manifest_of_too_many_layers() -> None:
    layer = {"mediaType": "application/x.y", "digest": f"sha256:{'b' * 64}", "size": 1}
    with pytest.raises(BadManifest, match="1025 layers"):
        read_manifest(json.dumps({"config": layer, "layers": [layer] * 1025}).encode())
    assert len(blobs_of(read_manifest(json.dumps({"config": layer, "layers": [layer] * 1024}).encode()))) == 1


@given(st.binary(max_size=200))
def test_bytes_that_are_no_manifest(data: bytes) -> None:
    with pytest.raises((Undecodable, BadManifest)):
        read_manifest(data)


def test_pieces_are_cut_as_every_version_cuts_them() -> None:
    assert (piece_rules.SMALLEST, piece_rules.MOST_PIECES) == (4_194_304, 16_384)
