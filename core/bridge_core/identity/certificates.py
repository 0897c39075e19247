"""Keys, certificate requests and certificates (X.509, ECDSA P-256).

P-256 because etcd (Go), rustls, BoringSSL and OpenSSL all take it for client certificates.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Final, TypeAlias

import msgspec
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from bridge_core.identity.certificate_info import CertificateInfo, single_identity
from bridge_core.identity.host_names import canonical_host, is_reserved
from bridge_core.identity.rotation_rules import CLOCK_SKEW_S
from bridge_core.identity.spiffe import IdentityFault, SpiffeId

PrivateKey: TypeAlias = ec.EllipticCurvePrivateKey

# What `cryptography` raises of bytes that a stranger chose, some of it on first use of a part.
_UNREADABLE: Final = (
    ValueError,
    TypeError,
    OverflowError,
    InvalidSignature,
    UnsupportedAlgorithm,
    x509.InvalidVersion,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.UnsupportedGeneralNameType,
)
MAX_CSR_BYTES: Final = 16 * 1024
# CAs that may be between a root and a leaf: an intermediate, and before it a successor of the root.
_BELOW_A_ROOT: Final = 2
_LONGEST_CHAIN: Final = 4
# Kinds of identity that nobody takes for a part of the control plane.
_OUTSIDERS: Final = frozenset({"node", "admin", "client"})


class CertificateRequest(msgspec.Struct, frozen=True):
    """A verified CSR: its key, and the host names and addresses it asks for."""

    public_key: ec.EllipticCurvePublicKey
    dns_names: tuple[str, ...]
    addresses: tuple[str, ...]


class Authority(msgspec.Struct, frozen=True):
    """A CA: its certificate and its key.

    Attributes:
        certificate: Its own.
        key: What it signs with.
        further: PEM of certificates that lead from it to other roots than its own: a successor's root,
            signed by the former one.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    further: bytes = b""

    @property
    def pem(self) -> bytes:
        """The certificate, PEM."""
        return to_pem(self.certificate)

    @property
    def chain(self) -> bytes:
        """What follows a leaf of its, PEM."""
        return self.pem + self.further

    @property
    def pin(self) -> str:
        """SHA-256 of the certificate's DER: the last part of every join token."""
        return pin(self.certificate)


def generate_key() -> ec.EllipticCurvePrivateKey:
    """A new private key."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """The key, unencrypted PKCS#8 PEM. Store it 0600."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def key_from_pem(pem: bytes) -> ec.EllipticCurvePrivateKey:
    """The key in `pem`.

    Raises:
        IdentityFault: it holds none, or not an ECDSA P-256 one.
    """
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as fault:
        raise IdentityFault("not a private key in PEM") from fault
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityFault("the private key is not ECDSA P-256")
    return key


def create_csr(
    key: ec.EllipticCurvePrivateKey,
    identity: SpiffeId,
    *,
    dns_names: Iterable[str] = (),
    addresses: Iterable[str] = (),
) -> bytes:
    """A PKCS#10 request, PEM, for `key`; the registry decides what of it is granted."""
    builder = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(_subject(identity.common_name))
        .add_extension(_alternative_names(identity, dns_names, addresses), critical=False)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def read_csr(pem: bytes) -> CertificateRequest:
    """The request in `pem`, its signature checked.

    Raises:
        IdentityFault: it is not a valid request for an ECDSA P-256 key.
    """
    if len(pem) > MAX_CSR_BYTES:
        raise IdentityFault(f"the certificate request is larger than {MAX_CSR_BYTES} bytes")
    try:
        csr = x509.load_pem_x509_csr(pem)
        valid, key = csr.is_signature_valid, csr.public_key()
        names = _names_of(csr.extensions)
    except _UNREADABLE as fault:
        raise IdentityFault("not a certificate request (PKCS#10, PEM)") from fault
    if not valid:
        raise IdentityFault("the certificate request's signature is wrong")
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityFault("the certificate request's key is not ECDSA P-256")
    return CertificateRequest(key, names[1], names[2])


def create_authority(trust_domain: str, *, now: float, ttl_s: float, name: str = "Bridge CA") -> Authority:
    """A new self-signed CA of `trust_domain` that signs leaves itself, valid from `now` (less the skew)."""
    return _self_signed(trust_domain, name, 0, now, ttl_s)


def create_root(trust_domain: str, *, now: float, ttl_s: float) -> Authority:
    """A new root of `trust_domain`: it signs CAs that sign leaves, and a root that comes after it."""
    return _self_signed(trust_domain, "Bridge root", _BELOW_A_ROOT, now, ttl_s)


def create_intermediate(root: Authority, trust_domain: str, *, now: float, ttl_s: float) -> Authority:
    """A new CA that signs leaves, under `root`, and no longer than that."""
    key = generate_key()
    subject = _ca_subject("Bridge CA", trust_domain, key.public_key())
    public = key.public_key()
    certificate = _certified(root, subject, public, trust_domain, path_length=0, now=now, ttl_s=ttl_s)
    return Authority(certificate, key)


