"""The coordinator's check-up: folder, certificates, ports, sites, clock, database, runs."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from common.addresses import split_address
from common.doctor import Check, attempt, disk, expiry, secret_file
from common.health import NoAnswerError, ask, clock
from common.identity import read_certificate, read_private, read_secret
from common.taskloop import check_engine
from server import bundle, control, runner
from server.control import ONLINE, UNREGISTERED, Control, NodeInfo, RunInfo
from server.coordinator import Coordinator
from server.front import CONFIGURATION, render
from server.pki import names
from server.registry import read_registry, unbound
from server.superlink import DATABASE_ADVICE, database_trouble

PACKAGES = ("fedkalemia", "flwr", "torch")
#: The engine's front end must not show these to a site.
HIDDEN = ("/v1/control/list-runs", "/openapi.json")


def examine(coordinator: Coordinator, now: datetime | None = None) -> list[Check]:
    """Look at everything that can be seen from the coordinator's folder; change nothing."""
    now = now or datetime.now(UTC)
    renew = f"run 'fedkalemia-server pki renew {coordinator.folder}' and start SuperLink and front end again"
    checks = [
        *attempt("folder", lambda: folder(coordinator), "run as the user that owns the folder"),
        *secrets(coordinator, renew),
        *attempt("disk", lambda: disk(coordinator.folder), "free some space"),
        *attempt("versions", versions, "install fedkalemia again"),
        *attempt("authority", lambda: authority(coordinator, now), "restore pki/ca.crt from a copy"),
        *attempt("certificate", lambda: certificate(coordinator, now, renew), renew),
        *attempt("front files", lambda: front_files(coordinator, renew), renew),
        *attempt(
            "database", lambda: database(coordinator.database), "restore it from a copy, or move it away"
        ),
    ]
    link = attempt("superlink", lambda: superlink(coordinator), "see what listens there; start the SuperLink")
    checks += [*link, *attempt("front", lambda: front(coordinator), "see what listens there; start 'front'")]
    if link[0].state != "ok":
        return [*checks, Check("sites", "not checked", "the SuperLink does not answer")]
    return [*checks, *attempt("sites", lambda: sites_and_runs(coordinator, now), "see the SuperLink's log")]


def folder(coordinator: Coordinator) -> Iterator[Check]:
    """Check that the coordinator's folder can be written and shows its keys to nobody else."""
    if not os.access(coordinator.folder, os.W_OK | os.X_OK):
        yield Check(
            "folder",
            "failed",
            f"{coordinator.folder} cannot be written",
            "run as the user that owns the folder",
        )
        return
    yield Check("folder", "ok", str(coordinator.folder))


def secrets(coordinator: Coordinator, renew: str) -> list[Check]:
    """Check that keys and secrets are there and for their owner's eyes only."""
    back = "restore it from a copy, with mode 0600"
    checks = [
        secret_file("server key", coordinator.key, renew),
        secret_file("front key", coordinator.front / "server.key", renew),
        secret_file("runner secret", coordinator.secret, back),
    ]
    if coordinator.authority_key.exists():
        return [*checks, secret_file("authority key", coordinator.authority_key, back)]
    return [*checks, Check("authority key", "ok", "kept elsewhere; 'pki renew' needs it with --ca-key")]


def versions() -> Check:
    """Say which versions run here, and check the engine's; every site must have the same fedkalemia."""
    check_engine({**runner.USES, **control.USES, **bundle.USES})
    found = [f"{package} {_version(package)}" for package in PACKAGES]
    return Check("versions", "ok", ", ".join([*found, f"python {platform.python_version()}"]))


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def authority(coordinator: Coordinator, now: datetime) -> Check:
    """Check the federation's authority."""
    found = read_certificate(coordinator.authority)
    plan = "make a new coordinator folder with 'pki init', register each site there, give each the new ca.crt"
    if not found.authority:
        advice = "restore pki/ca.crt from a copy"
        return Check("authority", "failed", f"{coordinator.authority} is not an authority", advice)
    return expiry("authority", found, now, plan)


def certificate(coordinator: Coordinator, now: datetime, renew: str) -> Iterator[Check]:
    """Check the coordinator's certificate: its key, who signed it, its names, how long it lasts."""
    name, path = "certificate", coordinator.certificate
    found = read_certificate(path)
    if not found.belongs_to(read_private(read_secret(coordinator.key), str(coordinator.key))):
        yield Check(name, "failed", f"{coordinator.key} is not the key of {path}", renew)
    if not found.signed_by(read_certificate(coordinator.authority)):
        yield Check(name, "failed", f"{coordinator.authority} did not sign {path}", renew)
    if missing := [host for host in names(coordinator) if host.rstrip(".") not in found.names]:
        yield Check(name, "failed", f"not valid for {', '.join(missing)}, as server.toml asks", renew)
    yield expiry(name, found, now, renew)


def front_files(coordinator: Coordinator, renew: str) -> Check:
    """Check that the front end's folder holds what the coordinator has."""
    front = coordinator.front
    pairs = [
        (coordinator.authority, "ca.crt"),
        (coordinator.certificate, "server.crt"),
        (coordinator.key, "server.key"),
    ]
    for ours, theirs in pairs:
        if not (front / theirs).is_file() or (front / theirs).read_bytes() != ours.read_bytes():
            return Check(
                "front files", "failed", f"{front / theirs} is missing or differs from {ours}", renew
            )
    path = front / CONFIGURATION
    if not path.is_file() or path.read_text(encoding="utf-8") != render(coordinator):
        advice = f"run 'fedkalemia-server front {coordinator.folder}', which writes it again, or 'pki renew'"
        return Check("front files", "failed", f"{path} is missing or not what server.toml says", advice)
    return Check("front files", "ok", str(front))


