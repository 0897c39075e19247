"""How models travel, at the limits of the rules: claims, pieces, ranges, paces, transfers, removals."""

from __future__ import annotations

import json

import pytest

from bridge_agent.models.claim_rules import ClaimAnswer, Claims
from bridge_agent.models.manifest_rules import BadManifest, read_manifest
from bridge_agent.models.pace_rules import Pace
from bridge_agent.models.piece_rules import piece_count, piece_size, read_have, span, write_have
from bridge_agent.models.range_rules import Unsatisfiable, wanted
from bridge_agent.models.removal_rules import Held, evicted, refusal
from bridge_agent.models.transfer_rules import OUTSIDE, Transfer
from bridge_core.decoding import Undecodable

D = "d" * 64

# -- ranges (RFC 9110, section 14)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (None, None),
        (b"", None),
        (b"bytes=-", None),
        (b"bytes=0-0", (0, 1)),
        (b"bytes=2-5", (2, 6)),
        (b"bytes=2-", (2, 10)),
        (b"bytes=9-9", (9, 10)),
        (b"bytes=9-99", (9, 10)),
        (b"bytes=-1", (9, 10)),
        (b"bytes=-3", (7, 10)),
        (b"bytes=-10", (0, 10)),
        (b"bytes=-11", (0, 10)),
        (b"bytes=5-5", (5, 6)),
        (b"bytes=5-4", None),
        (b"bytes=50-4", None),
        (b"bytes=0-1,3-4", None),
        (b"lines=0-1", None),
        (b"bytes=\xff-", None),
    ],
)
def test_the_bytes_that_a_range_asks_for(field: bytes | None, found: tuple[int, int] | None) -> None:
    assert wanted(field, 10) == found


@pytest.mark.parametrize(
    ("field", "size"), [(b"bytes=10-", 10), (b"bytes=10-12", 10), (b"bytes=-0", 10), (b"bytes=-5", 0)]
)
def test_a_range_behind_the_end_has_no_byte(field: bytes, size: int) -> None:
    with pytest.raises(Unsatisfiable):
        wanted(field, size)


# -- pieces


def test_pieces_at_their_edges() -> None:
    mib4 = 4 << 20
    assert span(mib4 + 1, 0) == (0, mib4)
    assert span(mib4 + 1, 1) == (mib4, 1)
    assert piece_size(1 << 36) == mib4
    assert piece_size((1 << 36) + 1) == 2 * mib4
    assert piece_size(1 << 38) == 4 * mib4
    assert piece_count(0) == 0
    with pytest.raises(IndexError, match="piece 0 of a blob that has 0"):
        span(0, 0)


def test_what_is_had_in_digits() -> None:
    assert write_have(0b111, 3) == "all"
    assert write_have(0b011, 3) == "3"
    assert write_have(0, 0) == "all"
    assert read_have("7", 3) == 7
    assert read_have("all", 3) == 7
    assert read_have("0", 3) == 0
    with pytest.raises(ValueError, match="beyond the 3"):
        read_have("8", 3)


# -- claims


def test_a_claim_lasts_six_seconds_and_a_source_as_long() -> None:
    claims = Claims()
    claims.ask(D, "a", 0, 0.0, offers=True)
    claims.ask(D, "c", 0, 0.0, offers=False)
    assert claims.ask(D, "b", 0, 6.0, offers=True) == ClaimAnswer("a", ("c",))
    assert claims.ask(D, "b", 0, 6.1, offers=True) == ClaimAnswer("b", ())


def test_a_claim_without_a_gain_ends_after_a_minute_and_its_holder_waits_another() -> None:
    claims = Claims()
    claims.ask(D, "a", 5, 0.0, offers=True)
    for now in range(5, 61, 5):
        assert claims.ask(D, "a", 5, float(now), offers=True).fetcher == "a", now
    assert claims.ask(D, "a", 5, 60.1, offers=True).fetcher == ""
    for now in range(65, 121, 5):
        assert claims.ask(D, "a", 5, float(now), offers=True).fetcher == "", now
    assert claims.ask(D, "a", 5, 120.1, offers=True).fetcher == "a"


def test_one_piece_more_is_a_gain_and_one_less_is_none() -> None:
    def fetcher(have: int) -> str:
        claims = Claims()
        claims.ask(D, "a", 5, 0.0, offers=True)
        for now in range(5, 60, 5):
            claims.ask(D, "a", 5 if now < 50 else have, float(now), offers=True)
        return claims.ask(D, "a", have, 61.0, offers=True).fetcher

    assert [fetcher(have) for have in (4, 5, 6)] == ["", "", "a"]


