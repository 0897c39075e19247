"""Signatures of models: OpenSSF's tool's are taken, ours are like them, and what was edited is refused."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from bridge_agent.models.manifest_rules import read_manifest
from bridge_agent.signing.judging_rules import Judged, judge
from bridge_core.decoding import decode_json
from bridge_core.model_signing.bundle import MOST_CHAIN, Bundle, read_bundle, signed_text, write_bundle
from bridge_core.model_signing.chains import authorities, checked_signer
from bridge_core.model_signing.content import (
    MEDIA,
    MOST_SIGNATURES,
    Content,
    content_of,
    with_signatures,
)
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.keys import hint_of, private_key, signed_with
from bridge_core.model_signing.policies import ModelSignaturePolicy, SignatureBook, Signer
from bridge_core.model_signing.statement import check_statement, write_statement
from bridge_core.model_store.layout import Layer, Manifest, ModelStore, encode_manifest
from bridge_core.names import ModelName

VECTOR = json.loads((Path(__file__).parent / "vectors/model_signing/openssf_1_1.json").read_text())
MANIFEST = VECTOR["manifest"].encode()
IDENTITY = "release@acme.example"


def layer_of(bundle: bytes) -> Layer:
    return Layer(MEDIA, f"sha256:{hashlib.sha256(bundle).hexdigest()}", len(bundle))


def signed(*bundles: bytes, manifest: bytes = MANIFEST) -> tuple[bytes, dict[str, bytes]]:
    """The manifest with these signatures, and the signatures by digest."""
    layers = [layer_of(one) for one in bundles]
    data = with_signatures(content_of(manifest), layers)
    return data, {layer.digest: one for layer, one in zip(layers, bundles, strict=True)}


def policy(*signers: Signer, shadow: bool = False, name: str = "company") -> ModelSignaturePolicy:
    return ModelSignaturePolicy(name, ("*",), signers, shadow)


def pem_of(key: ec.EllipticCurvePrivateKey) -> str:
    public = key.public_key()
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return public.public_bytes(serialization.Encoding.PEM, form).decode()


@cache
def own_key() -> ec.EllipticCurvePrivateKey:
    return ec.derive_private_key(7, ec.SECP256R1())


def own_signature(manifest: bytes = MANIFEST, key: ec.EllipticCurvePrivateKey | None = None) -> bytes:
    content = content_of(manifest)
    return write_bundle(signed_with(key or own_key(), write_statement("acme/m", content)))


OWN = Signer("release", pem_of(own_key()))


def refused(data: bytes, bundles: dict[str, bytes], *policies: ModelSignaturePolicy) -> str:
    found = judge(data, bundles, policies or (policy(OWN),))
    assert not found.by or found.refused == ""
    return found.refused


# -- OpenSSF's tool


@pytest.mark.parametrize(
    ("made", "key"), [("p256", "p256"), ("p384", "p384"), ("p521", "p521"), ("manifest-only", "p256")]
)
def test_what_openssfs_tool_signed_with_a_key_is_taken(made: str, key: str) -> None:
    data, bundles = signed(VECTOR["signatures"][made].encode())
    asked = policy(Signer("they", VECTOR["keys"][key]))
    assert judge(data, bundles, [asked]) == Judged(("they (company)",))
    other = policy(Signer("others", VECTOR["keys"]["p521" if key != "p521" else "p256"]))
    assert "it is signed by somebody else (key " in refused(data, bundles, other)


def test_what_it_signed_with_a_certificate_is_taken_of_who_may_sign() -> None:
    """The certificate ended in January: a model that is in use does not go dark by that."""
    data, bundles = signed(VECTOR["signatures"]["certificate"].encode())
    taken = Signer("they", authorities=VECTOR["root"], identities=("*@acme.example",))
    assert judge(data, bundles, [policy(taken)]).by == ("they (company)",)
    other = msgspec.structs.replace(taken, identities=("build@acme.example", "release"))
    assert f"its certificate is of {IDENTITY}" in refused(data, bundles, policy(other))
    strange = msgspec.structs.replace(taken, authorities=a_root(own_key())[1])
    assert "its certificate is of none of these CAs" in refused(data, bundles, policy(strange))
    assert refused(data, bundles, policy(Signer("k", VECTOR["keys"]["p256"])))
    assert refused(data, bundles, policy(msgspec.structs.replace(taken, identities=())))
    bare, known = signed(own_signature())  # anybody's key is no certificate
    assert f"signed by somebody else (key {hint_of(own_key().public_key())[:12]})" in refused(
        bare, known, policy(taken)
    )
    anyone = msgspec.structs.replace(taken, identities=("*",))
    assert judge(bare, known, [policy(anyone)]) != judge(bare, known, [policy(OWN)])
    assert judge(bare, known, [policy(anyone)]).by == ()


def test_a_statement_of_ours_names_the_files_that_its_tool_names() -> None:
    theirs = json.loads(read_bundle(VECTOR["signatures"]["p256"].encode()).payload)
    ours = json.loads(write_statement("full", content_of(MANIFEST)))
    assert ours["subject"] == theirs["subject"]
    assert ours["predicate"]["resources"] == theirs["predicate"]["resources"]
    del theirs["predicate"]["serialization"]["ignore_paths"]  # git's files, where there are some
    assert ours == theirs


def test_the_framing_is_dsses() -> None:
    assert signed_text(b"hello") == b"DSSEv1 28 application/vnd.in-toto+json 5 hello"


# -- what was edited


def test_every_edit_of_a_signed_manifest_is_refused() -> None:
    data, bundles = signed(own_signature())
    assert judge(data, bundles, [policy(OWN)]).by == ("release (company)",)
    for at in range(len(data)):
        for byte in {data[at] ^ 1, data[at] ^ 0x20, 0x20}:
            edited = data[:at] + bytes([byte]) + data[at + 1 :]
            assert edited == data or refused(edited, bundles), edited[max(0, at - 20) : at + 20]
        assert refused(data[:at], bundles)
        assert refused(data[:at] + data[at + 1 :], bundles)
        assert refused(data[:at] + b" " + data[at:], bundles)
    assert refused(data + b" ", bundles)


def test_every_edit_of_what_was_signed_is_refused() -> None:
    bundle = read_bundle(own_signature())
    for at in range(len(bundle.payload)):
        for byte in (bundle.payload[at] ^ 1, 0x20):
            payload = bundle.payload[:at] + bytes([byte]) + bundle.payload[at + 1 :]
            if payload != bundle.payload:
                edited = write_bundle(msgspec.structs.replace(bundle, payload=payload))
                assert refused(*signed(edited)), payload
    for at in range(len(bundle.signature)):
        changed = bundle.signature[:at] + bytes([bundle.signature[at] ^ 1]) + bundle.signature[at + 1 :]
        assert refused(*signed(write_bundle(msgspec.structs.replace(bundle, signature=changed))))


def some_layer(kind: str, data: bytes, from_: str) -> Layer:
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    return Layer(f"application/vnd.ollama.image.{kind}", digest, len(data), from_)


_LAYERS = st.lists(
    st.builds(
        some_layer,
        st.sampled_from(["model", "system", "params"]),
        st.binary(max_size=4),
        st.sampled_from(["", "a<b>&c", "\u2028"]),
    ),
    max_size=4,
)


@given(_LAYERS, _LAYERS)
def test_a_signature_is_of_one_model_only(one: list[Layer], other: list[Layer]) -> None:
    config = Layer("application/json", f"sha256:{'0' * 64}", 2)
    first, second = encode_manifest(Manifest(config, one)), encode_manifest(Manifest(config, other))
    data, bundles = signed(own_signature(first), manifest=first)
    assert judge(data, bundles, [policy(OWN)]).refused == ""
    moved = with_signatures(content_of(second), content_of(data).signatures)
    assert bool(refused(moved, bundles)) == (first != second)
    assert content_of(data).data == first
    read_manifest(data)  # it travels as any other does


def test_what_stands_in_a_manifest_unsigned_takes_its_signature_away() -> None:
    bundle = own_signature()
    data, bundles = signed(bundle)
    said = json.loads(data)
    said["annotations"] = {"a": "b"}
    unsigned = "has something in it that is not signed"
    assert unsigned in refused(json.dumps(said, separators=(",", ":")).encode(), bundles)
    twice = data.replace(b'"schemaVersion":2', b'"schemaVersion":1,"schemaVersion":2')
    assert unsigned in refused(twice, bundles)
    whole = msgspec.json.decode(data, type=Manifest)
    first = Manifest(whole.config, [whole.layers[-1], *whole.layers[:-1]])
    assert unsigned in refused(encode_manifest(first), bundles)
    named = Manifest(
        whole.config, [*whole.layers[:-1], msgspec.structs.replace(whole.layers[-1], name="../x")]
    )
    assert unsigned in refused(encode_manifest(named), bundles)


def test_a_signature_that_is_not_there_or_not_as_long_as_said_is_none() -> None:
    data, bundles = signed(own_signature())
    assert "is not there: pull the model again" in refused(data, {})
    ((digest, bundle),) = bundles.items()
    assert "is not there: pull the model again" in refused(data, {digest: bundle + b" "})
    assert "it has no signature" in refused(MANIFEST, {})


# -- who signed


def test_one_good_signature_of_several_is_enough_and_each_policy_wants_its_own() -> None:
    other = ec.derive_private_key(8, ec.SECP384R1())
    data, bundles = signed(own_signature(key=other), b'{"mediaType": "none"}', own_signature())
    theirs = policy(Signer("audit", pem_of(other)), name="auditors")
    assert judge(data, bundles, [policy(OWN), theirs]).by == ("release (company)", "audit (auditors)")
    missing = policy(Signer("nobody", pem_of(ec.derive_private_key(9, ec.SECP256R1()))), name="x")
    found = judge(data, bundles, [policy(OWN), missing])
    assert found.by == ("release (company)",)
    assert found.refused.startswith("the ModelSignaturePolicy x asks for a signature of nobody: ")
    shadow = msgspec.structs.replace(missing, shadow=True)
    found = judge(data, bundles, [policy(OWN), shadow])
    assert (found.refused, bool(found.shadowed)) == ("", True)


def test_a_hint_tells_nothing_that_the_key_does_not() -> None:
    """Whoever edits it makes a signature of nobody; without one every key is tried."""
    bundle = read_bundle(own_signature())
    bare = write_bundle(msgspec.structs.replace(bundle, hint=""))
    assert judge(*signed(bare), [policy(Signer("x", VECTOR["keys"]["p384"]), OWN)]).by
    wrong = write_bundle(msgspec.structs.replace(bundle, hint="0" * 64))
    assert "signed by somebody else" in refused(*signed(wrong))
    stranger = ec.derive_private_key(10, ec.SECP256R1())
    forged = msgspec.structs.replace(
        signed_with(stranger, bundle.payload), hint=hint_of(own_key().public_key())
    )
    assert "damaged, or of something else" in refused(*signed(write_bundle(forged)))
    unnamed = write_bundle(msgspec.structs.replace(signed_with(stranger, bundle.payload), hint=""))
    assert "signed by somebody else (key not named)" in refused(*signed(unnamed))


_BEGAN = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
_CA = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
_SIGNS = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)
_CODE = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING])


def name_of(said: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, said)])


def certificate(
    said: str,
    key: Any,
    issuer: str,
    issuing: ec.EllipticCurvePrivateKey,
    *extensions: x509.ExtensionType,
    began: dt.datetime = _BEGAN,
) -> x509.Certificate:
    built = (
        x509.CertificateBuilder()
        .subject_name(name_of(said))
        .issuer_name(name_of(issuer))
        .public_key(key.public_key())
        .serial_number(5)
        .not_valid_before(began)
        .not_valid_after(began + dt.timedelta(days=365))
    )
    own = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuing.public_key())
    for one in (*extensions, own, x509.SubjectKeyIdentifier.from_public_key(key.public_key())):
        critical = isinstance(one, (x509.BasicConstraints, x509.KeyUsage))
        built = built.add_extension(one, critical=critical)
    return built.sign(issuing, hashes.SHA256())


def a_root(key: ec.EllipticCurvePrivateKey) -> tuple[x509.Certificate, str]:
    made = certificate("root", key, "root", key, x509.BasicConstraints(ca=True, path_length=None), _CA)
    return made, made.public_bytes(serialization.Encoding.PEM).decode()


def chain_refusal(*chain: x509.Certificate, key: ec.EllipticCurvePrivateKey, identity: str = "*") -> str:
    """What is said of a model that the key of the first of these signed; the second's root is trusted."""
    der = tuple(one.public_bytes(serialization.Encoding.DER) for one in chain)
    payload = write_statement("m", content_of(MANIFEST))
    bundle = write_bundle(signed_with(key, payload, der))
    signer = Signer("they", authorities=a_root(own_key())[1], identities=(identity,))
    return refused(*signed(bundle), policy(signer))


