"""Who is signed in to the console, and for how long: pure.

Rules:
1. An admin who has proven itself by its certificate gets a code, good once and for `CODE_S`. A newer one of
   the same certificate takes the place of the one before. A code is one guess: whoever names it with a wrong
   secret ends it.
2. A code becomes a session, which has two halves: one that the browser keeps from scripts (a cookie), one
   that the page alone has. Both are needed. Cookies know no ports, so every service of the machine is shown
   the first; and a page that can make a browser send it does not know the second.
3. A session ends `IDLE_S` after its last act, `LIFE_S` after it began, or with the certificate, whichever is
   first. Whether its admin may still do what it asks is looked up at each call, and not here.
4. Of one admin there are `EACH` sessions: the one that began first gives way. In all there are `MOST`.
5. After `GUESSES` wrong codes in `GUESSES_S` who sends another wrong one is told to wait. Secrets have 256
   bits, so this bounds what guessers cost rather than what they find; a right code is taken all the same, or
   any program of the machine could keep admins out.
6. Secrets are kept as hashes, and compared in a time that does not tell where they differ.
"""

from __future__ import annotations

import hashlib
import hmac
from collections import deque
from typing import Final

import msgspec

from bridge_core.errors import BridgeError, Reaction
from bridge_core.tls import Peer

CODE_S: Final = 60.0
CODES: Final = 64
IDLE_S: Final = 1800.0
LIFE_S: Final = 8 * 3600.0
EACH: Final = 4
MOST: Final = 64
GUESSES: Final = 30
GUESSES_S: Final = 60.0
_LONGEST: Final = 200  # of a code or a half that somebody sends
_ASK_ANEW: Final = "`bridgectl console` gives one"


class SignInRefused(BridgeError):
    """The code is wrong, used or old. `retry` where asking later may help."""


class Drawn(msgspec.Struct, frozen=True):
    """Random text for one code or one half of a session: what it is found by, and what is secret."""

    id: str
    secret: str

    def __str__(self) -> str:
        return f"{self.id}.{self.secret}"


class Session(msgspec.Struct, frozen=True):
    """Somebody who is signed in. Times are monotonic seconds."""

    peer: Peer
    began: float
    used: float
    ends: float  # whatever is done until then
    cookie_hash: bytes
    token_hash: bytes

    @property
    def until(self) -> float:
        """When it ends if nothing is done until then."""
        return min(self.used + IDLE_S, self.ends)


class _Code(msgspec.Struct, frozen=True):
    peer: Peer
    hash: bytes
    until: float
    certificate_ends: float


class Sessions:
    """See the module; its owner alone calls it."""

    def __init__(self) -> None:
        self._codes: dict[str, _Code] = {}
        self._sessions: dict[str, Session] = {}
        self._wrong: deque[float] = deque(maxlen=GUESSES)

    @property
    def many(self) -> int:
        """How many sessions there are, those included whose end was not looked at yet."""
        return len(self._sessions)

    def invite(self, peer: Peer, drawn: Drawn, now: float, *, certificate_ends: float) -> str:
        """The code for an admin; `certificate_ends` as monotonic seconds.

        Raises:
            SignInRefused: too many codes are open.
        """
        kept = {id_: one for id_, one in self._codes.items() if one.until > now and one.peer != peer}
        if len(kept) >= CODES:
            raise SignInRefused(
                "too many codes are open", hint=f"wait {CODE_S:.0f} s", reaction=Reaction.RETRY
            )
        kept[drawn.id] = _Code(peer, _hash(drawn.secret), now + CODE_S, certificate_ends)
        self._codes = kept
        return str(drawn)

    def exchange(self, code: str, cookie: Drawn, token: str, now: float) -> Session:
        """The session that a code becomes, found by `cookie` and `token` from now on.

        Raises:
            SignInRefused: it becomes none.
        """
        id_, secret = _split(code)
        found = self._codes.pop(id_, None)
        right = hmac.compare_digest(_hash(secret), found.hash if found is not None else b"")
        if found is None or not right:
            if len(self._wrong) == GUESSES and now - self._wrong[0] < GUESSES_S:
                raise SignInRefused(
                    "too many wrong codes were tried",
                    hint=f"wait {GUESSES_S:.0f} s; {_ASK_ANEW}, which is taken at once",
                    reaction=Reaction.RETRY,
                )
            self._wrong.append(now)
            raise SignInRefused("this code was used already, or is none of this registry's", hint=_ASK_ANEW)
        if found.until <= now or found.certificate_ends <= now:
            raise SignInRefused(f"this code is older than {CODE_S:.0f} s", hint=_ASK_ANEW)
        self._make_room(found.peer, now)
        ends = min(now + LIFE_S, found.certificate_ends)
        session = Session(found.peer, now, now, ends, _hash(cookie.secret), _hash(token))
        self._sessions[cookie.id] = session
        return session

    def find(self, cookie: str, token: str, now: float) -> Session | None:
        """The session of both halves that has not ended; None: there is none."""
        id_, secret = _split(cookie)
        found = self._sessions.get(id_)
        if found is None:
            return None
        if found.until <= now:
            del self._sessions[id_]
            return None
        first = hmac.compare_digest(_hash(secret), found.cookie_hash)
        second = hmac.compare_digest(_hash(token[:_LONGEST]), found.token_hash)
        return found if first and second else None

    def acted(self, cookie: str, now: float) -> None:
        """Its time begins anew, within its life; to be called for a session that `find` gave."""
        id_, _ = _split(cookie)
        found = self._sessions.get(id_)
        if found is not None:
            self._sessions[id_] = msgspec.structs.replace(found, used=now)

    def end(self, cookie: str) -> None:
        """Ends a session; to be called for one that `find` gave."""
        self._sessions.pop(_split(cookie)[0], None)

    def _make_room(self, peer: Peer, now: float) -> None:
        kept = {id_: one for id_, one in self._sessions.items() if one.until > now}
        own = [id_ for id_, one in kept.items() if one.peer.identity == peer.identity]
        for id_ in own[: max(0, len(own) - EACH + 1)]:  # in the order in which they began
            del kept[id_]
        if len(kept) >= MOST:
            raise SignInRefused(
                f"{MOST} sessions are open, more are not", hint="sign out elsewhere", reaction=Reaction.RETRY
            )
        self._sessions = kept


def _split(text: str) -> tuple[str, str]:
    id_, _, secret = text[:_LONGEST].partition(".")
    return id_, secret


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
