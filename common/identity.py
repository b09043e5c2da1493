"""Keys, secrets and certificates: who somebody is in the federation, and how that is kept in files.

A site is known by the public half of an elliptic-curve key that never leaves the site; the coordinator by a
certificate that the federation's own authority signed. What is secret is written readable for its owner only.
"""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from common.errors import IdentityError
from common.files import storage_errors

SECRET_MODE = 0o600
SECRET_BYTES = 32
WARN_DAYS = 30.0
#: Curves that the engine takes and that are still strong enough.
CURVES = ("secp256r1", "secp384r1", "secp521r1")
PUBLIC_HINT = (
    "a public key is one line 'ecdsa-sha2-nistp384 AAAA...', as 'fedkalemia-site init' prints it and "
    "writes it to node/node.pub"
)


def new_node_key() -> bytes:
    """Return a new private key (NIST P-384) in OpenSSH's PEM format, the only one the engine's node reads."""
    return ec.generate_private_key(ec.SECP384R1()).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    )


def new_secret() -> bytes:
    """Return random bytes for a secret file; the engine reads such a file as it is, so no line end."""
    return os.urandom(SECRET_BYTES)


def read_private(pem: bytes, where: str = "the private key") -> ec.EllipticCurvePrivateKey:
    """Return the elliptic-curve private key in ``pem`` (OpenSSH or PKCS8, without a password).

    Raises
    ------
    IdentityError
        If it is none. The sentence never quotes what was read.
    """
    for load in (serialization.load_ssh_private_key, serialization.load_pem_private_key):
        with suppress(ValueError, TypeError, UnsupportedAlgorithm):
            key = load(pem, password=None)
            if isinstance(key, ec.EllipticCurvePrivateKey):
                return key
    raise IdentityError(
        f"{where} is not an elliptic-curve private key in PEM format without a password; restore it from a "
        "copy, or make a new one"
    )


def public_line(pem: bytes) -> str:
    """Return the public half of a private key as one OpenSSH line, without a comment.

    Raises
    ------
    IdentityError
        If ``pem`` holds no elliptic-curve private key.
    """
    return _line(read_private(pem).public_key())


def read_public(text: str) -> bytes:
    """Return a public key in the form in which the engine registers nodes (PEM, SubjectPublicKeyInfo).

    Parameters
    ----------
    text : one OpenSSH line, with or without a comment, or a PEM block.

    Raises
    ------
    IdentityError
        If it is no public key of a NIST curve, or a private key was given by mistake.
    """
    if "PRIVATE KEY" in text:
        raise IdentityError(
            "this is a private key, which must never leave its site: delete this copy, run "
            f"'fedkalemia-site key renew' there and give the public key; {PUBLIC_HINT}"
        )
    data = text.strip().encode("utf-8", "replace")
    key: object = None
    for load in (serialization.load_ssh_public_key, serialization.load_pem_public_key):
        with suppress(ValueError, TypeError, UnsupportedAlgorithm):
            key = load(data)
            break
    if key is None:
        raise IdentityError(f"this is no public key: {_shown(text)}; {PUBLIC_HINT}")
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name not in CURVES:
        kind = (
            key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else type(key).__name__.lstrip("_")
        )
        raise IdentityError(f"this public key is of kind {kind}, which the engine refuses; {PUBLIC_HINT}")
    return key.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


def line_of(public: bytes) -> str:
    """Return a public key that ``read_public`` returned as one OpenSSH line."""
    key = serialization.load_pem_public_key(public)
    assert isinstance(key, ec.EllipticCurvePublicKey)
    return _line(key)


def fingerprint(public: bytes | str) -> str:
    """Return the fingerprint ``SHA256:...`` of a public key, the same that ``ssh-keygen -l`` shows."""
    line = line_of(public) if isinstance(public, bytes) else line_of(read_public(public))
    digest = hashlib.sha256(base64.b64decode(line.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _line(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def _shown(text: str) -> str:
    first = text.strip().split("\n")[0]
    return repr(first if len(first) <= 40 else f"{first[:37]}...")


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Attributes
    ----------
    subject : name as in RFC 4514.
    names : DNS names and addresses it is valid for.
    not_before, not_after : validity, in UTC.
    authority : it may sign others.
    """

    path: Path
    subject: str
    names: tuple[str, ...]
    not_before: datetime
    not_after: datetime
    authority: bool
    raw: x509.Certificate = field(repr=False)

    def days_left(self, now: datetime) -> float:
        """Return the days until it ends; negative once it has ended."""
        return (self.not_after - now).total_seconds() / 86400

    def belongs_to(self, key: ec.EllipticCurvePrivateKey) -> bool:
        """Return whether ``key`` is the private half of this certificate's key."""
        return _spki(self.raw.public_key()) == _spki(key.public_key())

    def signed_by(self, other: Certificate) -> bool:
        """Return whether ``other`` is an authority that signed this certificate."""
        if not other.authority:
            return False
        with suppress(ValueError, TypeError, InvalidSignature):
            self.raw.verify_directly_issued_by(other.raw)
            return True
        return False


def read_certificate(path: Path) -> Certificate:
    """Read a certificate in PEM format.

    Raises
    ------
    IdentityError
        If the file is missing, cannot be read or is no certificate.
    """
    try:
        raw = x509.load_pem_x509_certificate(path.read_bytes())
    except FileNotFoundError:
        raise IdentityError(f"{path} does not exist; it should hold a certificate in PEM format") from None
    except OSError as error:
        raise IdentityError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError:
        raise IdentityError(
            f"{path} is not a certificate in PEM format; restore it or copy it again"
        ) from None
    return Certificate(
        path=path,
        subject=raw.subject.rfc4514_string(),
        names=_names(raw),
        not_before=raw.not_valid_before_utc,
        not_after=raw.not_valid_after_utc,
        authority=_is_authority(raw),
        raw=raw,
    )


def _names(raw: x509.Certificate) -> tuple[str, ...]:
    try:
        names = raw.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (x509.ExtensionNotFound, ValueError):
        return ()
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    return (*names.get_values_for_type(x509.DNSName), *addresses)


def _is_authority(raw: x509.Certificate) -> bool:
    try:
        return raw.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, ValueError):
        return False


def _spki(key: object) -> bytes:
    encode = key.public_bytes  # type: ignore[attr-defined]
    data: bytes = encode(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return data


def write_secret(path: Path, data: bytes) -> None:
    """Write a file that only its owner may read, whole or not at all.

    At no moment, and under no umask, may anybody else read it or a temporary copy of it. A missing parent
    folder is made for the owner only.

    Raises
    ------
    StorageError
        If the disk is full or the folder cannot be written. No temporary file is left.
    """
    with storage_errors(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                os.fchmod(file.fileno(), SECRET_MODE)
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:  # Ctrl-C too must not leave a copy of a secret behind
            with suppress(OSError):
                Path(name).unlink()
            raise


def read_secret(path: Path) -> bytes:
    """Return the exact bytes of a secret file.

    Raises
    ------
    IdentityError
        If it is missing, empty or cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise IdentityError(f"{path} does not exist; it should hold a secret or a private key") from None
    except OSError as error:
        raise IdentityError(
            f"{path} cannot be read: {error.strerror or error}; run as the user that owns it"
        ) from None
    if not data:
        raise IdentityError(f"{path} is empty; restore it from a copy, or make it again")
    return data


def open_to_others(path: Path) -> bool:
    """Return whether anybody but its owner may read or write the file."""
    return bool(path.stat().st_mode & 0o077)
