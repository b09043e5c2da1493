"""The two folders that a site needs to take part in a deployment: of its node, and of its gate.

What is secret is readable for its owner only, and what is there already is never written over: a key that was
registered, or a ledger's key, could not be had back.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from client.gate.ledger import make_key
from client.node import LISTEN, Node, load_node, write_public
from common.addresses import split_address
from common.errors import ConfigurationError, IdentityError
from common.files import storage_errors, write_atomic
from common.identity import new_node_key, new_secret, read_certificate, read_secret, write_secret

FOLDER_MODE = 0o700
SECRET = "executor.secret"


def check_new(*, server: str = "", listen: str = LISTEN, authority: Path | None = None) -> None:
    """Check what ``make_folders`` would be given, so that nothing is half-written.

    Raises
    ------
    ConfigurationError, IdentityError
    """
    for name, address in (("server", server), ("listen", listen)):
        if address:
            split_address(address, name)
    if authority is not None and not read_certificate(authority).authority:
        raise IdentityError(f"{authority} is not the certificate of an authority; ask for pki/ca.crt")


def make_folders(
    folder: Path, *, name: str, server: str = "", listen: str = LISTEN, authority: Path | None = None
) -> Node:
    """Make ``node`` and ``gate`` in a site folder, with new keys where there are none.

    Parameters
    ----------
    folder : the site folder.
    name : the site's name.
    server : ``host:port`` of the coordinator's front end; may be written into ``node.toml`` later.
    listen : ``host:port`` on which the node waits for the executor.
    authority : the federation's certificate, which is copied; may be put in place later.

    Raises
    ------
    ConfigurationError
        If a value is wrong, or the node folder belongs to another site or has other addresses.
    IdentityError, StorageError, LedgerError
    """
    check_new(server=server, listen=listen, authority=authority)
    node = Node(folder.resolve() / "node", name, server, listen)
    gate = folder.resolve() / "gate"
    if node.file.is_file() and load_node(node.folder) != node:
        raise ConfigurationError(f"{node.file} exists and differs; edit it, or choose another folder")
    for place in (node.folder, gate, node.flower_home, gate / "flower"):
        with storage_errors(place):
            place.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            os.chmod(place, FOLDER_MODE)  # noqa: PTH101
    values = {"name": name, "server": server, "listen": listen}
    # JSON strings are TOML strings.
    write_atomic(node.file, "".join(["[node]\n", *(f"{k} = {json.dumps(v)}\n" for k, v in values.items())]))
    if not node.key.exists():
        write_secret(node.key, new_node_key())
    write_public(node)
    _share_secret(node.secret, gate / SECRET)
    make_key(gate)
    if authority is not None and authority.resolve() != node.authority:
        write_atomic(node.authority, authority.read_bytes())
    return node


def _share_secret(*places: Path) -> None:
    """Give node and executor the same secret."""
    known = {read_secret(place) for place in places if place.exists()}
    if len(known) > 1:
        raise IdentityError(f"{places[0]} and {places[1]} differ; delete one of them and run this again")
    secret = known.pop() if known else new_secret()
    for place in places:
        if not place.exists():
            write_secret(place, secret)


def renew_key(folder: Path) -> tuple[Node, str]:
    """Make a new private key for a node; nothing else is touched.

    Parameters
    ----------
    folder : a site folder, or its node folder.

    Returns
    -------
    The node and its new public key, one OpenSSH line.
    """
    inside = folder / "node"
    node = load_node(inside if inside.is_dir() else folder)
    write_secret(node.key, new_node_key())
    return node, write_public(node)
