"""The federation's certificate authority and the coordinator's certificate.

The authority signs certificates of the coordinator and nothing else; its key is needed twice a year at most
and may live on an offline medium. Sites trust the authority's certificate, so that the coordinator's own can
be renewed without touching a site.
"""

from __future__ import annotations

import ipaddress
import os
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from common.addresses import split_address
from common.errors import IdentityError
from common.files import storage_errors
from common.identity import WARN_DAYS, Certificate, new_secret, read_certificate, read_private, read_secret
from server.coordinator import Coordinator, load_coordinator, settings_text
from server.front import CONFIGURATION, render

AUTHORITY_DAYS = 3653
SERVER_DAYS = 397
MAX_SERVER_DAYS = 1200
ALWAYS = ("localhost", "127.0.0.1", "superlink")
#: Clocks differ: a certificate is valid a little before it was made.
EARLIER = timedelta(hours=1)
OPEN, SECRET = 0o644, 0o600


@dataclass(frozen=True)
class _File:
    """What is to be written, and who may read it."""

    data: bytes
    mode: int = OPEN


def init(
    coordinator: Coordinator,
    *,
    key_path: Path | None = None,
    days: int = SERVER_DAYS,
    now: datetime | None = None,
) -> bool:
    """Make the authority, the coordinator's certificate, the runner's secret and the front end's folder.

    Parameters
    ----------
    coordinator : from ``make_coordinator``; its folder may be missing or empty.
    key_path : where the authority's private key goes; by default into the folder.
    days : how long the coordinator's certificate is valid.

    Returns
    -------
    bool
        False if the folder already has exactly this coordinator, and nothing was written.

    Raises
    ------
    IdentityError
        If the folder has another coordinator, or part of one. What is there is never overwritten.
    StorageError
        If something cannot be written; then nothing is left of the attempt.
    """
    _check_days(days)
    key_path = (key_path or coordinator.authority_key).resolve()
    if _is_there(coordinator, key_path):
        return False
    now = now or datetime.now(UTC)
    authority_key = ec.generate_private_key(ec.SECP384R1())
    authority = _authority(authority_key, now)
    files = {
        key_path: _File(_pem(authority_key), SECRET),
        coordinator.authority: _File(_text(authority)),
        coordinator.secret: _File(new_secret(), SECRET),
        **_server_files(coordinator, authority, authority_key, days, now),
        # Last: a folder with server.toml is a whole one.
        coordinator.file: _File(settings_text(coordinator).encode()),
    }
    _place(files, new=True)
    return True


def renew(
    coordinator: Coordinator,
    *,
    key_path: Path | None = None,
    days: int = SERVER_DAYS,
    now: datetime | None = None,
) -> Certificate:
    """Make a new key and certificate for the coordinator, signed by the same authority.

    Nothing else changes: sites, their keys, the SuperLink's state and the runs stay as they are. The names
    are those of ``server.toml`` now. The SuperLink and the front end show it once they are started again.

    Raises
    ------
    IdentityError
        If the authority's key is missing or belongs to another authority, or the authority itself has ended.
    StorageError
        If something cannot be written; then the old certificate is still in place.
    """
    _check_days(days)
    now = now or datetime.now(UTC)
    authority = read_certificate(coordinator.authority)
    key_path = key_path or coordinator.authority_key
    if not key_path.is_file():
        raise IdentityError(
            f"the authority's private key is not at {key_path}; attach the medium that holds it and name the "
            "file with --ca-key"
        )
    key = read_private(read_secret(key_path), str(key_path))
    if not authority.authority or not authority.belongs_to(key):
        raise IdentityError(
            f"{key_path} is not the private key of {coordinator.authority}; give the key that was written "
            "together with it"
        )
    if authority.not_after <= now:
        raise IdentityError(
            f"the authority itself expired on {authority.not_after:%Y-%m-%d}; make a new coordinator folder "
            "with 'fedkalemia-server pki init', register each site there and give each the new ca.crt"
        )
    _place(_server_files(coordinator, authority.raw, key, days, now))
    return read_certificate(coordinator.certificate)


def ends_first(coordinator: Coordinator) -> str:
    """Return a warning if the authority ends before, or soon after, the server certificate; else ''."""
    authority, server = read_certificate(coordinator.authority), read_certificate(coordinator.certificate)
    if authority.not_after - server.not_after > timedelta(days=WARN_DAYS):
        return ""
    return (
        f"the authority itself ends on {authority.not_after:%Y-%m-%d}, and no certificate can be valid for "
        "longer: plan a new one with 'fedkalemia-server pki init' in another folder, and give each site its "
        "ca.crt"
    )


