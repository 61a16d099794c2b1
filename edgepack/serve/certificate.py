"""A certificate for one serving: phones allow threads and cameras only to secure origins."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from edgepack.errors import InputError

_DAYS = 2


@dataclass(frozen=True)
class Certificate:
    """A server's TLS context, and the SHA-256 fingerprint that a phone shows of its certificate."""

    context: ssl.SSLContext
    fingerprint: str


def certificate(folder: Path, address: str) -> Certificate:
    """A certificate of an IP address, made by openssl; its key lies in ``folder``, which nobody else may read, and goes with it.

    Raises:
        InputError: openssl is missing or fails.
    """
    openssl = shutil.which("openssl")
    if openssl is None:
        raise InputError("openssl is not installed; it makes the certificate for https", "install it, or serve with --no-tls")
    key, held = folder / "key.pem", folder / "certificate.pem"
    command = [
        *(openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-sha256"),
        *("-days", str(_DAYS), "-subj", "/CN=edgepack serve", "-addext", f"subjectAltName=IP:{address},DNS:localhost,IP:127.0.0.1"),
        *("-addext", "extendedKeyUsage=serverAuth", "-keyout", str(key), "-out", str(held)),
    ]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if ended.returncode:
        words = (ended.stderr.strip().splitlines() or ["it said nothing"])[-1][:200]
        raise InputError(f"openssl made no certificate ({words})", "serve with --no-tls, or on this machine alone")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(held, key)
    digest = hashlib.sha256(ssl.PEM_cert_to_DER_cert(held.read_text())).hexdigest().upper()
    return Certificate(context, ":".join(digest[at : at + 2] for at in range(0, len(digest), 2)))