def cross_certify(former: Authority, root: x509.Certificate, trust_domain: str, *, now: float) -> bytes:
    """PEM: `root` as signed by the root before it. Whoever knows only that one then believes both."""
    key = root.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)  # noqa: S101 - a root of ours
    ttl_s = root.not_valid_after_utc.timestamp() - now
    certificate = _certified(former, root.subject, key, trust_domain, path_length=1, now=now, ttl_s=ttl_s)
    return to_pem(certificate)


def read_chain(
    pem: bytes, key: ec.EllipticCurvePrivateKey, trust_domain: str, *, now: float
) -> tuple[Authority, x509.Certificate]:
    """The CA that `key` is of, and its root, out of its chain: itself first, its root last.

    What lies between is kept beside it; see `Authority.further`.

    Raises:
        IdentityFault: the chain is none, or not of this key and mesh, or not valid now.
    """
    try:
        chain = x509.load_pem_x509_certificates(pem)
        if not 2 <= len(chain) <= _LONGEST_CHAIN:
            raise IdentityFault("the chain has to hold the intermediate first and its root last")
        own, root = chain[0], chain[-1]
        if own.public_key() != key.public_key():
            raise IdentityFault("the key is not the intermediate's")
        for at, one in enumerate((own, root)):
            _check_ca(one, trust_domain, now, below=at)
    except _UNREADABLE as fault:
        raise IdentityFault(f"not a chain of CA certificates in PEM: {fault}") from fault
    if not (_signed(own, root) and _signed(root, root)):
        raise IdentityFault("the root did not sign the intermediate and itself")
    return Authority(own, key, b"".join(map(to_pem, chain[1:-1]))), root


def leads_to(pem: bytes, root: x509.Certificate, former: x509.Certificate) -> bool:
    """Whether among the certificates in `pem` is `root` as signed by `former`."""
    try:
        return any(
            (one.subject, one.public_key()) == (root.subject, root.public_key()) and _signed(one, former)
            for one in x509.load_pem_x509_certificates(pem)
        )
    except _UNREADABLE:
        return False


def _signed(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except _UNREADABLE:
        return False
    return True


def _check_ca(certificate: x509.Certificate, trust_domain: str, now: float, *, below: int) -> None:
    """Returns when the certificate is of a CA of this mesh that may sign, with `below` CAs below it."""
    constraints = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    length = constraints.path_length
    if not constraints.ca or not usage.key_cert_sign or (length is not None and length < below):
        raise IdentityFault(f"{certificate.subject.rfc4514_string()} may not sign what it has to sign")
    if not below and length != 0:
        raise IdentityFault("the intermediate has to have a path length of 0")
    if not below and f"spiffe://{trust_domain}" not in uris_of(certificate):
        raise IdentityFault(f"the intermediate has to name the mesh: URI spiffe://{trust_domain}")
    begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not begins.timestamp() - CLOCK_SKEW_S <= now < ends.timestamp():
        raise IdentityFault(f"{certificate.subject.rfc4514_string()} is not valid now")


def _self_signed(trust_domain: str, name: str, path_length: int, now: float, ttl_s: float) -> Authority:
    key = generate_key()
    subject = _ca_subject(name, trust_domain, key.public_key())
    builder = _ca_builder(subject, subject, key.public_key(), trust_domain, path_length)
    certificate = _validity(builder, now, now + ttl_s).sign(key, hashes.SHA256())
    return Authority(certificate, key)


def _certified(
    signer: Authority,
    subject: x509.Name,
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    *,
    path_length: int,
    now: float,
    ttl_s: float,
) -> x509.Certificate:
    builder = _ca_builder(subject, signer.certificate.subject, key, trust_domain, path_length).add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()), critical=False
    )
    return _validity(builder, now, _no_later(signer, now + ttl_s)).sign(signer.key, hashes.SHA256())


def _ca_builder(
    subject: x509.Name,
    issuer: x509.Name,
    key: ec.EllipticCurvePublicKey,
    trust_domain: str,
    path_length: int,
) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
    )
    for extension, critical in _ca_extensions(key, trust_domain, path_length):
        builder = builder.add_extension(extension, critical=critical)
    return builder


def _ca_extensions(
    key: ec.EllipticCurvePublicKey, trust_domain: str, path_length: int
) -> list[tuple[x509.ExtensionType, bool]]:
    mesh = x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{trust_domain}")])
    return [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (_key_usage(ca=True), True),
        (x509.SubjectKeyIdentifier.from_public_key(key), False),
        (mesh, False),
    ]


def _ca_subject(name: str, trust_domain: str, key: ec.EllipticCurvePublicKey) -> x509.Name:
    # Two CAs of a mesh differ in their names: who looks for an issuer goes by the name first.
    tag = x509.SubjectKeyIdentifier.from_public_key(key).digest.hex()[:8]
    return _subject(f"{f'{name} {trust_domain}'[:55]} {tag}")


