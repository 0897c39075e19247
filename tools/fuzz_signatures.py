"""What `fuzz.py` feeds to whoever reads signatures of models: none but the good one may ever be taken."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path

from bridge_agent.signing.judging_rules import judge
from bridge_core.model_signing.bundle import read_bundle
from bridge_core.model_signing.chains import authorities, checked_signer
from bridge_core.model_signing.content import MEDIA, content_of, with_signatures
from bridge_core.model_signing.policies import ModelSignaturePolicy, Signer
from bridge_core.model_signing.statement import check_statement
from bridge_core.model_store.layout import Layer

_VECTOR = json.loads(
    (Path(__file__).parents[1] / "tests/unit/vectors/model_signing/openssf_1_1.json").read_text()
)
_MODEL = _VECTOR["manifest"].encode()
_CONTENT = content_of(_MODEL)
_POLICIES = (
    ModelSignaturePolicy(
        "p",
        ("*",),
        (
            Signer("key", _VECTOR["keys"]["p256"]),
            Signer("ca", authorities=_VECTOR["root"], identities=("*",)),
        ),
    ),
)
BUNDLES = [_VECTOR["signatures"][one].encode() for one in ("p256", "certificate", "p521")]
_GOOD = {one: read_bundle(one).payload for one in BUNDLES}
STATEMENTS = [_GOOD[BUNDLES[0]]]


def _signed(data: bytes) -> tuple[bytes, dict[str, bytes]]:
    layer = Layer(MEDIA, f"sha256:{hashlib.sha256(data).hexdigest()}", len(data))
    return with_signatures(_CONTENT, [layer]), {layer.digest: data}


MANIFESTS = [_signed(BUNDLES[0])[0], _MODEL]
_KNOWN = _signed(BUNDLES[0])[1]
_CHAIN = json.loads(BUNDLES[1])["verificationMaterial"]["x509CertificateChain"]["certificates"]
CHAINS = [base64.b64decode(one["rawBytes"]) for one in _CHAIN]


def manifest(data: bytes) -> None:
    """A manifest with a good signature of another one."""
    found = judge(data, _KNOWN, _POLICIES)
    assert not found.by or data == MANIFESTS[0], data


def bundle(data: bytes) -> None:
    """A signature of a good manifest: one that counts says what a good one says."""
    found = judge(*_signed(data), _POLICIES)
    if found.by:
        assert read_bundle(data).payload in _GOOD.values(), data


def statement(data: bytes) -> None:
    """What somebody who may sign has signed."""
    check_statement(data, _CONTENT)


def chain(data: bytes) -> None:
    """A certificate that a signer shows, before one that is good."""
    checked_signer((data, CHAINS[1]), authorities(_VECTOR["root"]))
