"""JSON Web Tokens of the issuers that the mesh believes, checked without a network: pure.

Rules:
1. A token is read once and strictly: three parts of base64url, 8 KiB at most; header and claims are JSON
   objects in which no name comes twice, of few members and little depth.
2. The issuer finds the provider; the provider says which algorithms count (none that is symmetric, and
   never `none`); the key is one of the provider's own, by its id, and must be for that algorithm. Keys and
   addresses of keys that a token brings with itself (`jwk`, `jku`, `x5u`, `x5c`) are never looked at.
3. A header with `crit` asks for what is not understood here, and one whose `typ` is another thing's is no
   token for access: both are refused.
4. `exp` is needed; `exp`, `nbf` and `iat` are held against the clock with 20 s of skew. One of the
   provider's audiences must be in `aud`.
5. Nothing in a refusal repeats what a token says: it was not believed.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import msgspec

from bridge_agent.authentication.claims import BadClaims, principal_from
from bridge_core.errors import BridgeError
from bridge_core.identity.key_sets import BadKeySet, PublicKey, imported, read_key_set
from bridge_core.identity.principal import Principal
from bridge_core.providers import IdentityProvider

if TYPE_CHECKING:
    from bridge_core.identity.key_sets import ImportedKey

MAX_BYTES: Final = 8192
SKEW_S: Final = 20.0
_DEEPEST: Final = 8
_MOST_MEMBERS: Final = 128
_MOST_AUDIENCES: Final = 64
_LATEST: Final = 1e11  # Unix seconds: some thousand years, and no number that overflows
_FORM: Final = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)")
_TYPES: Final = frozenset({"jwt", "at+jwt", "application/jwt", "application/at+jwt"})
# By its fully specified name (RFC 9864), which is what the keys here are for.
_SAME: Final = {"EdDSA": "Ed25519"}


class TokenRejected(BridgeError):
    """A token that names nobody here.

    Attributes:
        reason: One word, for counts; `malformed` and `issuer`: it is none of those that the mesh believes.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Verified(msgspec.Struct, frozen=True):
    """Whom a token names, and until when (Unix seconds)."""

    principal: Principal
    expires: float


class Issuer(msgspec.Struct, frozen=True):
    """A provider with its keys read.

    Attributes:
        provider: Its entry of the snapshot.
        keys: That signatures are checked with.
        fault: Why there are none; empty: there are.
    """

    provider: IdentityProvider
    keys: tuple[tuple[PublicKey, ImportedKey], ...] = ()
    fault: str = ""


def issuers_of(providers: Iterable[IdentityProvider]) -> dict[str, Issuer]:
    """Providers by the issuer that they believe, their keys ready for use."""
    return {provider.issuer: _read(provider) for provider in providers}


def _read(provider: IdentityProvider) -> Issuer:
    if not provider.keys:
        return Issuer(provider, fault="its key set was not fetched yet")
    try:
        return Issuer(provider, tuple((key, imported(key)) for key in read_key_set(provider.keys)))
    except BadKeySet as fault:
        return Issuer(provider, fault=fault.message)


def verify(token: bytes, issuers: Mapping[str, Issuer], now: float, grace_s: float = 0.0) -> Verified:
    """Whom a token names at this moment.

    Args:
        token: As it was sent, without the scheme before it.
        issuers: Of `issuers_of`.
        now: Unix seconds.
        grace_s: For so long after its end it still counts.

    Raises:
        TokenRejected: nobody.
    """
    if len(token) > MAX_BYTES:
        raise TokenRejected("malformed", f"a token has {MAX_BYTES} bytes at most")
    parts = _FORM.fullmatch(token)
    if parts is None:
        raise TokenRejected("malformed", "this is no JSON Web Token")
    header, claims, signature = _object(parts[1]), _object(parts[2]), _bytes(parts[3])
    found = claims.get("iss")
    issuer = issuers.get(found) if isinstance(found, str) else None
    if issuer is None:
        raise TokenRejected("issuer", "the token's issuer is none that this mesh believes")
    algorithm = _algorithm(header, issuer.provider)
    key = _key(header, algorithm, issuer)
    if not _fits(algorithm, token[: parts.end(2)], signature, key):
        raise TokenRejected("signature", "the token's signature does not fit its issuer's key")
    expires = _in_time(claims, now, grace_s)
    _for_us(claims, issuer.provider)
    try:
        return Verified(principal_from(claims, issuer.provider), expires)
    except BadClaims as fault:
        raise TokenRejected("claims", f"the token names nobody: {fault.message}") from fault