def test_who_takes_a_claim_has_its_whole_time() -> None:
    claims = Claims()
    for now in range(0, 50, 5):
        claims.ask(D, "b", 0, float(now), offers=False)
    claims.ask(D, "b", 0, 50.0, offers=True)
    for now in range(55, 111, 5):
        assert claims.ask(D, "b", 0, float(now), offers=True).fetcher == "b", now


def test_so_many_sources_are_told_of_and_remembered() -> None:
    claims = Claims()
    for number in range(70):
        claims.ask(D, f"n{number:02}", 0, number / 100, offers=False)
    told = claims.ask(D, "me", 0, 1.0, offers=False).sources
    assert told == tuple(f"n{number:02}" for number in range(46, 70))
    # 64 are remembered: of those that came first none is left.
    for number in range(24):
        claims.ask(D, f"n{69 - number:02}", 0, 6.5, offers=False)
    assert len(claims.ask(D, "me", 0, 6.5, offers=False).sources) == 24


def test_what_nobody_asks_about_is_forgotten_once_a_second() -> None:
    claims = Claims()
    claims.ask("old", "a", 0, 0.0, offers=True)
    claims.ask("swept", "a", 0, 6.0, offers=True)
    claims.ask("new", "b", 0, 6.9, offers=True)
    assert set(claims._wanted) == {"old", "swept", "new"}
    claims.ask("new", "b", 0, 7.0, offers=True)
    assert set(claims._wanted) == {"swept", "new"}


# -- paces


def test_a_quarter_of_a_second_is_made_up_for() -> None:
    pace = Pace(100, 0)
    assert pace.pause(100, 1000.0, busy=False) == 0.0
    assert pace.pause(100, 1000.0, busy=False) == pytest.approx(0.75)
    assert pace.pause(100, 1005.0, busy=True) == 0.0
    assert pace.pause(1, 1005.0, busy=True) == pytest.approx(0.75)


def test_what_went_without_a_limit_is_not_paid_for_later() -> None:
    pace = Pace(0, 100)
    assert pace.pause(10**9, 1000.0, busy=False) == 0.0
    assert pace.pause(100, 1000.0, busy=True) == 0.0
    assert pace.pause(100, 1000.0, busy=True) == pytest.approx(1.0)


def test_at_the_beginning_of_a_clock_nothing_waits() -> None:
    assert Pace(1, 0).pause(5, 0.0, busy=False) == 0.0


# -- transfers


def test_three_of_a_source_and_eight_in_all_are_under_way() -> None:
    one = Transfer(20)
    one.heard("a", (1 << 20) - 1)
    assert sum(one.next(0.0, 0) is not None for _ in range(20)) == 3
    many = Transfer(20)
    for name in "abcd":
        many.heard(name, (1 << 20) - 1)
    assert sum(many.next(0.0, 0) is not None for _ in range(20)) == 8


def test_the_source_with_the_least_under_way_is_asked() -> None:
    transfer = Transfer(20)
    for name in "abc":
        transfer.heard(name, (1 << 20) - 1)
    asked = [transfer.next(0.0, 0) for _ in range(6)]
    assert [one.source for one in asked if one] == ["a", "b", "c", "a", "b", "c"]
    other = Transfer(20)
    for name in "abc":
        other.heard(name, (1 << 20) - 1)
    first = other.next(0.0, 1)
    assert first is not None
    assert first.source == "c"


def test_sources_are_bounded_and_what_they_say_is_cut_to_the_blob() -> None:
    transfer = Transfer(3)
    for number in range(70):
        transfer.heard(f"n{number}", 0b11111)
    assert len(transfer.sources) == 64
    assert {one.have for one in transfer.sources.values()} == {0b111}
    transfer.heard("n0", 0b1)
    assert transfer.sources["n0"].have == 0b1


def test_a_source_that_is_gone_has_nothing_and_may_come_back() -> None:
    transfer = Transfer(3)
    transfer.heard("a", 0b111)
    transfer.gone("a")
    transfer.gone("nobody")
    assert transfer.uncovered == 0b111
    assert transfer.next(0.0, 0) is None
    transfer.heard("a", 0b100)
    assert transfer.uncovered == 0b011
    asked = transfer.next(0.0, 0)
    assert asked is not None
    assert asked.piece == 2


