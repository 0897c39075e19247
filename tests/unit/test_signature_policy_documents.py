"""ModelSignaturePolicy documents: what they become, and what is refused with its line."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from bridge_core.config import load, signature_policy
from bridge_core.config.documents import ModelSignaturePolicyDocument
from bridge_core.model_signing.policies import ModelSignaturePolicy, Signer
from bridge_core.snapshot import Snapshot, Version, check_entry, encode_entry
from bridge_registry.publication.builder import SecurityDocuments

FOLDER = Path(__file__).parents[2] / "mesh_config"
VECTOR = json.loads((Path(__file__).parent / "vectors/model_signing/openssf_1_1.json").read_text())
KEY, ROOT = VECTOR["keys"]["p256"], VECTOR["root"]


def block(pem: str) -> str:
    return "|\n" + "".join(f"        {line}\n" for line in pem.splitlines())


def a_policy(spec: str, name: str = "p") -> str:
    body = "".join(f"  {line}\n" for line in spec.splitlines())
    head = "apiVersion: security.deepseek.io/v1\nkind: ModelSignaturePolicy\n"
    return f"{head}metadata: {{name: {name}}}\nspec:\n{body}"


def signer(pem: str, *, field: str = "publicKey", more: str = "") -> str:
    return f"models: ['*']\nsigners:\n- name: release\n  {field}: {block(pem)}{more}"


def faults(text: str) -> list[str]:
    return [str(one) for one in load([("0.yaml", text)]).faults]


def test_a_document_becomes_a_policy_of_the_snapshot() -> None:
    more = f"- name: build\n  authorities: {block(ROOT)}  identities: ['*@acme.example']\nshadow: true"
    loaded = load([("p.yaml", a_policy(signer(KEY, more=more)))])
    assert loaded.faults == ()
    (document,) = loaded.documents
    assert isinstance(document.parsed, ModelSignaturePolicyDocument)
    made = signature_policy(document.parsed)
    signers = (Signer("release", KEY), Signer("build", authorities=ROOT, identities=("*@acme.example",)))
    assert made == ModelSignaturePolicy("p", ("*",), signers, True)
    entries = SecurityDocuments(signatures=(document.parsed,)).entries()
    assert entries == {"signature/p": encode_entry(made)}
    check_entry("signature/p", entries["signature/p"])
    assert Snapshot(Version(1, 1), entries).signature_policies == (made,)


def private() -> str:
    form = serialization.PrivateFormat.PKCS8
    key = ec.derive_private_key(7, ec.SECP256R1())
    return key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption()).decode()


def ed25519_key() -> str:
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    key = ed25519.Ed25519PrivateKey.generate().public_key()
    return key.public_bytes(serialization.Encoding.PEM, form).decode()


@pytest.mark.parametrize(
    ("spec", "fault"),
    [
        ("signers: [{name: a}]", "spec.models"),
        ("models: ['*']\nsigners: []", "spec.signers"),
        ("models: ['*']\nsigners: [{name: a}]", "spec.signers[0]: give a publicKey, or authorities"),
        (signer(KEY, more=f"  authorities: {block(ROOT)}"), "and not both"),
        (signer(KEY, more="  identities: [a]"), "spec.signers[0].identities: are those of certificates"),
        (signer("x"), "spec.signers[0].publicKey: it is no public key in PEM"),
        (signer(private()), "spec.signers[0].publicKey: is a private key, which nobody may see"),
        (signer(ed25519_key()), "P-256, P-384 or P-521"),
        (signer(ROOT, field="authorities"), "spec.signers[0].identities: name who may sign"),
        (
            signer("x", field="authorities", more="  identities: [a]"),
            "spec.signers[0].authorities: it is no certificate in PEM",
        ),
        (
            signer(KEY, more=f"- name: release\n  publicKey: {block(KEY)}"),
            "spec.signers[1].name: release is there twice",
        ),
        (signer(KEY).replace("'*'", "m, m"), "spec.models[1]: m is there twice"),
        (signer(KEY).replace("'*'", "'a b'"), "spec.models[0]: 'a b' is not a model name"),
        (signer(KEY).replace("publicKey", "public_key"), "did you mean publicKey?"),
    ],
)
def test_what_makes_no_sense_is_refused_where_it_stands(spec: str, fault: str) -> None:
    found = faults(a_policy(spec))
    assert any(fault in one for one in found), found


def test_the_commented_example_is_valid() -> None:
    lines = (FOLDER / "signatures.yaml").read_text().splitlines()
    text = "\n".join(line.removeprefix("#") for line in lines if not re.match(r"# \S", line))
    loaded = load([("signatures.yaml", text)])
    assert loaded.faults == ()
    assert [one.key for one in loaded.documents] == ["ModelSignaturePolicy/company"]