def test_a_certificate_counts_only_from_its_ca_and_for_signing() -> None:
    root, key = own_key(), ec.derive_private_key(11, ec.SECP256R1())
    mail = x509.SubjectAlternativeName([x509.RFC822Name(IDENTITY), x509.DNSName("ci.acme.example")])
    good = certificate("release", key, "root", root, _SIGNS, mail)
    assert chain_refusal(good, key=key) == ""
    assert chain_refusal(good, key=key, identity="ci.*") == ""
    assert chain_refusal(good, key=key, identity="release")  # its other names count, where it has some
    bare = certificate("release", key, "root", root, _SIGNS)
    assert chain_refusal(bare, key=key, identity="release") == ""
    assert chain_refusal(certificate("c", key, "root", root, _CODE), key=key) == ""
    assert "not for signing" in chain_refusal(certificate("c", key, "root", root), key=key)
    assert "not for signing" in chain_refusal(certificate("c", key, "root", root, _CA), key=key)
    server = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH])
    assert "not for signing" in chain_refusal(certificate("c", key, "root", root, server), key=key)
    # Whoever has a certificate is no CA by that, and one of before its CA was there is of nobody.
    made = certificate("deputy", own_key(), "release", key, _SIGNS)
    assert "of none of these CAs" in chain_refusal(made, good, key=own_key())
    early = certificate("c", key, "root", root, _SIGNS, began=_BEGAN - dt.timedelta(days=9))
    assert "of none of these CAs" in chain_refusal(early, key=key)
    stolen = ec.derive_private_key(12, ec.SECP256R1())
    assert "damaged, or of something else" in chain_refusal(good, key=stolen)
    other = certificate("c", ed25519.Ed25519PrivateKey.generate(), "root", root, _SIGNS)
    assert "the key is not an elliptic curve's" in chain_refusal(other, key=key)


