"""Key sets of issuers of tokens (RFC 7517), read strictly: they hold what signatures are checked with.

Rules:
1. A set with a private or symmetric key in it is refused whole, and the key named: its owner has told
   the world what must stay secret, and whoever reads the set could make tokens.
2. Keys for encryption, of kinds or curves that no signature here is made with, and RSA keys too small to
   count or so large that a check would cost, are passed over, as RFC 7517 asks; a set must have one left.
3. No two keys that are left have the same id: a token names one.
4. Only what a check needs is kept (no certificates, no fields that nobody reads).
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from bridge_core.bounds import Name, Word
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.errors import BridgeError

if TYPE_CHECKING:  # joserfc takes its time to load, and most programs never read a key set
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    ImportedKey: TypeAlias = RSAKey | ECKey | OKPKey

MAX_BYTES: Final = 262_144
MAX_KEYS: Final = 64
MIN_RSA_BITS, MAX_RSA_BITS = 2048, 8192
_MAX_EXPONENT: Final = 1 << 32
_SECRET: Final = ("d", "p", "q", "dp", "dq", "qi", "oth", "k")
_CURVES: Final = {"P-256": "EC", "P-384": "EC", "Ed25519": "OKP"}
_FITTING: Final = {"ES256": "P-256", "ES384": "P-384", "EdDSA": "Ed25519"}


class BadKeySet(BridgeError):
    """A key set that cannot be used; the message says which key and why, never what is in it."""


class PublicKey(msgspec.Struct, frozen=True, omit_defaults=True):
    """One key that signatures are checked with.

    Attributes:
        kty: RSA, EC or OKP.
        kid: By which a token names it; may be empty.
        alg: The one algorithm that it is for; empty: any that fits it.
        crv: Its curve; empty for RSA.
        n: RSA's modulus, base64url, and so on as RFC 7518 names them.
    """

    kty: Literal["RSA", "EC", "OKP"]
    kid: Name = ""
    alg: Word = ""
    crv: Word = ""
    n: str = ""
    e: str = ""
    x: str = ""
    y: str = ""

    def fits(self, algorithm: str) -> bool:
        """Whether signatures of this algorithm may be checked with it: no key is used for another's."""
        if self.alg and self.alg != algorithm and not (self.alg == "Ed25519" and algorithm == "EdDSA"):
            return False
        if algorithm.startswith(("RS", "PS")):
            return self.kty == "RSA"
        return bool(self.crv) and _FITTING.get(algorithm) == self.crv


class _Set(msgspec.Struct, frozen=True):
    keys: list[dict[str, Any]]


def read_key_set(text: str) -> tuple[PublicKey, ...]:
    """The keys of a set that signatures can be checked with, in their order.

    Raises:
        BadKeySet: it is none, breaks a rule of this module, or has no such key.
    """
    try:
        given = decode_json(text.encode(), _Set, most=MAX_BYTES).keys
    except (Undecodable, UnicodeEncodeError) as fault:
        raise BadKeySet(f"this is no key set (RFC 7517): {fault}") from fault
    if len(given) > MAX_KEYS:
        raise BadKeySet(f"it has {len(given)} keys, {MAX_KEYS} at most are taken")
    for at, one in enumerate(given):
        if secret := [name for name in _SECRET if name in one] or one.get("kty") == "oct":
            what = "a symmetric key" if secret is True or secret == ["k"] else "a private key"
            raise BadKeySet(f"{_named(at, one)} is {what}: a key set is public, take it out and replace it")
    keys, passed_over = list[PublicKey](), ""
    for at, one in enumerate(given):
        reason = _unfit(one)
        if reason:
            passed_over = passed_over or f"; {_named(at, one)} {reason}"
            continue
        key = _kept(at, one)
        if key.kid in [other.kid for other in keys]:
            raise BadKeySet(f"two of its keys have the id {key.kid[:80]!r}")
        keys.append(key)
    if not keys:
        raise BadKeySet(f"it has no key that signatures can be checked with{passed_over}")
    return tuple(keys)


def write_key_set(keys: tuple[PublicKey, ...]) -> str:
    """The set as JSON, with nothing in it that no check needs."""
    return msgspec.json.encode({"keys": keys}).decode()


def imported(key: PublicKey) -> ImportedKey:
    """The key as the library takes it.

    Raises:
        BadKeySet: its numbers are no key (a point that is not on its curve).
    """
    from joserfc.errors import JoseError
    from joserfc.jwk import ECKey, OKPKey, RSAKey

    kinds: dict[str, type[RSAKey | ECKey | OKPKey]] = {"RSA": RSAKey, "EC": ECKey, "OKP": OKPKey}
    fields = {name: value for name in ("crv", "n", "e", "x", "y") if (value := getattr(key, name))}
    try:
        made = kinds[key.kty].import_key({"kty": key.kty, **fields})
        made.get_op_key("verify")  # which makes it: a point off the curve fails here, not at a request
    except (JoseError, ValueError, KeyError, TypeError, OverflowError) as fault:
        raise BadKeySet(f"the key {key.kid[:80]!r} is none: {fault or type(fault).__name__}") from fault
    return made


def _unfit(one: dict[str, Any]) -> str:
    """Why a key is passed over; empty: it is not."""
    kty, crv = one.get("kty"), one.get("crv")
    if one.get("use", "sig") != "sig":
        return "is not for signatures"
    operations = one.get("key_ops", ["verify"])
    if not isinstance(operations, list) or "verify" not in operations:
        return "is not for checking signatures"
    if kty == "RSA":
        modulus, exponent = _number(one.get("n")), _number(one.get("e"))
        if not MIN_RSA_BITS <= modulus.bit_length() <= MAX_RSA_BITS:
            return f"has {modulus.bit_length()} bits, {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken"
        return "" if 3 <= exponent < _MAX_EXPONENT and exponent % 2 else "has no sane exponent"
    if isinstance(crv, str) and crv in _CURVES and _CURVES[crv] == kty:
        return ""
    return f"is of a kind that is not used here ({str(kty)[:20]} {str(crv or '')[:20]})".rstrip()


def _kept(at: int, one: dict[str, Any]) -> PublicKey:
    fields = {"kty", "kid", "alg", *(("n", "e") if one["kty"] == "RSA" else ("crv", "x", "y"))}
    if one["kty"] == "OKP":
        fields.discard("y")
    try:
        key = msgspec.convert({name: one[name] for name in fields & one.keys()}, PublicKey)
    except msgspec.ValidationError as fault:
        raise BadKeySet(f"{_named(at, one)} does not read: {fault}") from fault
    imported(key)
    return key


def _number(value: Any) -> int:
    """What base64url says; 0 for what it cannot."""
    if not isinstance(value, str) or len(value) > MAX_RSA_BITS // 4 or not value.isascii():
        return 0
    try:
        return int.from_bytes(base64.urlsafe_b64decode(value + "=" * (-len(value) % 4)), "big")
    except binascii.Error:
        return 0


def _named(at: int, one: dict[str, Any]) -> str:
    kid = one.get("kid")
    return f"the key {kid[:80]!r}" if isinstance(kid, str) and kid else f"key {at + 1}"
