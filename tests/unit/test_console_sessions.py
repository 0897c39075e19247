"""Who is signed in to the console, and for how long."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule

from bridge_core.errors import Reaction
from bridge_core.identity import SpiffeId
from bridge_core.tls import Peer
from bridge_registry.console import session_rules as rules
from bridge_registry.console.session_rules import Drawn, Sessions, SignInRefused

FAR = 1e9


def peer(name: str = "ann", serial: str = "1") -> Peer:
    return Peer(SpiffeId("lab", "admin", name), serial)


def begun(
    sessions: Sessions, now: float = 0.0, n: int = 0, who: Peer | None = None, ends: float = FAR
) -> str:
    """Signs somebody in; returns the cookie. The token is "t<n>"."""
    code = sessions.invite(who or peer(), Drawn(f"c{n}", "s"), now, certificate_ends=ends)
    sessions.exchange(code, Drawn(f"k{n}", "secret"), f"t{n}", now)
    return f"k{n}.secret"


def test_a_code_is_good_once_and_both_halves_are_needed() -> None:
    sessions = Sessions()
    code = sessions.invite(peer(), Drawn("id", "secret"), 5.0, certificate_ends=FAR)
    made = sessions.exchange(code, Drawn("cookie", "half"), "token", 6.0)
    assert made.peer == peer()
    assert sessions.find("cookie.half", "token", 7.0) == made
    for cookie, token in [
        ("cookie.half", ""),
        ("cookie.half", "x"),
        ("cookie.x", "token"),
        ("cookie", "token"),
    ]:
        assert sessions.find(cookie, token, 7.0) is None
    assert sessions.find("", "", 7.0) is None
    with pytest.raises(SignInRefused, match="used already"):
        sessions.exchange(code, Drawn("other", "half"), "token", 7.0)


def test_no_secret_is_kept() -> None:
    sessions = Sessions()
    sessions.invite(peer("bob"), Drawn("open", "WORD-1"), 0.0, certificate_ends=FAR)
    code = sessions.invite(peer(), Drawn("id", "WORD-2"), 0.0, certificate_ends=FAR)
    sessions.exchange(code, Drawn("cookie", "WORD-3"), "WORD-4", 0.0)
    assert "WORD" not in str({**sessions._codes, **sessions._sessions})


@pytest.mark.parametrize(("later", "taken"), [(rules.CODE_S - 0.1, True), (rules.CODE_S, False)])
def test_a_code_is_good_for_a_minute(later: float, *, taken: bool) -> None:
    sessions = Sessions()
    code = sessions.invite(peer(), Drawn("id", "secret"), 100.0, certificate_ends=FAR)
    if taken:
        sessions.exchange(code, Drawn("k", "s"), "t", 100.0 + later)
    else:
        with pytest.raises(SignInRefused, match="older than 60 s"):
            sessions.exchange(code, Drawn("k", "s"), "t", 100.0 + later)


def test_a_wrong_guess_ends_the_code_that_it_names() -> None:
    sessions = Sessions()
    code = sessions.invite(peer(), Drawn("id", "secret"), 0.0, certificate_ends=FAR)
    for guess in ("id.wrong", code):
        with pytest.raises(SignInRefused):
            sessions.exchange(guess, Drawn("k", "s"), "t", 1.0)
    assert sessions.many == 0


def test_a_newer_code_takes_the_place_of_the_one_before() -> None:
    sessions = Sessions()
    old = sessions.invite(peer(), Drawn("old", "s"), 0.0, certificate_ends=FAR)
    new = sessions.invite(peer(), Drawn("new", "s"), 0.0, certificate_ends=FAR)
    with pytest.raises(SignInRefused):
        sessions.exchange(old, Drawn("k", "s"), "t", 1.0)
    assert sessions.exchange(new, Drawn("k", "s"), "t", 1.0)


def test_codes_that_are_open_are_bounded_and_old_ones_make_room() -> None:
    sessions = Sessions()
    for n in range(rules.CODES):
        sessions.invite(peer(f"a{n}"), Drawn(f"c{n}", "s"), 0.0, certificate_ends=FAR)
    with pytest.raises(SignInRefused, match="too many codes"):
        sessions.invite(peer("one"), Drawn("more", "s"), 1.0, certificate_ends=FAR)
    assert sessions.invite(peer("one"), Drawn("more", "s"), rules.CODE_S, certificate_ends=FAR)


def test_guessers_are_stopped_for_a_while_and_keep_no_admin_out() -> None:
    sessions = Sessions()
    for n in range(rules.GUESSES):
        with pytest.raises(SignInRefused, match="used already"):
            sessions.exchange(f"{n}.x", Drawn("k", "s"), "t", float(n))
    code = sessions.invite(peer(), Drawn("id", "s"), 30.0, certificate_ends=FAR)
    with pytest.raises(SignInRefused, match="too many wrong codes") as refused:
        sessions.exchange("more.x", Drawn("k", "s"), "t", rules.GUESSES_S - 0.1)
    assert refused.value.reaction is Reaction.RETRY
    assert sessions.exchange(code, Drawn("k", "s"), "t", rules.GUESSES_S - 0.1).peer == peer()
    with pytest.raises(SignInRefused, match="used already"):
        sessions.exchange("more.x", Drawn("k", "s"), "t", rules.GUESSES_S)


def test_a_session_ends_when_nothing_is_done() -> None:
    sessions = Sessions()
    cookie = begun(sessions)
    assert sessions.find(cookie, "t0", rules.IDLE_S - 1)
    sessions.acted(cookie, rules.IDLE_S - 1)
    assert sessions.find(cookie, "t0", 2 * rules.IDLE_S - 2)
    assert sessions.find(cookie, "t0", 2 * rules.IDLE_S - 1) is None
    assert sessions.many == 0


def test_a_session_ends_whatever_is_done() -> None:
    sessions = Sessions()
    cookie, now = begun(sessions), 0.0
    while now + rules.IDLE_S / 2 < rules.LIFE_S:
        now += rules.IDLE_S / 2
        sessions.acted(cookie, now)
    assert sessions.find(cookie, "t0", rules.LIFE_S - 0.1)
    assert sessions.find(cookie, "t0", rules.LIFE_S) is None


def test_a_session_ends_with_the_certificate() -> None:
    sessions = Sessions()
    cookie = begun(sessions, ends=100.0)
    assert sessions.find(cookie, "t0", 99.0)
    assert sessions.find(cookie, "t0", 100.0) is None
    code = sessions.invite(peer(), Drawn("late", "s"), 100.0, certificate_ends=110.0)
    with pytest.raises(SignInRefused):
        sessions.exchange(code, Drawn("k", "s"), "t", 110.0)


def test_who_signs_out_is_out() -> None:
    sessions = Sessions()
    first, second = begun(sessions, n=1), begun(sessions, n=2)
    sessions.end(first)
    assert sessions.find(first, "t1", 1.0) is None
    assert sessions.find(second, "t2", 1.0)


def test_of_one_admin_the_oldest_session_gives_way() -> None:
    sessions = Sessions()
    other = begun(sessions, n=99, who=peer("bob"))
    cookies = [begun(sessions, float(n), n, peer(serial=str(n))) for n in range(rules.EACH + 1)]
    assert sessions.find(cookies[0], "t0", 10.0) is None
    assert all(sessions.find(one, f"t{n}", 10.0) for n, one in enumerate(cookies) if n)
    assert sessions.find(other, "t99", 10.0)


def test_sessions_are_bounded_in_all_and_ended_ones_make_room() -> None:
    sessions = Sessions()
    for n in range(rules.MOST):
        begun(sessions, n=n, who=peer(f"a{n}"))
    with pytest.raises(SignInRefused, match="sessions are open"):
        begun(sessions, n=100, who=peer("one"))
    assert begun(sessions, rules.IDLE_S, 101, peer("one"))
    assert sessions.many == 1


@given(st.text(max_size=300), st.text(max_size=300))
def test_whatever_is_shown_is_nobodys(cookie: str, token: str) -> None:
    sessions = Sessions()
    begun(sessions)
    if (cookie, token) != ("k0.secret", "t0"):
        assert sessions.find(cookie, token, 1.0) is None
    with pytest.raises(SignInRefused):
        sessions.exchange(cookie, Drawn("k", "s"), "t", 1.0)


class Machine(RuleBasedStateMachine):
    """Against a model that is a list: who may be in at a moment, and never anybody else."""

    codes, opened = Bundle("codes"), Bundle("opened")

    def __init__(self) -> None:
        super().__init__()
        self.sessions, self.now, self.numbers = Sessions(), 0.0, itertools.count()
        self.used: set[str] = set()
        self.ended: set[str] = set()
        self.last: dict[str, tuple[float, float]] = {}  # cookie: began, last act

    @rule(by=st.floats(0.0, rules.LIFE_S / 3))
    def waits(self, by: float) -> None:
        self.now += by

    @rule(target=codes, name=st.sampled_from(["ann", "bob"]))
    def invites(self, name: str) -> object:
        drawn = Drawn(f"c{next(self.numbers)}", "s")
        return self.sessions.invite(peer(name), drawn, self.now, certificate_ends=FAR), name, self.now

    @rule(target=opened, code=codes)
    def exchanges(self, code: tuple[str, str, float]) -> object:
        text, name, made = code
        n = next(self.numbers)
        try:
            session = self.sessions.exchange(text, Drawn(f"k{n}", "s"), f"t{n}", self.now)
        except SignInRefused:
            return multiple()
        assert session.peer.identity.name == name
        assert text not in self.used
        assert self.now - made < rules.CODE_S
        self.used.add(text)
        self.last[f"k{n}.s"] = self.now, self.now
        return f"k{n}.s", f"t{n}"

    @rule(one=opened)
    def acts(self, one: tuple[str, str]) -> None:
        if self.sessions.find(*one, self.now):
            self.sessions.acted(one[0], self.now)
            self.last[one[0]] = self.last[one[0]][0], self.now

    @rule(one=opened)
    def signs_out(self, one: tuple[str, str]) -> None:
        if self.sessions.find(*one, self.now):
            self.sessions.end(one[0])
            self.ended.add(one[0])

    @rule(one=opened)
    def looks(self, one: tuple[str, str]) -> None:
        if self.sessions.find(*one, self.now):
            began, last = self.last[one[0]]
            assert one[0] not in self.ended
            assert self.now - began < rules.LIFE_S
            assert self.now - last < rules.IDLE_S

    @invariant()
    def bounded(self) -> None:
        assert self.sessions.many <= 2 * rules.EACH


TestMachine = Machine.TestCase


def test_the_bounds_are_those_that_admins_are_told() -> None:
    """By docs/operations/console.md."""
    assert (rules.CODE_S, rules.CODES) == (60, 64)
    assert (rules.IDLE_S, rules.LIFE_S) == (30 * 60, 8 * 60 * 60)
    assert (rules.EACH, rules.MOST) == (4, 64)
    assert (rules.GUESSES, rules.GUESSES_S) == (30, 60)


@pytest.mark.parametrize(("length", "taken"), [(197, True), (198, False)])
def test_of_what_is_sent_so_much_is_read(length: int, *, taken: bool) -> None:
    sessions = Sessions()
    code = sessions.invite(peer(), Drawn("id", "s" * length), 0.0, certificate_ends=FAR)
    if taken:
        assert len(code) == 200
        sessions.exchange(code, Drawn("k", "s"), "t", 0.0)
    else:
        with pytest.raises(SignInRefused):
            sessions.exchange(code, Drawn("k", "s"), "t", 0.0)
