"""Signing in to the console, and what a page that is signed in does: the edge of `session_rules`.

An admin asks for a code with its certificate (`bridgectl console`), the page exchanges it for a session, and
each of its acts is a call of a service as that admin: the gate asks the role on record, the audit
writes it down under the admin's name. Sessions are of one registry's life and are kept nowhere else.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from collections.abc import Callable, Mapping
from typing import Any, Final

import grpc
import structlog

from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import Reaction
from bridge_core.http1 import App, Exchange, coroutine_app
from bridge_core.tls import Peer
from bridge_registry.console.act_rules import MOST_BYTES, TOKEN, Asked, act_of, call_of, outcome, unwanted
from bridge_registry.console.pages import ROOT, answer_json, refuse
from bridge_registry.console.session_rules import LIFE_S, Drawn, Session, Sessions, SignInRefused
from bridge_registry.rpc.gate import Context, Gate
from bridge_registry.rpc.inner_calls import Behaviour, CallRefused, InnerCalls
from bridge_registry.rpc.tls_front import RpcCaller
from bridge_wire.v1 import console_pb2 as pb

log = structlog.get_logger()

COOKIE_PATH: Final = f"{ROOT}/api/"
_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.FAILED_PRECONDITION: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}
_OVER: Final = "you are signed in no more: `bridgectl console` gives a new code"


class SignIn:
    """See the module. One task at a time changes sessions: none of it waits in between.

    Args:
        calls: Makes calls as somebody.
        gate: Says whether an admin is still one.
        recorded: Puts a method's calls on record, by its name.
        acts: Methods of services that acts call, by their names, recorded.
        registry: This one's name: of two consoles in one browser each has a cookie of its own.
        draw: Random text that fits into a URL and a cookie.
        clock: Monotonic seconds.
        wall: Unix seconds.
    """

    def __init__(
        self,
        calls: InnerCalls,
        gate: Gate,
        *,
        recorded: Callable[[Behaviour, str], Behaviour],
        acts: Mapping[str, Behaviour],
        registry: str,
        draw: Callable[[int], str] = secrets.token_urlsafe,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._calls = calls
        self._gate = gate
        self._acts = acts
        self._begin = recorded(self._admitted, "BeginConsoleSession")
        self._look = recorded(self._admitted, "LookAtConsoleSession")
        self._cookie = f"bridge_console_{hashlib.sha256(registry.encode()).hexdigest()[:8]}"
        self._draw = draw
        self._clock = clock
        self._wall = wall
        self._sessions = Sessions()

    def pages(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """What pages ask for, by path; what that waits for runs in `group`."""
        return {f"{COOKIE_PATH}session": coroutine_app(self._asked, group)}

    def posts(self, group: asyncio.TaskGroup) -> dict[str, App]:
        """What pages send, likewise."""
        return {
            f"{COOKIE_PATH}sign-in": coroutine_app(self._begun, group),
            f"{COOKIE_PATH}sign-out": coroutine_app(self._ended, group),
            f"{COOKIE_PATH}act": coroutine_app(self._acted, group),
        }

    def invite(self, peer: Peer) -> str:
        """A code for an admin that has shown its certificate.

        Raises:
            SignInRefused: too many codes are open.
        """
        now = self._clock()
        ends = now + (peer.ends - self._wall() if peer.ends else LIFE_S)
        return self._sessions.invite(peer, self._drawn(), now, certificate_ends=ends)

    async def _begun(self, exchange: Exchange) -> None:
        """POST api/sign-in: a code becomes a session."""
        request = exchange.request
        if reason := unwanted(request):
            return refuse(exchange, 403, reason)
        cookie, token = self._drawn(), self._draw(32)
        try:
            asked = decode_json(request.body, Asked, most=MOST_BYTES)
            session = self._sessions.exchange(asked.code, cookie, token, self._clock())
        except Undecodable as fault:
            return refuse(exchange, 400, f"the request does not decode: {fault.message}")
        except SignInRefused as fault:
            retry = fault.reaction is Reaction.RETRY
            if not retry:  # who guesses on and on writes no log
                log.warning("console_sign_in_refused", remote=_remote(exchange), reason=fault.message)
            status = 429 if retry else 401
            return refuse(exchange, status, str(fault))
        try:
            await self._calls.make(self._begin, pb.SignInRequest(), _caller(session, exchange))
        except CallRefused as refused:
            self._sessions.end(str(cookie))
            return refuse_call(exchange, refused)
        log.info("console_signed_in", admin=str(session.peer.identity), remote=_remote(exchange))
        secure = "; Secure" if (request.headers.get(b"origin") or b"").startswith(b"https:") else ""
        field = (
            f"{self._cookie}={cookie}; Path={COOKIE_PATH}; Max-Age={LIFE_S:.0f}; HttpOnly; SameSite=Strict"
        )
        said = {**self._words(session), "token": token}
        return answer_json(exchange, said, 200, (b"set-cookie", (field + secure).encode()))

    async def _asked(self, exchange: Exchange) -> None:
        """GET api/session: who is signed in, and for how long. Asking does not lengthen it."""
        session = await self._session(exchange)
        if session is not None:
            answer_json(exchange, self._words(session))

    async def _ended(self, exchange: Exchange) -> None:
        """POST api/sign-out."""
        if reason := unwanted(exchange.request):
            return refuse(exchange, 403, reason)
        session = await self._session(exchange)
        if session is None:
            return None
        self._sessions.end(self._shown(exchange)[0])
        log.info("console_signed_out", admin=str(session.peer.identity))
        field = f"{self._cookie}=; Path={COOKIE_PATH}; Max-Age=0; HttpOnly; SameSite=Strict"
        return answer_json(exchange, {}, 200, (b"set-cookie", field.encode()))

    async def _acted(self, exchange: Exchange) -> None:
        """POST api/act: does what the page asks for, as the admin who is signed in."""
        if reason := unwanted(exchange.request):
            return refuse(exchange, 403, reason)
        session = await self._session(exchange)
        if session is None:
            return None
        try:
            asked = act_of(exchange.request.body)
        except Undecodable as fault:
            return refuse(exchange, 400, f"the act does not decode: {fault.message}")
        self._sessions.acted(self._shown(exchange)[0], self._clock())
        method, request = call_of(asked)
        try:
            answer = await self._calls.make(self._acts[method], request, _caller(session, exchange))
        except CallRefused as refused:
            return refuse_call(exchange, refused)
        done, sentence = outcome(asked, answer)
        if not done:
            return refuse(exchange, 409, sentence)
        return answer_json(exchange, {"done": sentence, **self._words(session)})

    async def caller(self, exchange: Exchange) -> RpcCaller | None:
        """As whom a signed in page asks; None: nobody is signed in, and that has been answered."""
        session = await self._session(exchange)
        return None if session is None else _caller(session, exchange)

    async def _session(self, exchange: Exchange) -> Session | None:
        """Whose page asks; None: nobody's, and that has been answered."""
        cookie, token = self._shown(exchange)
        session = self._sessions.find(cookie, token, self._clock())
        if session is None:
            refuse(exchange, 401, _OVER)
            return None
        try:
            await self._calls.make(self._look, pb.SignInRequest(), _caller(session, exchange))
        except CallRefused as refused:
            self._sessions.end(cookie)
            refuse(exchange, 401, refused.details)
            return None
        return session

    async def _admitted(self, _request: Any, context: Context) -> None:
        # Of whom it is that asks, the gate knows whether it is an admin of this mesh at this moment.
        async with self._gate.admit(context, "admin", role="viewer"):
            return

    def _shown(self, exchange: Exchange) -> tuple[str, str]:
        """Both halves of a session, as the page shows them."""
        fields = exchange.request.headers
        cookies = (fields.get(b"cookie") or b"").decode("latin-1").split(";")
        found = dict(one.strip().partition("=")[::2] for one in cookies)
        return found.get(self._cookie, ""), (fields.get(TOKEN) or b"").decode("latin-1")

    def _words(self, session: Session) -> dict[str, Any]:
        name = session.peer.identity.name
        left = max(0.0, session.until - self._clock())
        return {"name": name, "role": self._gate.role_of(name) or "", "left_s": int(left)}

    def _drawn(self) -> Drawn:
        return Drawn(self._draw(9), self._draw(32))


def refuse_call(exchange: Exchange, refused: CallRefused) -> None:
    """Why a call was refused, by the status of HTTP that says what gRPC's says."""
    refuse(exchange, _STATUS.get(refused.code, 500), refused.details)


def _caller(session: Session, exchange: Exchange) -> RpcCaller:
    return RpcCaller(f"{_remote(exchange)} (console)", session.peer)


def _remote(exchange: Exchange) -> str:
    remote = exchange.request.remote
    return f"{remote[0]}:{remote[1]}" if remote is not None else "unknown"
