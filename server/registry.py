"""Which name belongs to which key and node: the coordinator's list of sites.

The list is a file of the coordinator; the SuperLink has its own list of nodes. ``bound`` compares the two
before a run, so that a name is only ever spoken by the holder of the key that was registered under it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from common.errors import IdentityError, StorageError
from common.files import read_json, write_json
from common.identity import fingerprint, line_of, read_public
from server.lock import alone

if TYPE_CHECKING:  # reading the list must not cost the import of the engine
    from server.control import Control, NodeInfo

VERSION = 1
Outcome = Literal["added", "known", "replaced", "registered again"]


@dataclass(frozen=True)
class Registered:
    """One site of the federation.

    Attributes
    ----------
    public_key : one OpenSSH line.
    node_id : what the SuperLink calls the holder of that key.
    added : when, ISO 8601 in UTC.
    """

    name: str
    public_key: str
    node_id: int
    added: str

    @property
    def pem(self) -> bytes:
        """The public key in the form in which the SuperLink holds it."""
        return read_public(self.public_key)


def read_registry(path: Path) -> dict[str, Registered]:
    """Read the list of sites, by name; empty if there is none yet.

    Raises
    ------
    IdentityError
        If the file is damaged or may not be read.
    """
    try:
        if not path.exists():
            return {}
        values = read_json(path)
        if values["version"] != VERSION:
            raise ValueError(f"version {values['version']!r}")
        sites = {name: _registered(name, entry) for name, entry in values["sites"].items()}
    except OSError as error:  # the folder may not even be looked into
        raise _unreadable(path, error) from None
    except (StorageError, KeyError, TypeError, AttributeError, ValueError, IdentityError) as error:
        if isinstance(error.__cause__, OSError):
            raise _unreadable(path, error.__cause__) from None
        raise IdentityError(
            f"{path} is not a list of sites that this version wrote ({error}); restore it from a copy, or "
            "delete it and run 'fedkalemia-server site add' for each site again"
        ) from None
    return sites


def _unreadable(path: Path, error: OSError) -> IdentityError:
    return IdentityError(
        f"{path} cannot be read: {(error.strerror or str(error)).lower()}; nothing is wrong with the list "
        "itself: run as the user that owns it, or give this user the right to read it"
    )


def write_registry(path: Path, sites: Mapping[str, Registered]) -> None:
    """Write the list of sites, atomically."""
    # The id as text: it has 64 bits, and many readers of JSON keep 53 of them.
    entries = {
        name: {"public_key": site.public_key, "node_id": str(site.node_id), "added": site.added}
        for name, site in sites.items()
    }
    write_json(path, {"version": VERSION, "sites": entries})


def nodes(registry: Mapping[str, Registered]) -> Mapping[int, str]:
    """Return the name of each node id."""
    return {site.node_id: site.name for site in registry.values()}


def bound(control: Control, path: Path) -> Mapping[int, str]:
    """Return the name of each node id, after checking every site against the SuperLink's own list.

    Raises
    ------
    IdentityError
        If the list of sites is empty, or a site's key is not the one of its node at the SuperLink.
    FederationError
        If the SuperLink cannot be reached.
    """
    registry = read_registry(path)
    if not registry:
        raise IdentityError(
            f"no site is registered in {path}; run 'fedkalemia-server site add {path.parent} NAME PUBKEY' "
            "for each"
        )
    wrong = unbound(registry, control.nodes())
    if wrong:
        name = wrong[0]
        raise IdentityError(
            f"the SuperLink does not know {_list(wrong)} by the registered key and node (its state may be "
            f"lost or from another coordinator); run 'fedkalemia-server site add {path.parent} {name} "
            f'"{registry[name].public_key}"\'' + (" and so on" if len(wrong) > 1 else "")
        )
    return nodes(registry)


def unbound(registry: Mapping[str, Registered], known: list[NodeInfo]) -> list[str]:
    """Return the names whose key and node id are not together in the SuperLink's list, sorted."""
    pairs = {(node.public_key, node.node_id) for node in known if node.status != "unregistered"}
    return sorted(site.name for site in registry.values() if (site.pem, site.node_id) not in pairs)


