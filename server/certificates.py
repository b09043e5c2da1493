"""Whether the coordinator's certificate, its key and the federation's authority belong together."""

from __future__ import annotations

from pathlib import Path

from common.errors import IdentityError
from common.identity import read_certificate, read_private, read_secret

_RENEW = "run 'fedkalemia-server pki renew' to write both again"


def check_certificate(certificate: Path, key: Path, authority: Path) -> None:
    """Check that a certificate's key is there and that the authority signed it.

    Raises
    ------
    IdentityError
        Naming the file that is missing, cannot be read, is none, or does not belong to the others.
    """
    found, signer = read_certificate(certificate), read_certificate(authority)
    if not found.belongs_to(read_private(read_secret(key), str(key))):
        raise IdentityError(f"{key} is not the key of {certificate}; {_RENEW}")
    if not found.signed_by(signer):
        raise IdentityError(f"{certificate} was not signed by {authority}; {_RENEW}")