def test_a_source_that_was_never_heard_of_has_no_strikes_and_rests_at_nobodys_cost() -> None:
    transfer = Transfer(3)
    assert transfer.sources == {}
    transfer.heard("a", 0b111)
    source = transfer.sources["a"]
    assert (source.strikes, source.rests, source.dropped, source.asked) == (0, 0.0, "", set())
    transfer.failed(0, "a", "no")
    transfer.failed(0, "a", "no")
    assert transfer.dropped == {}
    transfer.failed(0, "a", "no")
    assert transfer.dropped == {"a": "failed 3 times in a row, last: no"}
    transfer.drop("a", "again")
    assert transfer.dropped == {"a": "failed 3 times in a row, last: no"}


def test_a_piece_that_came_twice_is_the_first_ones() -> None:
    transfer = Transfer(2)
    transfer.came(1, "a")
    transfer.came(1, "b")
    assert transfer.given == {1: "a"}
    assert not transfer.whole
    transfer.came(0, "b")
    assert transfer.whole


def test_of_equally_rare_pieces_chance_decides_and_of_64_the_rarest_is_looked_for() -> None:
    def first(rare: int, draw: int = 0) -> int:
        transfer = Transfer(100)
        everything = (1 << 100) - 1
        transfer.heard("a", everything)
        transfer.heard("b", everything & ~(1 << rare))
        transfer.drop("b", "no")
        transfer.heard("c", everything & ~(1 << rare))
        transfer.busy(99, "c", 0.0)
        transfer.gone("zz")
        asked = transfer.next(0.0, draw)
        assert asked is not None
        transfer.failed(asked.piece, asked.source, "")
        return asked.piece

    assert [first(rare) for rare in (0, 5, 63)] == [0, 5, 63]
    assert first(64) == 0, "the sixty-fifth is not looked at"


def test_a_hash_that_nobody_else_knows_proves_nothing() -> None:
    transfer = Transfer(2)
    transfer.heard("a", 0b11)
    transfer.came(0, "a")
    transfer.came(1, OUTSIDE)
    bad = transfer.wrong({0: "x", 1: "y"}, {"a": {0: "z"}, "b": {1: "w"}})
    assert bad == {1}, "what the giver itself says otherwise is no contradiction"
    assert transfer.dropped == {}


# -- manifests


def manifest(**more: object) -> bytes:
    layer = {"mediaType": "application/x.y", "digest": f"sha256:{'a' * 64}", "size": 5, **more}
    config = {"mediaType": "application/x.y", "digest": f"sha256:{'b' * 64}", "size": 1}
    return json.dumps({"config": config, "layers": [layer]}).encode()


def test_the_largest_that_are_taken() -> None:
    assert read_manifest(manifest(size=(1 << 43) - 1)).layers[0].size == (1 << 43) - 1
    with pytest.raises(BadManifest, match="8796093022208 at most"):
        read_manifest(manifest(size=1 << 43))
    assert read_manifest(manifest(size=0)).layers[0].size == 0
    assert read_manifest(manifest(name="a" * 512)).layers[0].name == "a" * 512
    whole = manifest()
    assert read_manifest(whole + b" " * ((4 << 20) - len(whole)))
    with pytest.raises(Undecodable):
        read_manifest(whole + b" " * ((4 << 20) + 1 - len(whole)))


def test_which_layer_is_wrong_is_said_and_not_too_much_of_it() -> None:
    with pytest.raises(BadManifest, match=r"^its config has the digest 'x'"):
        read_manifest(
            json.dumps({"config": {"mediaType": "a/b", "digest": "x", "size": 1}, "layers": []}).encode()
        )
    for field, says in (("digest", "digest"), ("mediaType", "media type")):
        with pytest.raises(BadManifest, match=f"has the {says} '{'!' * 80}'"):
            read_manifest(manifest(**{field: "!" * 81}))
    with pytest.raises(BadManifest, match=f"name '/{'x' * 79}'"):
        read_manifest(manifest(name="/" + "x" * 90))
    with pytest.raises(BadManifest, match="leads out"):
        read_manifest(manifest(name="\\x"))
    assert read_manifest(manifest(name="a..b/c"))


# -- removals


def test_what_has_no_bytes_makes_no_room() -> None:
    assert evicted([Held("none", 0, 1), Held("one", 1, 1, used=5.0)], 1) == [Held("one", 1, 1, used=5.0)]
    assert evicted([Held("one", 1, 1)], 0) == []
    assert Held("m", 1, 1) == Held("m", 1, 1, loaded=False, running=0, used=0.0)
    assert refusal(Held("m", 1, 0, running=1)).startswith("1 requests")
    older = [Held("new", 5, 1, used=1.0), Held("old", 5, 1, used=0.5)]
    assert [one.name for one in evicted(older, 5)] == ["old"]
