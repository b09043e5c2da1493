"""``fedkalemia-server pki``, ``site``, ``front`` and ``doctor``: who is who in the federation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from common.errors import IdentityError
from common.identity import read_public
from common.logs import say
from server.coordinator import FRONT_PORT, SUPERLINK, load_coordinator, make_coordinator

if TYPE_CHECKING:
    from server.control import Control

Home = Annotated[Path, typer.Argument(metavar="HOME", help="Coordinator folder, made by 'pki init'")]
SiteName = Annotated[str, typer.Argument(metavar="NAME", help="The site's name, as in its own site.toml")]
AuthorityKey = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE", help="Private key of the authority, if it is kept elsewhere (offline medium)"
    ),
]
Days = Annotated[int, typer.Option(help="Days the coordinator's certificate is valid")]
LONGEST_KEY_FILE = 10_000

pki_app = typer.Typer(help="The federation's certificate authority.", no_args_is_help=True)
site_app = typer.Typer(help="Which sites belong to the federation.", no_args_is_help=True)


def add_commands(app: typer.Typer) -> None:
    """Add this module's commands to ``fedkalemia-server``."""
    app.add_typer(pki_app, name="pki")
    app.add_typer(site_app, name="site")
    app.command()(front)
    app.command()(doctor)


@pki_app.command("init")
def pki_init(
    home: Home,
    host: Annotated[
        list[str],
        typer.Option(help="Name or address by which sites reach the front end; repeat it for several"),
    ],
    superlink: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="The SuperLink, on the coordinator's own network")
    ] = SUPERLINK,
    front_port: Annotated[
        int, typer.Option(help="Port of the front end, the only one sites see")
    ] = FRONT_PORT,
    ca_key: AuthorityKey = None,
    days: Days = 397,
) -> None:
    """Make a coordinator folder: authority, certificate, secret, front end. Never overwrites one."""
    from server import pki

    coordinator = make_coordinator(home, tuple(host), front_port, superlink)
    if not pki.init(coordinator, key_path=ca_key, days=days):
        say(f"{coordinator.folder} already has this coordinator; nothing was changed")
        return
    key = ca_key or coordinator.authority_key
    say(f"authority    {coordinator.authority}  (give every site a copy)")
    say(f"its key      {key}  (keep a copy offline; it is needed for 'pki renew' only)")
    say(f"certificate  {coordinator.certificate}  for {', '.join(pki.names(coordinator))}")
    say(f"front end    port {coordinator.front_port}, start it with 'fedkalemia-server front {home}'")


@pki_app.command("renew")
def pki_renew(home: Home, ca_key: AuthorityKey = None, days: Days = 397) -> None:
    """Make a new key and certificate for the coordinator. Sites, registrations and runs stay as they are."""
    from server import pki

    coordinator = load_coordinator(home)
    certificate = pki.renew(coordinator, key_path=ca_key, days=days)
    say(f"certificate  {certificate.path}  valid until {certificate.not_after:%Y-%m-%d}")
    say("start the SuperLink and the front end again to use it; sites need nothing new")
    if warning := pki.ends_first(coordinator):
        say(f"warning: {warning}")


@site_app.command("add")
def site_add(
    home: Home,
    name: SiteName,
    public_key: Annotated[
        str,
        typer.Argument(metavar="PUBKEY", help="The line that 'fedkalemia-site init' printed, or its file"),
    ],
    replace: Annotated[
        bool, typer.Option("--replace", help="The site has a new key; refuse its old one from now on")
    ] = False,
) -> None:
    """Register a site's public key under its name. The same again changes nothing."""
    from server.registry import add, check_name

    coordinator = load_coordinator(home)
    check_name(name)
    text = _key_text(public_key)
    read_public(text)  # before the engine is loaded, which takes seconds
    with _control(home) as control:
        site, outcome = add(control, coordinator.registry, name, text, replace=replace)
    say(f"{site.name}: {outcome}, node {site.node_id}")


@site_app.command("list")
def site_list(home: Home) -> None:
    """List the registered sites with their keys' fingerprints."""
    from common.identity import fingerprint
    from server.registry import read_registry

    registry = read_registry(load_coordinator(home).registry)
    width = max((len(name) for name in registry), default=0)
    for name, site in sorted(registry.items()):
        say(f"{name:<{width}}  node {site.node_id:>20}  {fingerprint(site.public_key)}  {site.added[:10]}")
    if not registry:
        say(f"no site is registered; run 'fedkalemia-server site add {home} NAME PUBKEY'")


@site_app.command("remove")
def site_remove(home: Home, name: SiteName) -> None:
    """Refuse a site's key from now on. Its data, at the site, is not touched."""
    from server.registry import remove

    coordinator = load_coordinator(home)
    with _control(home) as control:
        remove(control, coordinator.registry, name)
    say(f"{name}: removed; its key is refused from now on, and can never be registered again")


def front(
    home: Annotated[
        Path, typer.Argument(metavar="HOME", help="Coordinator folder, or its folder 'front' alone")
    ],
) -> None:
    """Run the front end, the only thing of the coordinator that sites can reach."""
    from server.front import run

    run(home)


def doctor(
    home: Home,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for programs")] = False,
) -> None:
    """Check folder, certificates, ports, registered sites, clock and runs; each red line says what to do."""
    from common.doctor import show
    from server.doctor import examine

    raise typer.Exit(show(examine(load_coordinator(home)), as_json=as_json))


def _control(home: Path) -> Control:
    from server.control import Control

    return Control(load_coordinator(home))


def _key_text(text: str) -> str:
    """Return the public key that was given, or what is in the file that was given."""
    if text.lstrip().startswith(("ecdsa-", "ssh-", "-----BEGIN")):
        return text
    path = Path(text)
    try:
        if path.stat().st_size > LONGEST_KEY_FILE:
            raise IdentityError(f"{path} is too large for a public key; give the site's node/node.pub")
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise IdentityError(
            f"{text[:80]!r} is neither a public key nor a file that can be read "
            f"({(error.strerror or str(error)).lower()}); give the line that 'fedkalemia-site init' printed, "
            "in quotes, or the file node/node.pub"
        ) from None