# Found by `make fuzz`: an extension that is there twice, which the library has an error of its own for.
_TWICE = base64.b64decode(
    "MIIBtDCCAVmgAwIBAgIUbRaA3j1Ho3sL4/PgmDTVFYkrHz8wCgYIKoZIzj0EAwIwHTEbMBkGA1UEAwwSQWNtZSBtb2RlbHMg"
    "aXNzdWVyMB4XDTI2MDEwMTAwMDAwMFoXDTI2MDEzMTAwMDAwMFowEjEQMA4GA1UEAwwHcmVsZWFzZTBZMBMGByqGSM49AgEG"
    "CCqGSM49AwEHA0IABL84gQg9916Zy2qQpZw3BVtgwo19VaMFykpZ5llhy0isEDMpYezyC7fOigzS/J36amq8HhXi9fKzkwzG"
    "PaLR/byjgYEwfzAMBgNVHREBAf8EAjAAMA4GA1UdDwEB/wQEAwIHgDAfBgNVHREEGDAWgRRyZWxlYXNlQGFjbWUuZXhhbXBs"
    "ZTAdBgNVHQ4EFgQUbtqMh1eh4uGMTzHrPuHj72/axmswHwYDVR0jBBgwFoAUUcXL9ub2CFL1LGKAsWOFUXooRfAwCgYIKoZI"
    "zj0EAwIDSQAwRgIhAPP0RAUjYEHxDbQpOnIrgMc8GpPV+c5fh3bZZhkhI34kAiEAhcBs1iW+3oIGdbVsHDvqv2KKi94GdbQA"
    "4RWk980LbOk="
)


