"""An instance that speaks TLS, and its certificate."""

from __future__ import annotations

import datetime
import ipaddress
import re
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.instance import Instance


class Secure(Instance):
    """One that speaks TLS, with key.pem and certificate.pem of the folder `pems`; its conf begins in [server]."""

    context: ssl.SSLContext

    def __init__(self, folder: Path, redis: str, pems: Path, conf: str = "") -> None:
        self.pems = pems
        self.context = ssl.create_default_context(cafile=str(pems / "certificate.pem"))
        super().__init__(folder, redis, f"[server]\n{conf}")

    def endpoint(self) -> str:
        """Where it listens."""
        files = f"privateKey={self.pems}/key.pem:certKey={self.pems}/certificate.pem"
        return f"ssl:{self.port}:interface=127.0.0.1:{files}"

    def launch(self) -> None:
        """Start it; `listen` has the port that counts, not --port."""
        listen = f"[server]\nlisten = {self.endpoint()}\n"
        text = re.sub(r"\[server\]\n(listen = .*\n)?", lambda _: listen, self.conf.read_text(), count=1)
        self.conf.write_text(text)
        super().launch()


def certify(folder: Path, name: str = "RestMQ's tests") -> None:
    """Write key.pem and certificate.pem, the key's self-signed certificate for 127.0.0.1, localhost and other.test."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.datetime.now(datetime.timezone.utc)
    issuer = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    names = [x509.IPAddress(ipaddress.IPv4Address("127.0.0.1")), x509.DNSName("localhost"), x509.DNSName("other.test")]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(issuer)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "key.pem").write_bytes(secret)
    (folder / "certificate.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
