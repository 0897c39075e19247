"""The file that a signature is: a Sigstore bundle v0.3 with a DSSE envelope, as OpenSSF's tool has it. Pure.

Of what the format has for it, signatures by a key and by a certificate are taken; those of Sigstore's own
service, with a certificate of minutes and an entry in its log, are refused by their name.

Sources: https://docs.sigstore.dev/about/bundle/, https://github.com/secure-systems-lab/dsse (v1.0).
"""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from bridge_core.bounds import Name, Text
from bridge_core.decoding import Undecodable, decode_json
from bridge_core.model_signing.content import MEDIA, MOST_BUNDLE
from bridge_core.model_signing.fault import BadSignature
from bridge_core.model_signing.statement import PAYLOAD_TYPE

MOST_CHAIN: Final = 8
_MOST_DER: Final = 16_384


class Bundle(msgspec.Struct, frozen=True):
    """What a bundle says; nothing of it is proved yet.

    Attributes:
        payload: What is signed, once `signed_text` has framed it.
        signature: DER, of ECDSA.
        hint: Which key signed: the hexadecimal SHA-256 of its PEM; empty: it is not said.
        chain: The signer's certificate and those above it, DER; empty: a bare key signed.
    """

    payload: bytes
    signature: bytes
    hint: str = ""
    chain: tuple[bytes, ...] = ()


_Der = Annotated[bytes, msgspec.Meta(max_length=_MOST_DER)]


class _Certificate(msgspec.Struct, rename="camel"):
    raw_bytes: _Der


class _Chain(msgspec.Struct):
    certificates: Annotated[list[_Certificate], msgspec.Meta(max_length=MOST_CHAIN)]


class _Key(msgspec.Struct):
    hint: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class _Material(msgspec.Struct, rename="camel"):
    public_key: _Key | None = None
    x509_certificate_chain: _Chain | None = msgspec.field(default=None, name="x509CertificateChain")
    certificate: Any = None


class _Signature(msgspec.Struct):
    sig: Annotated[bytes, msgspec.Meta(max_length=1024)]


class _Envelope(msgspec.Struct, rename="camel"):
    payload: bytes
    payload_type: Text
    signatures: Annotated[list[_Signature], msgspec.Meta(max_length=8)]


class _Bundle(msgspec.Struct, rename="camel"):
    media_type: Name
    verification_material: _Material
    dsse_envelope: _Envelope


def read_bundle(data: bytes) -> Bundle:
    """The bundle in a file.

    Raises:
        BadSignature: it is none that is taken.
    """
    try:
        found = decode_json(data, _Bundle, most=MOST_BUNDLE)
    except Undecodable as fault:
        raise BadSignature(f"it is no bundle with a signature: {fault.message}") from fault
    envelope, material = found.dsse_envelope, found.verification_material
    if found.media_type != MEDIA:
        raise BadSignature(f"its media type is {found.media_type[:80]!r}, and only {MEDIA} is taken")
    if envelope.payload_type != PAYLOAD_TYPE:
        raise BadSignature(f"it signs a {envelope.payload_type[:80]!r}, and no in-toto statement")
    if len(envelope.signatures) != 1:
        raise BadSignature(f"its envelope has {len(envelope.signatures)} signatures, and one is taken")
    chain = material.x509_certificate_chain
    if material.certificate is not None or (material.public_key is None) == (chain is None):
        raise BadSignature(
            "it was made by neither a key nor a certificate of one's own",
            hint="keyless signatures of Sigstore are not taken: `model_signing sign key`, or certificate",
        )
    if chain is not None:
        certificates = tuple(one.raw_bytes for one in chain.certificates)
        if not certificates:
            raise BadSignature("it shows no certificate")
        return Bundle(envelope.payload, envelope.signatures[0].sig, "", certificates)
    hint = "" if material.public_key is None else material.public_key.hint or ""
    return Bundle(envelope.payload, envelope.signatures[0].sig, hint)


def write_bundle(bundle: Bundle) -> bytes:
    """The file of a bundle; what is binary in it is written in base64."""
    material: dict[str, object] = {"publicKey": {"hint": bundle.hint}}
    if bundle.chain:
        certificates = [{"rawBytes": one} for one in bundle.chain]
        material = {"x509CertificateChain": {"certificates": certificates}}
    envelope = {
        "payload": bundle.payload,
        "payloadType": PAYLOAD_TYPE,
        "signatures": [{"sig": bundle.signature, "keyid": ""}],
    }
    return msgspec.json.encode(
        {
            "mediaType": MEDIA,
            "verificationMaterial": {**material, "tlogEntries": []},
            "dsseEnvelope": envelope,
        }
    )


def signed_text(payload: bytes) -> bytes:
    """What is signed of a payload: DSSE's pre-authentication encoding, PAE."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD_TYPE), PAYLOAD_TYPE.encode(), len(payload), payload)