def test_a_certificate_that_cannot_be_read_is_refused() -> None:
    roots = authorities(VECTOR["root"])
    for damaged in (_TWICE, b"", b"0", bytes(100)):
        with pytest.raises(BadSignature, match="its certificate cannot be read"):
            checked_signer((damaged,), roots)


# -- what is no signature


def bundle_with(**changes: Any) -> bytes:
    made = json.loads(own_signature())
    for path, value in changes.items():
        *parts, last = path.split("__")
        found = made
        for part in parts:
            found = found[part]
        if value is None:
            del found[last]
        else:
            found[last] = value
    return json.dumps(made).encode()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mediaType": "application/json"}, "its media type is"),
        ({"dsseEnvelope__payloadType": "text/plain"}, "and no in-toto statement"),
        ({"dsseEnvelope__signatures": []}, "has 0 signatures, and one is taken"),
        ({"dsseEnvelope__signatures": [{"sig": "AAAA"}] * 2}, "has 2 signatures, and one is taken"),
        ({"dsseEnvelope__payload": "###"}, "it is no bundle"),
        ({"verificationMaterial__publicKey": None}, "by neither a key nor a certificate"),
        ({"verificationMaterial__certificate": {"rawBytes": "AAAA"}}, "by neither a key nor a certificate"),
        ({"verificationMaterial": {"x509CertificateChain": {"certificates": []}}}, "it shows no certificate"),
        ({"dsseEnvelope": None}, "it is no bundle"),
        (
            {
                "verificationMaterial": {
                    "x509CertificateChain": {"certificates": [{"rawBytes": "AAAA"}] * (MOST_CHAIN + 1)}
                }
            },
            "it is no bundle",
        ),
    ],
)
def test_a_bundle_that_is_not_taken_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSignature, match=said):
        read_bundle(bundle_with(**changes))


