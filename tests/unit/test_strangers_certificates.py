"""Certificates and requests of strangers that parse in part: refused in words, whatever is the matter."""

from __future__ import annotations

import base64

import pytest

from bridge_core.identity import IdentityFault, SpiffeId
from bridge_core.identity import certificates as x509

NOW = 1.8e9
ROOT = x509.create_root("m", now=NOW, ttl_s=1e8)
ISSUER = x509.create_intermediate(ROOT, "m", now=NOW, ttl_s=1e7)
LEAF = x509.to_pem(
    x509.issue(
        ISSUER,
        ISSUER.key.public_key(),
        SpiffeId("m", "node", "n1"),
        now=NOW,
        ttl_s=1e5,
        addresses=["127.0.0.1"],
    )
)


def changed(pem: bytes, find: bytes, put: bytes) -> bytes:
    """The PEM with the first `find` of what it holds replaced."""
    lines = pem.splitlines()
    data = base64.b64decode(b"".join(lines[1:-1]))
    assert find in data
    body = base64.b64encode(data.replace(find, put, 1))
    return b"\n".join([lines[0], *(body[at : at + 64] for at in range(0, len(body), 64)), lines[-1], b""])


def test_a_request_of_a_version_that_is_none_is_refused() -> None:
    csr = x509.create_csr(ISSUER.key, SpiffeId("m", "node", "n1"))
    with pytest.raises(IdentityFault, match="not a certificate request"):
        x509.read_csr(changed(csr, b"\x02\x01\x00", b"\x02\x01\x02"))


@pytest.mark.parametrize(
    ("find", "put"),
    [
        pytest.param(b"\x02\x01\x02", b"\x02\x01\x07", id="version"),
        pytest.param(b"\x03\x42\x00\x04", b"\x03\x42\x00\x05", id="key"),
        pytest.param(b"\x87\x04\x7f\x00", b"\x84\x04\x7f\x00", id="kind of name"),
        pytest.param(b"\x86\x12spiffe", b"\x86\x12sp\xffffe", id="name that is no text"),
        pytest.param(b"\x55\x1d\x11", b"\x55\x1d\x0e", id="the same extension twice"),
    ],
)
def test_a_certificate_that_is_damaged_inside_proves_nothing(find: bytes, put: bytes) -> None:
    pem = changed(LEAF, find, put)
    assert not x509.leads_to(pem, ROOT.certificate, ROOT.certificate)
    assert not x509.issued_by(pem, ISSUER.certificate)
    with pytest.raises(IdentityFault):
        x509.read_chain(pem + ROOT.pem, ISSUER.key, "m", now=NOW)
    try:
        certificate = x509.from_pem(pem)
        x509.describe(pem)
    except IdentityFault:
        return
    data = x509.possession(b"n", b"csr", pem)
    assert not x509.is_signed_by(certificate, b"\x30\x00", data)