def names(coordinator: Coordinator) -> list[str]:
    """Return the names and addresses that the coordinator's certificate is valid for."""
    host, _ = split_address(coordinator.superlink, "superlink")
    return list(dict.fromkeys([*coordinator.hosts, host, *ALWAYS]))


def _is_there(coordinator: Coordinator, key_path: Path) -> bool:
    """Return whether exactly this coordinator is there; refuse another one, or the rest of one."""
    places = [coordinator.authority, coordinator.authority_key, coordinator.certificate, coordinator.secret]
    if coordinator.file.exists():
        if load_coordinator(coordinator.folder) != coordinator:
            raise IdentityError(
                f"{coordinator.file} already has a coordinator with other addresses; edit it and run "
                f"'fedkalemia-server pki renew {coordinator.folder}', or choose another folder"
            )
        # The authority's key may have been taken offline since.
        missing = [path for path in (*places[:1], *places[2:], coordinator.key) if not path.exists()]
        if missing:
            raise IdentityError(
                f"{coordinator.folder} already has a coordinator, but {missing[0]} is missing; restore it "
                "from a copy: an authority is never overwritten"
            )
        return True
    for path in (key_path, *places):
        if path.exists():
            raise IdentityError(
                f"{path} already exists, and an authority is never overwritten; choose another folder, or "
                "move that file away if it is not needed any more"
            )
    return False


def _server_files(
    coordinator: Coordinator,
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    days: int,
    now: datetime,
) -> dict[Path, _File]:
    # Signed at every connection, and many times faster than the authority's kind.
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = _text(_server(key, names(coordinator), authority, authority_key, now, days))
    front = coordinator.front
    return {
        coordinator.key: _File(_pem(key), SECRET),
        coordinator.certificate: _File(certificate),
        front / "server.key": _File(_pem(key), SECRET),
        front / "server.crt": _File(certificate),
        front / "ca.crt": _File(_text(authority)),
        front / CONFIGURATION: _File(render(coordinator).encode()),
    }


def _authority(key: ec.EllipticCurvePrivateKey, now: datetime) -> x509.Certificate:
    identifier = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    # Two authorities must not look the same in a message.
    name = _name(f"fedkalemia authority {identifier.digest.hex()[:8]}")
    return (
        _dated(now, now + timedelta(days=AUTHORITY_DAYS))
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(identifier, critical=False)
        .sign(key, hashes.SHA384())
    )


def _server(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
    now: datetime,
    days: int,
) -> x509.Certificate:
    end = min(now + timedelta(days=days), authority.not_valid_after_utc)
    return (
        _dated(now, end)
        .subject_name(_name("fedkalemia coordinator"))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general(host) for host in hosts]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
        )
        .sign(authority_key, hashes.SHA384())
    )


def _dated(now: datetime, end: datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - EARLIER)
        .not_valid_after(end)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _general(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host.rstrip("."))


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _text(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _check_days(days: int) -> None:
    if not 1 <= days <= MAX_SERVER_DAYS:
        raise IdentityError(f"--days {days}: a certificate is valid for 1 to {MAX_SERVER_DAYS} days")


def _place(files: Mapping[Path, _File], *, new: bool = False) -> None:
    """Write several files that belong together: all are on the disk before the first takes its place.

    With ``new`` none of them may exist, and after an error none does, nor a folder made for them.
    """
    folders: list[Path] = []
    waiting: dict[Path, Path] = {}
    placed: list[Path] = []
    try:
        for path, file in files.items():
            with storage_errors(path):
                folders += _make_folder(path.parent)
                handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
                waiting[path] = Path(name)
                with os.fdopen(handle, "wb") as out:
                    out.write(file.data)
                    out.flush()
                    os.fsync(out.fileno())
                    os.fchmod(out.fileno(), file.mode)
        for path, temporary in waiting.items():
            with storage_errors(path):
                temporary.replace(path)
                placed.append(path)
    except BaseException:  # Ctrl-C too must not leave half a coordinator behind
        for path in (*waiting.values(), *(placed if new else ())):
            with suppress(OSError):
                path.unlink()
        for folder in reversed(folders):
            with suppress(OSError):
                folder.rmdir()
        raise


def _make_folder(folder: Path) -> list[Path]:
    """Make a folder and its missing parents, for the owner only; return those made, outermost first."""
    missing = []
    while not folder.exists():
        missing.append(folder)
        folder = folder.parent
    for each in reversed(missing):
        each.mkdir(mode=0o700)
    return missing[::-1]