def statement_with(**changes: Any) -> bytes:
    made = json.loads(write_statement("m", content_of(MANIFEST)))
    for path, value in changes.items():
        *parts, last = path.split("__")
        found = made
        for part in parts:
            found = found[part]
        found[last] = value
    digests = b"".join(bytes.fromhex(one["digest"]) for one in made["predicate"]["resources"])
    if "subject" not in changes:
        made["subject"][0]["digest"]["sha256"] = hashlib.sha256(digests).hexdigest()
    return json.dumps(made).encode()


_FILES = json.loads(write_statement("m", content_of(MANIFEST)))["predicate"]["resources"]
_ONE = {"name": "manifest.json", "algorithm": "sha256", "digest": content_of(MANIFEST).digest}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"_type": "https://in-toto.io/Statement/v0.1"}, "and no model"),
        ({"predicateType": "https://slsa.dev/provenance/v1"}, "and no model"),
        ({"predicate__serialization": {"method": "shards", "hash_type": "sha256"}}, "only whole files"),
        ({"predicate__serialization": {"method": "files", "hash_type": "blake3"}}, "only whole files"),
        ({"subject": []}, "its subject is not what its files add up to"),
        ({"subject": [{"name": "m", "digest": {"sha256": "0" * 64}}]}, "its subject is not"),
        ({"predicate__resources": _FILES[:-1]}, "it says nothing of the model's manifest.json"),
        ({"predicate__resources": []}, "it says nothing of the model's manifest.json"),
        ({"predicate__resources": [*_FILES, _ONE]}, "is there twice"),
        ({"predicate__resources": [{**_ONE, "algorithm": "blake2b"}]}, "not hashed by sha256"),
        ({"predicate__resources": [{**_ONE, "digest": "0" * 64}]}, "a model with another manifest"),
        ({"predicate__resources": [_ONE, {**_ONE, "name": "README.md"}]}, "'README.md' is none of this"),
        (
            {"predicate__resources": [_ONE, {**_ONE, "name": f"blobs/sha256-{_ONE['digest']}"}]},
            "is none of this model's",
        ),
        ({"predicate__resources": [{**_FILES[0], "name": _FILES[1]["name"]}, _ONE]}, "is none of this"),
    ],
)
def test_a_statement_about_something_else_is_named(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadSignature, match=said):
        check_statement(statement_with(**changes), content_of(MANIFEST))


