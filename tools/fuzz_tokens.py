"""What `fuzz.py` feeds to whoever reads tokens of issuers (JWTs) and their key sets."""

from __future__ import annotations

import base64
import json

from joserfc.jwk import OKPKey
from joserfc.jws import JWSRegistry

from bridge_agent.authentication.tokens import Issuer, issuers_of, verify
from bridge_core.identity.key_sets import read_key_set, write_key_set
from bridge_core.providers import IdentityProvider

_NOW = 1_800_000_000.0
_KEY = OKPKey.generate_key("Ed25519", {"kid": "k"})
_KEYS = json.dumps({"keys": [_KEY.as_dict(private=False)]})
_HEADER = b'{"alg":"EdDSA","typ":"JWT","kid":"k"}'
_USER = (
    b'{"iss":"https://a","sub":"ann","aud":["bridge"],"exp":1800000600,"nbf":1799999990,"iat":1799999990,'
    b'"groups":["g"],"realm":{"roles":["r"]},"dept":"d"}'
)
_POD = (
    b'{"iss":"https://k","sub":"system:serviceaccount:s:c","aud":"bridge","exp":1800000600,'
    b'"kubernetes.io":{"namespace":"s","serviceaccount":{"name":"c"},"pod":{"name":"p"}}}'
)
_ISSUERS: dict[str, Issuer] = issuers_of(
    [
        IdentityProvider(
            "a",
            "https://a",
            ("bridge",),
            ("EdDSA",),
            _KEYS,
            groups="groups",
            attributes={"d": "dept", "r": "realm.roles"},
        ),
        IdentityProvider("k", "https://k", ("bridge",), ("EdDSA",), _KEYS, kubernetes=True),
    ]
)


def _part(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _signed(header: bytes, claims: bytes) -> bytes:
    text = _part(header) + b"." + _part(claims)
    return text + b"." + _part(JWSRegistry.algorithms["Ed25519"].sign(text, _KEY))


def token(data: bytes) -> None:
    """A token as it comes."""
    verify(data, _ISSUERS, _NOW)


def claims(data: bytes) -> None:
    """A header and claims that their issuer has signed: what is behind the signature."""
    header, _, said = data.partition(b"\n")
    verify(_signed(header, said), _ISSUERS, _NOW)


def key_set(data: bytes) -> None:
    """What an issuer's address answers."""
    read_key_set(write_key_set(read_key_set(data.decode("utf-8", "replace"))))


TOKENS = (_signed(_HEADER, _USER), _signed(_HEADER, _POD))
CLAIMS = (_HEADER + b"\n" + _USER, _HEADER + b"\n" + _POD)
KEY_SETS = (
    _KEYS.encode(),
    (
        b'{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",'
        b'"y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0","kid":"1","use":"sig","key_ops":["verify"]}]}'
    ),
)