def check_time(verified: Verified, now: float, grace_s: float = 0.0) -> None:
    """Returns while a token that was verified earlier still counts.

    Raises:
        TokenRejected: it has expired.
    """
    if now > verified.expires + SKEW_S + grace_s:
        raise TokenRejected("expired", "the token has expired: get a new one")


def _object(part: bytes) -> dict[str, Any]:
    try:
        value = json.loads(_bytes(part).decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except RecursionError as fault:
        raise TokenRejected("malformed", "the token is nested too deeply") from fault
    except ValueError as fault:  # no JSON, no UTF-8, a number of thousands of digits, or a rule of ours
        raise TokenRejected("malformed", "the token's header and claims are no JSON objects") from fault
    if not isinstance(value, dict):
        raise TokenRejected("malformed", "the token's header and claims are no JSON objects")
    if _too_deep(value, _DEEPEST):
        raise TokenRejected("malformed", "the token is nested too deeply")
    return value


def _bytes(part: bytes) -> bytes:
    try:
        return base64.urlsafe_b64decode(part + b"=" * (-len(part) % 4))
    except binascii.Error as fault:
        raise TokenRejected("malformed", "the token's parts are no base64url") from fault


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs) or len(pairs) > _MOST_MEMBERS:
        raise ValueError("a name comes twice, or there are too many")
    return members


def _no_number(_text: str) -> NoReturn:
    raise ValueError("no JSON")


def _too_deep(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    parts = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_too_deep(one, levels - 1) for one in parts)


def _algorithm(header: Mapping[str, Any], provider: IdentityProvider) -> str:
    if "crit" in header or "b64" in header:
        raise TokenRejected("header", "the token's header asks for what is not understood (crit)")
    kind = header.get("typ", "JWT")
    if not isinstance(kind, str) or kind.lower() not in _TYPES:
        raise TokenRejected("header", "the token's typ is not that of a token for access")
    algorithm = header.get("alg")
    for allowed in provider.algorithms:
        if algorithm in (allowed, _SAME.get(allowed, allowed)):
            return allowed
    raise TokenRejected("algorithm", "the token's algorithm is none that is allowed for its issuer")


def _key(header: Mapping[str, Any], algorithm: str, issuer: Issuer) -> ImportedKey:
    kid = header.get("kid", "")
    if not isinstance(kid, str):
        raise TokenRejected("header", "the token's kid is no text")
    if issuer.fault:
        raise TokenRejected("keys", "the keys of the token's issuer are not known here yet")
    fitting = [key for public, key in issuer.keys if kid in ("", public.kid) and public.fits(algorithm)]
    if len(fitting) != 1:
        many = "names none of the keys that its issuer has for it" if kid or not fitting else "names no key"
        raise TokenRejected("key", f"the token {many}")
    return fitting[0]


def _fits(algorithm: str, signed: bytes, signature: bytes, key: ImportedKey) -> bool:
    # With `cryptography` behind it: an agent of a mesh that believes no issuer never loads it.
    from joserfc.errors import JoseError
    from joserfc.jws import JWSRegistry

    model = JWSRegistry.algorithms[_SAME.get(algorithm, algorithm)]
    try:
        model.check_key(key)
        return model.verify(signed, signature, key)
    except (JoseError, ValueError):
        return False


def _in_time(claims: Mapping[str, Any], now: float, grace_s: float) -> float:
    """When it expires."""
    expires = _moment(claims, "exp")
    if expires is None:
        raise TokenRejected("claims", "the token never expires (exp): one that does is needed")
    if now > expires + SKEW_S + grace_s:
        raise TokenRejected("expired", "the token has expired: get a new one")
    for name in ("nbf", "iat"):
        begins = _moment(claims, name)
        if begins is not None and now < begins - SKEW_S:
            raise TokenRejected("early", f"the token is not valid yet ({name}): is a clock wrong?")
    return expires


def _moment(claims: Mapping[str, Any], name: str) -> float | None:
    found = claims.get(name)
    if found is None and name not in claims:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= _LATEST:
        raise TokenRejected("claims", f"the token's {name} is no moment in time")
    return float(found)


def _for_us(claims: Mapping[str, Any], provider: IdentityProvider) -> None:
    found = claims.get("aud")
    audiences = found if isinstance(found, list) else [found]
    if len(audiences) > _MOST_AUDIENCES or not all(isinstance(one, str) for one in audiences):
        raise TokenRejected("audience", "the token's aud is neither a text nor a list of texts")
    if not set(provider.audiences).intersection(audiences):
        raise TokenRejected("audience", "the token is for another audience (aud)")
