"""Makes certificates and keys to try a secured federation with; not for production.

    python examples/federated/make_certificates.py --out=runs/certificates --nodes=3

Writes to `--out`: ca.crt; server.crt and server.key, for the SuperLink; node_1.key and node_1.pub
and so on, one pair for each SuperNode. Private keys are readable by their owner alone.
"""

from __future__ import annotations

import datetime
import ipaddress
import os
from pathlib import Path

from absl import app, flags
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FLAGS = flags.FLAGS
flags.DEFINE_string("out", "runs/certificates", "The folder for what comes out.")
flags.DEFINE_integer("nodes", 2, "How many SuperNodes get a key.", lower_bound=0)
flags.DEFINE_list("hosts", "localhost,127.0.0.1", "Names and addresses of the SuperLink.")
flags.DEFINE_integer("days", 30, "How long the certificates are valid.", lower_bound=1)


def make(out: Path, nodes: int, hosts: list[str], days: int = 30) -> None:
    """Write all files."""
    out.mkdir(parents=True, exist_ok=True)
    until = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(days=days)
    authority = ec.generate_private_key(ec.SECP384R1())
    ca = _certificate("keras_dynhp test authority", authority.public_key(), authority, until)
    (out / "ca.crt").write_bytes(ca.public_bytes(serialization.Encoding.PEM))
    server = ec.generate_private_key(ec.SECP384R1())
    certificate = _certificate("SuperLink", server.public_key(), authority, until, hosts, ca)
    (out / "server.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    _write_private(out / "server.key", server, serialization.PrivateFormat.PKCS8)
    for number in range(1, nodes + 1):
        key = ec.generate_private_key(ec.SECP384R1())
        _write_private(out / f"node_{number}.key", key, serialization.PrivateFormat.OpenSSH)
        public = key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
        (out / f"node_{number}.pub").write_bytes(public + b"\n")


def _certificate(name, public_key, authority, until, hosts=(), issuer=None):
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    is_ca = issuer is None
    key_id = x509.SubjectKeyIdentifier.from_public_key
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject if is_ca else issuer.subject)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(
            datetime.datetime.now(datetime.timezone.utc) - datetime.timedelta(minutes=5)
        )
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=0 if is_ca else None), True)
        .add_extension(key_id(public_key), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), False
        )
        .add_extension(
            x509.KeyUsage(
                digital_signature=not is_ca,
                content_commitment=False,
                key_encipherment=False,
                data_encipherment=False,
                key_agreement=False,
                key_cert_sign=is_ca,
                crl_sign=is_ca,
                encipher_only=False,
                decipher_only=False,
            ),
            True,
        )
    )
    if hosts:
        names = x509.SubjectAlternativeName([_host(host) for host in hosts])
        builder = builder.add_extension(names, False).add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False
        )
    return builder.sign(authority, hashes.SHA384())


def _host(host: str):
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _write_private(path: Path, key, form) -> None:
    data = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)


def main(argv):
    """Write the files that the flags ask for."""
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}")
    out = Path(FLAGS.out)
    make(out, FLAGS.nodes, FLAGS.hosts, FLAGS.days)
    print(f"Wrote {', '.join(sorted(path.name for path in out.iterdir()))} to {out}")


if __name__ == "__main__":
    app.run(main)