def add(
    control: Control, path: Path, name: str, public_key: str, *, replace: bool = False
) -> tuple[Registered, Outcome]:
    """Register a site's public key under its name, at the SuperLink and in the list.

    The same name and key again change nothing, unless the SuperLink lost its state: then the site gets a new
    node id. A crash in between leaves nothing that the same command does not mend.

    Raises
    ------
    IdentityError
        If the name is none, the key is none, the key belongs to another site, the name has another key and
        ``replace`` was not given, or the key was taken back before.
    FederationError
        If the SuperLink cannot be reached or refuses.
    StorageError
        If the list cannot be written, or another command is changing it.
    """
    check_name(name)
    pem = read_public(public_key)
    line = line_of(pem)
    # One at a time: whoever reads the list, asks the SuperLink and writes it must not lose another's site.
    with alone(path.parent):
        return _add(control, path, name, pem, line, replace=replace)


def _add(
    control: Control, path: Path, name: str, pem: bytes, line: str, *, replace: bool
) -> tuple[Registered, Outcome]:
    registry = read_registry(path)
    for other in registry.values():
        if other.name != name and other.public_key == line:
            raise IdentityError(
                f"the key {fingerprint(pem)} is already registered for {other.name}; each site makes its own "
                "key with 'fedkalemia-site init'"
            )
    old = registry.get(name)
    if old is not None and old.public_key != line and not replace:
        raise IdentityError(
            f"{name} is already registered with another key ({fingerprint(old.public_key)}); if the site "
            "made a new one, give --replace: the old key is then refused from that moment on"
        )
    known = control.nodes()
    node_id = _node_of(pem, name, known) or control.register(pem, name)
    kept = old is not None and old.public_key == line and old.node_id == node_id
    added = old.added if old is not None and kept else _now()
    site = Registered(name, line, node_id, added)
    write_registry(path, {**registry, name: site})
    # Also what an interrupted replacement left behind: one name, one key.
    for node in known:
        mine = node.name == name or (old is not None and node.node_id == old.node_id)
        if mine and node.node_id != node_id and node.status != "unregistered":
            control.unregister(node.node_id)
    if old is None:
        return site, "added"
    return site, "known" if kept else "registered again" if old.public_key == line else "replaced"


def remove(control: Control, path: Path, name: str) -> Registered:
    """Take a site out of the list and its node out of the SuperLink; its key is refused from then on.

    Raises
    ------
    IdentityError
        If there is no such site.
    FederationError
        If the SuperLink cannot be reached.
    StorageError
        If the list cannot be written, or another command is changing it.
    """
    with alone(path.parent):
        return _remove(control, path, name)


def _remove(control: Control, path: Path, name: str) -> Registered:
    registry = read_registry(path)
    if name not in registry:
        known = f"registered are {_list(sorted(registry))}" if registry else "no site is registered"
        raise IdentityError(f"no site is called {name!r}; {known}")
    site = registry[name]
    # First at the SuperLink: a crash in between leaves the name in the list, and the command runs again.
    if any(node.node_id == site.node_id and node.status != "unregistered" for node in control.nodes()):
        control.unregister(site.node_id)
    write_registry(path, {key: value for key, value in registry.items() if key != name})
    return site


def _node_of(pem: bytes, name: str, known: list[NodeInfo]) -> int | None:
    for node in known:
        if node.public_key != pem:
            continue
        if node.status == "unregistered":
            raise IdentityError(
                f"the key {fingerprint(pem)} was taken back, and the SuperLink refuses it for good; run "
                f"'fedkalemia-site key renew' at {name} and register the new one"
            )
        return node.node_id
    return None


def check_name(name: str) -> None:
    """Raise IdentityError if a site cannot have this name."""
    from common.protocol import SITE_NAME  # its home; imported here because it brings the engine along

    if not SITE_NAME.fullmatch(name):
        raise IdentityError(
            f"{name!r} is no site name: 1 to 32 lower-case letters, digits and hyphens, beginning with a "
            "letter; it must be the name in the site's own site.toml"
        )


def _registered(name: str, entry: Mapping[str, Any]) -> Registered:
    check_name(name)
    public_key = line_of(read_public(str(entry["public_key"])))
    return Registered(name, public_key, int(entry["node_id"]), str(entry["added"]))


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
