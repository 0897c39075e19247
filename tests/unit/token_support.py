"""Issuers with real keys, and tokens of theirs: good ones, and ones that are wrong in a single way."""

from __future__ import annotations

import base64
import functools
import json
from typing import Any

from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey
from joserfc.jws import JWSRegistry

from bridge_core.providers import IdentityProvider

NOW = 1_800_000_000.0
ISSUER = "https://login.example.com"
KUBERNETES = "https://kubernetes.default.svc.cluster.local"


@functools.cache
def rsa(name: str = "r1") -> RSAKey:
    return RSAKey.generate_key(2048, {"kid": name, "use": "sig"})


@functools.cache
def ec(name: str = "e1", curve: str = "P-256") -> ECKey:
    return ECKey.generate_key(curve, {"kid": name})


@functools.cache
def ed(name: str = "d1") -> OKPKey:
    return OKPKey.generate_key("Ed25519", {"kid": name})


def key_set(*keys: Any) -> str:
    return json.dumps({"keys": [one.as_dict(private=False) for one in keys]})


def provider(**changes: Any) -> IdentityProvider:
    given: dict[str, Any] = {
        "name": "corp",
        "issuer": ISSUER,
        "audiences": ("bridge",),
        "algorithms": ("RS256", "PS256", "ES256", "ES384", "EdDSA"),
        "keys": key_set(rsa(), ec(), ec("e2", "P-384"), ed()),
        "groups": "groups",
        "attributes": {"department": "dept"},
    }
    return IdentityProvider(**(given | changes))


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims; a change of `...` takes one out."""
    good = {
        "iss": ISSUER,
        "sub": "ann",
        "aud": "bridge",
        "exp": int(NOW) + 600,
        "iat": int(NOW) - 10,
        "groups": ["finance-analysts"],
        "dept": "finance",
    }
    return {name: value for name, value in (good | changes).items() if value is not ...}


def part(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")


def token(
    given: dict[str, Any] | bytes | None = None,
    key: Any = None,
    header: dict[str, Any] | bytes | None = None,
    algorithm: str = "",
) -> bytes:
    """A token; `header` changes what its header says, not what it is signed with (`algorithm`)."""
    key = rsa() if key is None else key
    own = {RSAKey: "RS256", ECKey: "ES256", OKPKey: "Ed25519", OctKey: "HS256"}[type(key)]
    algorithm = algorithm or own
    if not isinstance(header, bytes):
        said = {"alg": "EdDSA" if algorithm == "Ed25519" else algorithm, "typ": "JWT", "kid": key.kid}
        said = {name: value for name, value in (said | (header or {})).items() if value is not ...}
        header = json.dumps(said).encode()
    payload = given if isinstance(given, bytes) else json.dumps(claims() if given is None else given).encode()
    signed = part(header) + b"." + part(payload)
    return signed + b"." + part(JWSRegistry.algorithms[algorithm].sign(signed, key))


def pod_claims(**changes: Any) -> dict[str, Any]:
    """As the API server of Kubernetes 1.30 puts them into a token that it projects into a pod."""
    return claims(
        iss=KUBERNETES,
        sub="system:serviceaccount:shop:checkout",
        aud=["bridge"],
        jti="0a7c8d0e-5a8c-4b1e-9d9a-000000000000",
        nbf=int(NOW) - 10,
        groups=...,
        dept=...,
        **{
            "kubernetes.io": {
                "namespace": "shop",
                "node": {"name": "n1", "uid": "5c6d"},
                "pod": {"name": "checkout-7d9f", "uid": "1a2b"},
                "serviceaccount": {"name": "checkout", "uid": "3c4d"},
                "warnafter": int(NOW) + 300,
            }
        }
        | changes,
    )
