"""Certificates made for a test: an authority, and what it signs."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_SIGNS = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)
_DAY = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Pair:
    """The files of a certificate and of its private key."""

    cert: Path
    key: Path


class Authority:
    """Signs certificates; its own is in *file*, and what it makes goes into its *directory*.

    Its own has the extensions that RFC 5280 requires of one (sections 4.2.1.1 to 4.2.1.3 and 4.2.1.9); what it signs
    has them only with *key_identifiers*.
    """

    def __init__(self, directory: Path, name: str = "authority", *, key_identifiers: bool = True) -> None:
        self._directory = directory
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _named(name)
        self._identifier = x509.SubjectKeyIdentifier.from_public_key(self._key.public_key())
        self._key_identifiers = key_identifiers
        made = self._certificate(self._name, self._key)
        made = made.add_extension(x509.BasicConstraints(True, 0), critical=True)
        made = made.add_extension(_SIGNS, critical=True).add_extension(self._identifier, critical=False)
        self.file = directory / f"{name}.pem"
        self.file.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))

    def pair(self, name: str, *hosts: str, passphrase: bytes | None = None) -> Pair:
        """Return a certificate called *name*, for *hosts*, and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        made = self._certificate(_named(name), key)
        if self._key_identifiers:
            identifier = x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(self._identifier)
            made = made.add_extension(identifier, critical=False)
        if hosts:
            made = made.add_extension(x509.SubjectAlternativeName([_host(each) for each in hosts]), critical=False)
        pair = Pair(self._directory / f"{name}.pem", self._directory / f"{name}.key")
        encryption = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
        pair.cert.write_bytes(made.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        pair.key.write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
        )
        return pair

    def _certificate(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - _DAY)
            .not_valid_after(now + _DAY)
        )


def _named(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)
