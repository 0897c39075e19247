"""IdentityProvider documents: what is refused, and at which line."""

from __future__ import annotations

import json
import re

import pytest

from bridge_core.config import identity_provider, load
from bridge_core.config.documents import IdentityProviderDocument
from tests.unit.test_mesh_config_documents import faults
from tests.unit.token_support import ec, key_set, rsa

URI = "jwksUri: https://login.example.com/keys"


def a_provider(spec: str = URI, name: str = "corp", issuer: str = "https://login.example.com") -> str:
    return (
        "apiVersion: security.deepseek.io/v1\n"  # line 1
        "kind: IdentityProvider\n"
        f"metadata: {{name: {name}}}\n"
        "spec:\n"
        f"  issuer: {issuer}\n"  # 5
        "  audiences: [bridge]\n"
        + "".join(f"  {line}\n" for line in spec.splitlines())  # its first line is 7
    )


def given(keys: str) -> str:
    return f"jwks: '{keys}'"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (a_provider(""), r"0.yaml:5: spec.issuer: either jwks .* or jwksUri"),
        (a_provider(f"{URI}\n{given(key_set(rsa()))}"), r"0.yaml:8: spec.jwks: either jwks .* or jwksUri"),
        (a_provider(name="Corp"), r"0.yaml:3: metadata.name: 'Corp' is no name of a provider"),
        (a_provider(name="'a#b'"), r"0.yaml:3: metadata.name: 'a#b' is no name of a provider"),
        (a_provider(name="local-"), r"0.yaml:3: metadata.name: .* is no name of a provider"),
        (a_provider("jwksUri: http://login.example.com"), r"0.yaml:7: spec.jwksUri: has to be an https"),
        (a_provider("jwksUri: https://"), r"0.yaml:7: spec.jwksUri: has to be an https"),
        (a_provider("jwksUri: https://[::1"), r"0.yaml:7: spec.jwksUri: .* is no address"),
        (a_provider("jwksUri: https://a:99999/"), r"0.yaml:7: spec.jwksUri: .* is no address"),
        (a_provider("jwksUri: 'https://a/ b'"), r"0.yaml:7: spec.jwksUri: has characters that no"),
        (a_provider("jwksUri: https://me:pw@login.example.com"), r"0.yaml:7: spec.jwksUri: .* without user"),
        (a_provider("jwks: '{'"), r"0.yaml:7: spec.jwks: this is no key set"),
        (
            a_provider(given(json.dumps({"keys": [ec().as_dict(private=True)]}))),
            r":7: .*'e1' is a private key",
        ),
        (a_provider(given('{"keys":[{"kty":"oct","k":"AAAA"}]}')), r"0.yaml:7: spec.jwks: .* symmetric key"),
        (
            a_provider(given(key_set(ec())) + "\nalgorithms: [RS256]"),
            r"0.yaml:8: spec.algorithms: none of them",
        ),
        (a_provider(f"{URI}\nalgorithms: [HS256]"), r"0.yaml:8: spec.algorithms\[0\]"),
        (a_provider(f"{URI}\nalgorithms: [none]"), r"0.yaml:8: spec.algorithms\[0\]"),
        (a_provider(given(key_set(rsa())) + "\nrefresh: 5m"), r"0.yaml:7: spec.jwks: is not fetched"),
        (a_provider(f"{URI}\nrefresh: 1s"), r"0.yaml:8: spec.refresh"),
        (
            a_provider(f"{URI}\nkubernetes: true\nclaims: {{attributes: {{namespace: ns}}}}"),
            r"0.yaml:9: spec.claims.attributes.namespace: is what Kubernetes says itself",
        ),
    ],
)
def test_a_fault_is_named_with_its_line(text: str, fault: str) -> None:
    (found,) = faults(text)
    assert re.search(fault, found), found


def test_a_good_one_becomes_an_entry() -> None:
    text = a_provider(
        given(key_set(rsa()))
        + "\nclaims: {subject: email, groups: realm_access.roles, attributes: {department: dept}}"
    )
    (document,) = load([("a", text)]).documents
    assert isinstance(document.parsed, IdentityProviderDocument)
    made = identity_provider(document.parsed)
    assert (made.name, made.issuer, made.audiences) == ("corp", "https://login.example.com", ("bridge",))
    assert (made.subject, made.groups) == ("email", "realm_access.roles")
    assert made.attributes == {"department": "dept"}
    assert made.keys == key_set(rsa())


def test_keys_that_were_fetched_never_stand_in_for_given_ones() -> None:
    (document,) = load([("a", a_provider(given(key_set(rsa()))))]).documents
    assert isinstance(document.parsed, IdentityProviderDocument)
    assert identity_provider(document.parsed, "fetched").keys == key_set(rsa())


def test_two_providers_of_one_issuer_are_refused() -> None:
    first, second = a_provider(), a_provider(name="other")
    assert any("1.yaml:5: spec.issuer: is that of corp already" in one for one in faults(first, second))
    (found,) = faults(second, applied={"IdentityProvider/corp": first})
    assert "spec.issuer: is that of corp already" in found
    assert faults(first, applied={"IdentityProvider/corp": first}) == []


def test_an_audience_may_be_as_long_as_real_ones_are() -> None:
    long = "764086051850-6qr4p6gpi6hn506pt8ejuq83di341hur.apps.googleusercontent.com"
    text = a_provider().replace("[bridge]", f"[{long}]")
    (document,) = load([("a", text)]).documents
    assert isinstance(document.parsed, IdentityProviderDocument)
    assert identity_provider(document.parsed).audiences == (long,)
