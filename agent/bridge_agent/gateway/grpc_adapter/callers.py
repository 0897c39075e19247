"""Who calls, as a gRPC call's connection and metadata show it; kept for the calls that show the same."""

from __future__ import annotations

import ssl
from functools import lru_cache
from typing import Any, Final

from bridge_agent.authentication.credentials import FIELDS
from bridge_agent.gateway.config import LONGEST_S
from bridge_agent.gateway.grpc_adapter.translate import PLAIN, Call
from bridge_agent.tracing.context_rules import FIELDS as TRACE_FIELDS
from bridge_core.http1 import Headers, Pair, Request
from bridge_core.identity import IdentityFault
from bridge_core.identity.certificate_info import CertifiedName
from bridge_core.identity.certificates import describe

LISTENER: Final = "grpc"
TIMEOUT: Final = b"x-bridge-timeout"
_TLS_1_3: Final = 0x0304
_MOST: Final = 1024  # that are remembered
_LONGEST: Final = 4096  # bytes of credentials of one of them


class GrpcCaller:
    """Who calls.

    Attributes:
        identity: The SPIFFE id of the connection's certificate; None without one.
        serial: Of that certificate; empty without one.
        remote: The address at the other end.
        carried: Keys, tokens and the trace among the call's metadata, as header fields.
        head: What the pipeline is shown of who calls, before anything of what for: without the trace.
        key: What it is to be remembered by, until it is; None: not at all.
        lasting: Who calls, where this is that caller in one trace; None: it is itself.
    """

    __slots__ = ("_heads", "carried", "head", "identity", "key", "lasting", "remote", "serial")

    def __init__(
        self,
        identity: str | None,
        serial: str,
        remote: tuple[str, int] | None,
        carried: tuple[Pair, ...],
        lasting: GrpcCaller | None = None,
    ) -> None:
        self.identity = identity
        self.serial = serial
        self.remote = remote
        self.carried = carried
        self.key: Any = None
        self.lasting = lasting
        self.head: Request = self._made(b"", Headers(list(carried)), {}) if lasting is None else lasting.head
        self._heads: dict[bytes, Request] = {}

    def in_trace(self, trace: tuple[Pair, ...]) -> GrpcCaller:
        """This caller for one call: what was found out about who calls holds for it too."""
        return GrpcCaller(self.identity, self.serial, self.remote, (*self.carried, *trace), self)

    def request(self, call: Call, timeout_s: float | None) -> Request:
        """The engine request that this caller's call is.

        Calls that ask for nothing particular share what was found out about their head (`Request.memo`), as
        requests of a connection do that repeat theirs. A trace is of one call.
        """
        if timeout_s is None and call.headers is PLAIN and self.lasting is None:
            like = self._heads.get(call.target)
            if like is None:
                headers = Headers([*PLAIN, *self.carried])
                like = self._heads[call.target] = self._made(call.target, headers, dict(self.head.memo))
            return like.again(like.headers, call.body)
        fields = [*call.headers, *self.carried]
        if timeout_s is not None:
            fields.append((TIMEOUT, b"%.3f" % min(max(timeout_s, 0.001), LONGEST_S)))
        made = self._made(call.target, Headers(fields), dict(self.head.memo))
        made.body = call.body
        return made

    def _made(self, target: bytes, headers: Headers, memo: dict[Any, Any]) -> Request:
        """A request of its own `memo`: what is known of who calls counts, whatever the call is for."""
        request = Request("POST", target, headers, memo)
        request.identity, request.remote, request.listener = self.identity, self.remote, LISTENER
        return request


class Callers:
    """Those who call, by what they show; kept are only some of those who may."""

    def __init__(self) -> None:
        self._known: dict[Any, GrpcCaller] = {}

    def of(self, scope: dict[str, Any]) -> GrpcCaller:
        """Who makes the call of this ASGI scope."""
        extensions: dict[str, Any] = scope.get("extensions", {})
        tls: dict[str, Any] | None = extensions.get("tls")
        client: Any = scope.get("client")
        remote: tuple[str, int] | None = None if client is None else (client[0], client[1])
        if not tls or (tls["tls_version"] or 0) < _TLS_1_3:
            return GrpcCaller(None, "", remote, ())  # what it shows was shown to everybody
        chain: Any = tls["client_cert_chain"]
        pem: str = chain[0] if chain else ""
        carried: list[Pair] = []
        trace: list[Pair] = []
        size = 0
        for name, value in scope["headers"]:
            if name in FIELDS:
                carried.append((name, value))
                size += len(value)
            elif name in TRACE_FIELDS and _is_plain(value):
                trace.append((name, value))
        key = (remote, pem, tuple(carried))
        known = self._known.get(key)
        if known is None:
            identity, serial = _named(pem) if pem else (None, "")
            known = GrpcCaller(identity, serial, remote, key[2])
            if size <= _LONGEST:
                known.key = key
        return known.in_trace(tuple(trace)) if trace else known

    def admitted(self, caller: GrpcCaller) -> None:
        """One may call: calls that show the same are known to be its."""
        lasting = caller if caller.lasting is None else caller.lasting
        key, lasting.key = lasting.key, None
        if key is not None:
            if len(self._known) >= _MOST:
                self._known.clear()
            self._known[key] = lasting


def _is_plain(value: bytes) -> bool:
    """Whether it can be passed on in a head of HTTP/1.1."""
    return value.isascii() and value.decode().isprintable()


@lru_cache(maxsize=1024)
def _named(pem: str) -> tuple[str | None, str]:
    """Identity and serial of a verified certificate; a connection shows the same one with every call."""
    try:
        info = describe(pem.encode())
    except IdentityFault:
        return None, ""
    if info.identity is None:
        return None, info.serial
    return CertifiedName(str(info.identity), ssl.PEM_cert_to_DER_cert(pem)), info.serial