def test_a_statement_may_leave_blobs_out_whose_digests_the_manifest_says() -> None:
    check_statement(statement_with(predicate__resources=[_ONE, _FILES[0]]), content_of(MANIFEST))


@pytest.mark.parametrize("digest", ["", "ab", "G" * 64, "A" * 64, "٠" * 64])
def test_a_digest_that_is_none_is_named(digest: str) -> None:
    files = [{**_ONE, "digest": digest}]
    made = json.dumps(
        {**json.loads(statement_with()), "predicate": {"serialization": {"method": "files"}}}
    ).replace('"method": "files"', '"method": "files", "hash_type": "sha256"')
    said = json.loads(made)
    said["predicate"]["resources"] = files
    with pytest.raises(BadSignature, match="is not one of sha256"):
        check_statement(json.dumps(said).encode(), content_of(MANIFEST))


def test_more_signatures_than_are_taken() -> None:
    bundles = [own_signature() + b" " * at for at in range(MOST_SIGNATURES + 1)]
    content = content_of(MANIFEST)
    with pytest.raises(BadSignature, match="8 signatures at most"):
        with_signatures(content, [layer_of(one) for one in bundles])
    layers = [*content.manifest.layers, *(layer_of(one) for one in bundles)]
    data = encode_manifest(Manifest(content.manifest.config, layers))
    known = {layer_of(one).digest: one for one in bundles}
    assert "it has 9 signatures, 8 at most are taken" in refused(data, known)
    assert judge(*signed(*bundles[:MOST_SIGNATURES]), [policy(OWN)]).by


@pytest.mark.parametrize("data", [b"", b"[]", b"{", b"\xff", b"[" * 100_000, b'{"config":{}}'])
def test_what_is_no_manifest_or_bundle_is_refused(data: bytes) -> None:
    assert "its manifest cannot be read" in refused(data, {})
    with pytest.raises(BadSignature):
        read_bundle(data)
    with pytest.raises(BadSignature):
        check_statement(data, content_of(MANIFEST))


@given(st.binary(max_size=300), st.text(max_size=20), st.lists(st.binary(max_size=40), max_size=MOST_CHAIN))
def test_bundles_come_back_as_they_were_written(payload: bytes, hint: str, chain: list[bytes]) -> None:
    made = Bundle(payload, payload[:10], "" if chain else hint, tuple(chain))
    assert read_bundle(write_bundle(made)) == made


