"""SPIFFE ids of the mesh and the names that go into them."""

from __future__ import annotations

import re
from typing import Final

import msgspec

from bridge_core.errors import BridgeError

KINDS: Final = ("node", "admin", "client", "registry", "guard", "etcd")

# A name that the CA puts into registries' certificates and into no others: callers check it in place
# of the address they dialled, since registries move.
REGISTRY_SERVER_NAME: Final = "registry.bridge.internal"
# The same for the store guards, which agents reach in etcd's place.
GUARD_SERVER_NAME: Final = "guard.bridge.internal"
# In the certificate of an etcd of ours, from etcd's own CA: who may be its peer.
ETCD_SERVER_NAME: Final = "etcd.bridge.internal"

# "node/" and the name are together a certificate's common name, which X.509 caps at 64 characters.
MAX_NAME: Final = 57
_NAME: Final = re.compile(r"[a-z0-9](?:[a-z0-9.-]*[a-z0-9])?")
_DOMAIN: Final = re.compile(r"[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?")


class IdentityFault(BridgeError):
    """A name, id, key, request or certificate that is not acceptable."""


class SpiffeId(msgspec.Struct, frozen=True, order=True):
    """`spiffe://<trust_domain>/<kind>/<name>`; `str()` gives that form back."""

    trust_domain: str
    kind: str
    name: str

    def __str__(self) -> str:
        return f"spiffe://{self.trust_domain}/{self.kind}/{self.name}"

    @property
    def common_name(self) -> str:
        """`<kind>/<name>`: the subject of its certificate, and its user name in etcd."""
        return f"{self.kind}/{self.name}"

    @classmethod
    def make(cls, trust_domain: str, kind: str, name: str) -> SpiffeId:
        """The id of these parts.

        Raises:
            IdentityFault: one of them is not allowed.
        """
        if kind not in KINDS:
            raise IdentityFault(f"{kind!r} is not a kind of identity", hint=f"one of {', '.join(KINDS)}")
        return cls(check_trust_domain(trust_domain), kind, _check_name(kind, name))

    @classmethod
    def parse(cls, uri: str) -> SpiffeId:
        """The id that `uri` spells.

        Raises:
            IdentityFault: it is not an id of this form.
        """
        scheme, _, rest = uri.partition("://")
        parts = rest.split("/")
        if scheme != "spiffe" or len(parts) != 3:
            raise IdentityFault(f"{uri!r} is not an identity", hint="spiffe://<mesh>/<kind>/<name>")
        return cls.make(*parts)


def check_node_name(name: str) -> str:
    """`name`, when a node may have it: lower-case letters, digits, dots and dashes, at most 57.

    Raises:
        IdentityFault: it may not.
    """
    return _check_name("node", name)


def check_trust_domain(domain: str) -> str:
    """`domain`, when a mesh may have it.

    Raises:
        IdentityFault: it may not.
    """
    if len(domain) > 255 or not _DOMAIN.fullmatch(domain):
        raise IdentityFault(
            f"{domain!r} cannot be a trust domain",
            hint="lower-case letters, digits, dots, dashes and underscores, at most 255",
        )
    return domain


def _check_name(kind: str, name: str) -> str:
    if len(name) > MAX_NAME or not _NAME.fullmatch(name) or ".." in name:
        raise IdentityFault(
            f"{name!r} cannot be the name of a {kind}",
            hint=f"lower-case letters, digits, dots and dashes, at most {MAX_NAME}, e.g. gpu-01",
        )
    return name