def issue(
    authority: Authority,
    public_key: ec.EllipticCurvePublicKey,
    identity: SpiffeId,
    *,
    now: float,
    ttl_s: float,
    dns_names: Iterable[str] = (),
    addresses: Iterable[str] = (),
    common_name: str | None = None,
) -> x509.Certificate:
    """A leaf certificate, for servers and clients alike, valid from `now` less the clock skew.

    Its common name, which etcd takes as the user, is the identity's unless given. It ends with the CA's at
    the latest.

    Raises:
        IdentityFault: a name is none, or is one of the Bridge's own and the holder is no part of it.
    """
    dns_names = tuple(map(canonical_host, dns_names))
    if identity.kind in _OUTSIDERS and any(map(is_reserved, dns_names)):
        raise IdentityFault(f"a name of the Bridge's own is not for {identity}")
    usage = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
    return (
        _validity(x509.CertificateBuilder(), now, _no_later(authority, now + ttl_s))
        .subject_name(_subject(common_name or identity.common_name))
        .issuer_name(authority.certificate.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(ca=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usage), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key()), critical=False
        )
        .add_extension(_alternative_names(identity, dns_names, addresses), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def possession(nonce: bytes, csr_pem: bytes, certificate_pem: bytes) -> bytes:
    """What the holder of a certificate's key signs to renew it without a handshake; see registry.proto.

    Raises:
        IdentityFault: there is no certificate in `certificate_pem`.
    """
    digest = hashlib.sha256(csr_pem).digest() + bytes.fromhex(pin(from_pem(certificate_pem)))
    return b"bridge renew-expired v1\0" + nonce + digest


def sign(key: ec.EllipticCurvePrivateKey, data: bytes) -> bytes:
    """ECDSA with SHA-256, DER."""
    return key.sign(data, ec.ECDSA(hashes.SHA256()))


def is_signed_by(certificate: x509.Certificate, signature: bytes, data: bytes) -> bool:
    """Whether the certificate's key signed `data`, as `sign` does."""
    try:
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            return False
        key.verify(signature, data, ec.ECDSA(hashes.SHA256()))
    except _UNREADABLE:
        return False
    return True


def to_pem(certificate: x509.Certificate) -> bytes:
    """The certificate, PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def from_pem(pem: bytes) -> x509.Certificate:
    """The first certificate in `pem`.

    Raises:
        IdentityFault: there is none.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except _UNREADABLE as fault:
        raise IdentityFault("not a certificate in PEM") from fault


def pin(certificate: x509.Certificate) -> str:
    """SHA-256 of the certificate's DER, hexadecimal."""
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


def issued_by(pem: bytes, signer: x509.Certificate) -> bool:
    """Whether the first certificate in `pem` bears the signature of that CA."""
    try:
        return _signed(from_pem(pem), signer)
    except IdentityFault:
        return False


def uris_of(certificate: x509.Certificate) -> tuple[str, ...]:
    """The URIs among the certificate's names.

    Raises:
        IdentityFault: its extensions cannot be read.
    """
    try:
        return _names_of(certificate.extensions)[0]
    except _UNREADABLE as fault:
        raise IdentityFault("the certificate's extensions cannot be read") from fault


def describe(pem: bytes) -> CertificateInfo:
    """What the first certificate in `pem` says.

    Raises:
        IdentityFault: there is none, or it cannot be read.
    """
    certificate = from_pem(pem)
    try:
        uris, dns_names, addresses = _names_of(certificate.extensions)
        return CertificateInfo(
            identity=single_identity(uris),
            serial=f"{certificate.serial_number:x}",
            not_before=certificate.not_valid_before_utc.timestamp(),
            not_after=certificate.not_valid_after_utc.timestamp(),
            dns_names=dns_names,
            addresses=addresses,
        )
    except _UNREADABLE as fault:
        raise IdentityFault("the certificate's names or times cannot be read") from fault


def _names_of(extensions: x509.Extensions) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    try:
        names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), (), ()
    addresses = (str(address) for address in names.get_values_for_type(x509.IPAddress))
    return (
        tuple(names.get_values_for_type(x509.UniformResourceIdentifier)),
        tuple(names.get_values_for_type(x509.DNSName)),
        tuple(addresses),
    )


def _subject(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _alternative_names(
    identity: SpiffeId, dns_names: Iterable[str], addresses: Iterable[str]
) -> x509.SubjectAlternativeName:
    names: list[x509.GeneralName] = [x509.UniformResourceIdentifier(str(identity))]
    try:
        names += [x509.DNSName(name) for name in dict.fromkeys(dns_names)]
        names += [x509.IPAddress(ipaddress.ip_address(address)) for address in dict.fromkeys(addresses)]
    except ValueError as fault:
        raise IdentityFault(f"not a host name or address: {fault}") from fault
    return x509.SubjectAlternativeName(names)


def _validity(builder: x509.CertificateBuilder, now: float, until: float) -> x509.CertificateBuilder:
    return builder.not_valid_before(datetime.fromtimestamp(now - CLOCK_SKEW_S, UTC)).not_valid_after(
        datetime.fromtimestamp(until, UTC)
    )


def _no_later(authority: Authority, until: float) -> float:
    return min(until, authority.certificate.not_valid_after_utc.timestamp())


def _key_usage(*, ca: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not ca,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=ca,
        crl_sign=ca,
        encipher_only=False,
        decipher_only=False,
    )