@pytest.mark.parametrize(
    ("pem", "said"),
    [
        (b"x", "no private key in PEM"),
        (pem_of(ec.derive_private_key(3, ec.SECP256K1())).encode(), "no private key in PEM"),
    ],
)
def test_a_key_that_signs_no_models_is_named(pem: bytes, said: str) -> None:
    with pytest.raises(BadSignature, match=said):
        private_key(pem)


@pytest.mark.parametrize("curve", [ec.SECP256K1(), ec.SECP224R1()])
def test_a_curve_that_the_tool_has_not_is_named(curve: ec.EllipticCurve) -> None:
    key = ec.derive_private_key(3, curve)
    form = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    with pytest.raises(BadSignature, match="P-256, P-384 or P-521"):
        private_key(pem)
    locked = own_key().private_bytes(
        serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"x")
    )
    with pytest.raises(BadSignature, match="locked by a password"):
        private_key(locked)


# -- which models


def book(*models: str, shadow: bool = False) -> SignatureBook:
    return SignatureBook([ModelSignaturePolicy("p", models, (OWN,), shadow)])


@pytest.mark.parametrize(
    ("models", "name", "asked"),
    [
        (("*",), "registry.ollama.ai/library/x:latest", True),
        (("*",), "hf.co/a/b:q4", True),
        (("X",), "registry.ollama.ai/library/x:latest", True),
        (("library/x:latest",), "registry.ollama.ai/library/x:latest", True),
        (("x",), "registry.ollama.ai/library/x:v1", False),
        (("x*",), "registry.ollama.ai/library/x:v1", True),
        (("X:*",), "registry.ollama.ai/library/x:v1", True),
        (("acme/*",), "registry.ollama.ai/acme/m:v1", True),
        (("acme/*",), "hf.co/acme/m:v1", False),
        (("m*",), "hf.co/acme/m:v1", False),
    ],
)
def test_names_are_compared_by_every_spelling(models: tuple[str, ...], name: str, asked: bool) -> None:
    assert bool(book(*models).about(name)) == asked == book(*models).enforced(name)
    assert not book(*models, shadow=True).enforced(name)


def test_content_is_what_a_client_of_gos_writes() -> None:
    """Ollama's own client decodes and encodes what it pulls; some versions keep what they made of it."""
    config = Layer("application/json", f"sha256:{'1' * 64}", 3)
    made = encode_manifest(Manifest(config, [Layer("a/b", f"sha256:{'2' * 64}", 4, "<&>\u2028", "é")]))
    assert made == (
        b'{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json",'
        b'"config":{"mediaType":"application/json","digest":"sha256:' + b"1" * 64 + b'","size":3},'
        b'"layers":[{"mediaType":"a/b","digest":"sha256:' + b"2" * 64 + b'","size":4,'
        b'"from":"\\u003c\\u0026\\u003e\\u2028","name":"' + "é".encode() + b'"}]}'
    )
    again = content_of(made)
    assert isinstance(again, Content)
    assert (again.data, again.exact, again.signatures) == (made, True, ())


def test_the_payload_is_plain_base64_of_json() -> None:
    said = json.loads(own_signature())
    payload = json.loads(base64.b64decode(said["dsseEnvelope"]["payload"], validate=True))
    assert payload["predicateType"] == "https://model_signing/signature/v1.0"
    assert said["verificationMaterial"]["publicKey"]["hint"] == hint_of(own_key().public_key())


def test_an_engine_that_writes_a_signed_manifest_keeps_it_as_it_was_signed(tmp_path: Path) -> None:
    """One that pulls a model writes what it read."""
    data, _ = signed(VECTOR["signatures"]["p256"].encode())
    store, name = ModelStore(tmp_path), ModelName.parse("m")
    store.write_manifest(name, decode_json(data, Manifest, most=len(data)))
    assert store.manifest_path(name).read_bytes() == data
    assert content_of(data).exact
