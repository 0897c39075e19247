"""What the claims of a believed token say of who asks: pure.

Rules:
1. A claim is found by its whole name, else as a path with dots (`realm_access.roles`).
2. Groups are a list of texts, or one text. An attribute is a text, a whole number or a truth value. A
   claim of another shape, and more than any issuer has, refuse the token: who is left without an
   attribute could pass a condition that was written against it.
3. An e-mail address that the issuer itself has not verified names nobody: anybody can claim one.
4. A token of Kubernetes speaks for a service account; what it says of it in `kubernetes.io` must be what
   its subject says. Its groups are those that Kubernetes itself gives it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from bridge_core.errors import BridgeError
from bridge_core.identity.principal import Principal, user_text
from bridge_core.providers import IdentityProvider

MAX_GROUPS: Final = 512
MAX_TEXT: Final = 256
_ACCOUNT: Final = "system:serviceaccount:"
_ACCOUNTS: Final = "system:serviceaccounts"


class BadClaims(BridgeError):
    """Claims that name nobody; the message says which of them, never what is in them."""


def principal_from(claims: Mapping[str, Any], provider: IdentityProvider) -> Principal:
    """Who a token with these claims is.

    Raises:
        BadClaims: nobody.
    """
    subject = _subject(claims, provider.subject)
    groups = _groups(claims, provider.groups)
    attributes = {
        name: value
        for name, claim in provider.attributes.items()
        if (value := _attribute(claims, claim)) is not None
    }
    if provider.kubernetes:
        workload = _workload(claims)
        namespace = workload["namespace"]
        if _claim(claims, "sub") != f"{_ACCOUNT}{namespace}:{workload['serviceaccount']}":
            raise BadClaims("its subject is not the service account that kubernetes.io names")
        groups = tuple(dict.fromkeys((*groups, _ACCOUNTS, f"{_ACCOUNTS}:{namespace}")))
        attributes |= workload
    text = user_text(provider.name, subject)
    return Principal("user", subject, text, groups, attributes, provider.kubernetes)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """What a claim says; None where it is not there."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _subject(claims: Mapping[str, Any], name: str) -> str:
    subject = _claim(claims, name)
    if not _is_text(subject) or subject != subject.strip():
        raise BadClaims(f"its claim {name} is no text of 1 to {MAX_TEXT} characters that can be shown")
    if name == "email" and claims.get("email_verified") is not True:
        raise BadClaims("its issuer has not verified the e-mail address (email_verified)")
    return str(subject)


def _groups(claims: Mapping[str, Any], name: str) -> tuple[str, ...]:
    found = _claim(claims, name) if name else None
    if found is None:
        return ()
    groups = found if isinstance(found, list) else [found]
    if len(groups) > MAX_GROUPS or not all(_is_text(one) for one in groups):
        raise BadClaims(f"its claim {name} is no list of up to {MAX_GROUPS} names of groups")
    return tuple(groups)


def _attribute(claims: Mapping[str, Any], name: str) -> str | None:
    found = _claim(claims, name)
    if found is None:
        return None
    if isinstance(found, bool):
        return "true" if found else "false"
    if isinstance(found, int) and abs(found) <= 1 << 53:
        return str(found)
    if not _is_text(found):
        raise BadClaims(f"its claim {name} is neither a text, nor a whole number, nor true or false")
    return str(found)


def _workload(claims: Mapping[str, Any]) -> dict[str, str]:
    """Namespace, service account, and the pod where the token is bound to one."""
    given = claims.get("kubernetes.io")
    if not isinstance(given, Mapping):
        raise BadClaims("it has no claim kubernetes.io: no token that Kubernetes projects")
    found = {"namespace": given.get("namespace"), "serviceaccount": _name_in(given, "serviceaccount")}
    if "pod" in given:
        found["pod"] = _name_in(given, "pod")
    if not all(_is_text(value) for value in found.values()):
        raise BadClaims("its claim kubernetes.io names no namespace, service account or pod")
    return {name: str(value) for name, value in found.items()}


def _name_in(given: Mapping[str, Any], what: str) -> Any:
    part = given.get(what)
    return part.get("name") if isinstance(part, Mapping) else None


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= MAX_TEXT and value.isprintable()