def database(path: Path) -> Check:
    """Check that the SuperLink's own state can be written."""
    if trouble := database_trouble(path):
        return Check("database", "failed", trouble, DATABASE_ADVICE)
    if not path.exists():
        return Check("database", "ok", f"{path} is not there yet; the SuperLink makes it")
    return Check("database", "ok", f"{path}, {path.stat().st_size / 2**20:.1f} MiB")


def superlink(coordinator: Coordinator) -> Iterator[Check]:
    """Check that the SuperLink answers, over TLS and as itself, and its clock against this one."""
    host, port = split_address(coordinator.superlink, "superlink in server.toml")
    try:
        answer = ask(host, port, coordinator.authority)
    except NoAnswerError as error:
        start = f"start 'fedkalemia-server superlink {coordinator.folder}'"
        advice = start if error.kind == "refused" else f"see what listens on {coordinator.superlink}; {start}"
        yield Check("superlink", "failed", str(error), advice)
        return
    if answer.status != 200:
        advice = "see what program that is, or the SuperLink's log"
        yield Check("superlink", "failed", f"{coordinator.superlink} answers HTTP {answer.status}", advice)
        return
    yield Check("superlink", "ok", f"answers on {coordinator.superlink}")
    yield clock(answer.ahead_s)


def front(coordinator: Coordinator) -> Check:
    """Check that the front end answers for the SuperLink, and hides everything else."""
    trouble: NoAnswerError | None = None
    for host in dict.fromkeys(("127.0.0.1", *coordinator.hosts)):
        try:
            return _front_at(host, coordinator)
        except NoAnswerError as error:
            # Something else that listens says more than an address of other machines' that is not here.
            trouble = error if trouble is None or trouble.kind == "refused" else trouble
    port, advice = coordinator.front_port, f"start 'fedkalemia-server front {coordinator.folder}'"
    if trouble is None or trouble.kind == "refused":
        return Check("front", "failed", f"nothing listens on port {port}", advice)
    return Check("front", "failed", str(trouble), f"see what listens on port {port}; {advice}")


def _front_at(host: str, coordinator: Coordinator) -> Check:
    port, name = coordinator.front_port, coordinator.hosts[0]
    answer = ask(host, port, coordinator.authority, name=name)
    if answer.status in (502, 504):
        advice = "start the SuperLink; if it runs, compare 'superlink' in server.toml with where it listens"
        return Check("front", "failed", f"port {port} answers, but does not reach the SuperLink", advice)
    if answer.status != 200:
        return Check(
            "front", "failed", f"port {port} answers HTTP {answer.status}", "see what program that is"
        )
    for path in HIDDEN:
        if (status := ask(host, port, coordinator.authority, name=name, path=path).status) != 404:
            advice = "close the port at once: sites must not reach the SuperLink itself; start 'front' there"
            return Check("front", "failed", f"{path} answers HTTP {status} on port {port}", advice)
    return Check("front", "ok", f"answers on port {port} as {name}, and hides all but the fleet's routes")


def sites_and_runs(coordinator: Coordinator, now: datetime) -> Iterator[Check]:
    """Check the registered sites and the runs against what the SuperLink knows."""
    with Control(coordinator) as control:
        known, all_runs = control.nodes(), control.runs()
    yield from sites(coordinator, known, now)
    yield runs(all_runs, coordinator.folder)


def sites(coordinator: Coordinator, known: list[NodeInfo], now: datetime) -> Iterator[Check]:
    """Check each registered site: known to the SuperLink by its key, and online."""
    registry = read_registry(coordinator.registry)
    if not registry:
        advice = f"run 'fedkalemia-server site add {coordinator.folder} NAME PUBKEY' for each site"
        yield Check("sites", "warning", "no site is registered", advice)
    lost, by_id = unbound(registry, known), {node.node_id: node for node in known}
    for name, site in sorted(registry.items()):
        if name in lost:
            advice = f'run: fedkalemia-server site add {coordinator.folder} {name} "{site.public_key}"'
            yield Check(f"site {name}", "failed", "the SuperLink does not know its key", advice)
        else:
            yield _site(name, by_id[site.node_id], now)
    ours = {site.node_id for site in registry.values()}
    for node in known:
        if node.node_id not in ours and node.status != UNREGISTERED:
            text = f"node {node.node_id} ({node.name or 'no name'}) at the SuperLink is no registered site"
            advice = "its answers are refused; if nobody put it there, find out who can reach the SuperLink"
            yield Check("sites", "warning", text, advice)


def _site(name: str, node: NodeInfo, now: datetime) -> Check:
    if node.status == ONLINE:
        return Check(f"site {name}", "ok", "online")
    advice = f"ask {name} to start its node, or to run 'fedkalemia-site doctor' there"
    if node.online_until is None:
        return Check(f"site {name}", "warning", "registered, never seen yet", advice)
    minutes = max(0.0, (now.timestamp() - node.online_until) / 60)
    return Check(f"site {name}", "warning", f"offline for {minutes:.0f} min or a little longer", advice)


def runs(found: list[RunInfo], home: Path) -> Check:
    """Check that every run has ended or runs."""
    waiting = [run for run in found if run.status in ("pending", "starting")]
    running = [run for run in found if run.status == "running"]
    ended = [f"{run.sub_status}" for run in found if run.finished]
    counts = ", ".join(f"{ended.count(how)} {how}" for how in sorted(set(ended))) or "none ended yet"
    text = f"{len(running)} running, {len(waiting)} waiting; {counts}"
    if waiting:
        return Check("runs", "warning", text, f"start 'fedkalemia-server runner {home}', which takes them")
    return Check("runs", "ok", text)
