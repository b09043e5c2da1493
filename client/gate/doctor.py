"""The site's check-up: everything that must be right before and while this hospital takes part."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from sqlalchemy import func, select

from client.data.beatstore import BeatStore
from client.database.queries import members
from client.database.runs import latest_run
from client.database.session import SCHEMA_VERSION, open_database, sessions
from client.database.tables import Strip
from client.gate.alive import check_alive
from client.gate.audit import examine as examine_ledger
from client.gate.connection import check_node, listening
from client.gate.data_checks import half_forgotten, layout, private_files
from client.gate.executor import USES
from client.gate.folders import SECRET
from client.gate.ledger import ledger_of
from client.site import Site, load_site
from common import protocol
from common.config import PolicySettings
from common.doctor import Check, attempt, disk, secret_file
from common.errors import ConfigurationError
from common.files import write_atomic
from common.taskloop import check_engine
from common.wording import plural

NODE_FILE = "node.toml"
#: The executor gives a sign about four times a second.
HEARTBEAT_MAX_S = 30.0
COHORT = "main"
_INSTALL = "install fedkalemia again, with the versions that constraints.txt names"


def examine(folder: Path, now: datetime | None = None) -> list[Check]:
    """Check a site folder, or a node folder alone.

    Parameters
    ----------
    now : in UTC; the present if None.

    Raises
    ------
    ConfigurationError
        If the folder is neither.
    """
    now = now or datetime.now(UTC)
    if (folder / "site.toml").is_file():
        found = [*_site(folder, now), *attempt("versions", versions, _INSTALL)]
        # What an error advises names no folder: it does not know in which one it arose.
        return [replace(check, advice=check.advice.replace(" SITE'", f" {folder}'")) for check in found]
    if (folder / NODE_FILE).is_file():
        elsewhere = "a node folder alone holds no data; run doctor on the site folder as well"
        unseen = ("data root", "database", "ledger", "policy")
        return [
            *check_node(folder, now),
            *(Check(name, "not checked", elsewhere) for name in unseen),
            *attempt("versions", versions, _INSTALL),
        ]
    raise ConfigurationError(
        f"{folder} is neither a site folder (it has no site.toml) nor a node folder (it has no {NODE_FILE}); "
        "give one of them, or run 'fedkalemia-site init'"
    )


def _site(folder: Path, now: datetime) -> Iterator[Check]:
    try:
        site = load_site(folder)
    except ConfigurationError as error:
        yield Check("site", "failed", str(error), "correct site.toml; nothing else can be checked until then")
        return
    yield Check("site", "ok", f"{site.name}, task {site.settings.task}, preset {site.settings.preset}")
    root = _data_root(site)
    yield root
    if root.state == "ok":
        yield layout(site)
    yield from attempt("database", lambda: _database(site), "")
    yield private_files(site)
    yield _writable(site)
    yield disk(site.folder)
    yield from policy(site.settings.policy)
    yield _code(site)
    yield from _gate(site)
    if (site.node / NODE_FILE).is_file():
        yield from _same_secret(site)
        yield from check_node(site.node, now)
    else:
        elsewhere = "the node folder is not here; run doctor on it where the node runs"
        for name in ("node key", "authority", "coordinator", "server certificate", "clock"):
            yield Check(name, "not checked", elsewhere)
        if site.gate_folder.is_dir():
            advice = "start the node, or set gate.node_address in site.toml"
            yield listening("node", site.gate.node_address, advice)


def _data_root(site: Site) -> Check:
    root = site.data_root
    if not root.is_dir():
        return Check(
            "data root", "failed", f"{root} is no folder", "mount it, or set source.folder in site.toml"
        )
    if not os.access(root, os.R_OK | os.X_OK):
        advice = "give this user the right to read it"
        return Check("data root", "failed", f"{root} may not be read by this user", advice)
    more = " (this user could write there; mount it read-only)" if os.access(root, os.W_OK) else ", read-only"
    return Check("data root", "ok", f"{root} is readable{more}")


def _database(site: Site) -> Iterator[Check]:
    engine = open_database(site.database_url)
    try:
        kind = engine.dialect.name
        yield Check("database", "ok", f"{kind}, reachable, schema version {SCHEMA_VERSION}")
        with sessions(engine)() as session:
            rows = session.scalar(select(func.max(Strip.beat_offset + Strip.n_beats))) or 0
            cohort = latest_run(session, "cohort", COHORT)
            member_rows = members(session, cohort.id) if cohort else []
            yield from half_forgotten(session)
        yield _beats(site, rows)
        if cohort is None:
            advice = f"run 'fedkalemia-site cohort {site.folder}'"
            yield Check(
                "cohort", "warning", f"no cohort {COHORT!r} is frozen; this site cannot train", advice
            )
            return
        counts = {
            split: sum(m.role == "generic" and m.split == split for m in member_rows)
            for split in ("train", "validation")
        }
        yield enough(counts["train"], counts["validation"], site.settings.policy)
    finally:
        engine.dispose()


def _beats(site: Site, rows: int) -> Check:
    stored, path = len(BeatStore(site.beats)), BeatStore(site.beats).path
    if stored < rows:
        text = f"{path} holds {plural(stored, 'beat')}, the database counts on {rows}"
        return Check("beat store", "failed", text, "restore it from a backup, or ingest into a fresh folder")
    if rows == 0:
        advice = f"run 'fedkalemia-site ingest {site.folder}'"
        return Check("beat store", "warning", "no beats yet", advice)
    BeatStore(site.beats).read(0, 1)  # its header is of this version
    return Check("beat store", "ok", plural(stored, "beat"))


def enough(train: int, validation: int, rules: PolicySettings) -> Check:
    """Judge a frozen cohort by the site's own minima."""
    text = f"{train} training and {plural(validation, 'validation patient')}"
    if train >= rules.min_training_patients and validation >= rules.min_validation_patients:
        return Check("cohort", "ok", f"{text}, enough for this site's policy")
    lacking = []
    if train < rules.min_training_patients:
        lacking.append(f"below {rules.min_training_patients} for training, it only evaluates")
    if validation < rules.min_validation_patients:
        lacking.append(f"below {rules.min_validation_patients} for validation, it sends no validation")
    advice = "ingest more patients and freeze the cohort again"
    return Check("cohort", "warning", f"{text}: {'; '.join(lacking)}", advice)


def _writable(site: Site) -> Check:
    probe = site.folder / ".doctor"
    found = attempt("site folder", lambda: _probe(probe), "give this user the right to write there")
    return found[0]


def _probe(path: Path) -> Check:
    write_atomic(path, b"")
    path.unlink()
    return Check("site folder", "ok", f"{path.parent} can be written")


def policy(rules: PolicySettings) -> Iterator[Check]:
    """Say in words what this site allows, one limit per line."""
    window = rules.maintenance
    sentences = (
        f"fewer than {rules.min_training_patients} training patients: nothing is trained, no weights leave",
        f"fewer than {rules.min_validation_patients} validation patients: no validation number leaves",
        f"numbers over fewer than {rules.min_cell} patients do not leave",
        f"at most {rules.max_local_epochs} local epochs in a federated round, in batches of "
        f"{rules.min_batch_size} or more",
        f"at most {rules.max_rounds} answers with weights for one frozen cohort",
        f"an update longer than {rules.max_update_norm:g} is scaled down to it",
        "personalization may be asked for by the coordinator"
        if rules.personalize
        else "personalization is started at this site only",
        f"maintenance every day {window} local time: nothing but hello is answered"
        if window
        else "no maintenance window",
    )
    for sentence in sentences:
        yield Check("policy", "ok", sentence)


def _code(site: Site) -> Check:
    if site.gate.code == "local":
        return Check("code", "ok", "this installation's own; code that comes with a run is not used")
    approved = len(site.gate.approved_bundles)
    if not approved:
        advice = "put the SHA-256 of reviewed bundles into gate.approved_bundles, or set gate.code to local"
        return Check("code", "warning", "pin, and no bundle is approved: every run is refused", advice)
    return Check("code", "ok", f"pin: {plural(approved, 'approved bundle')}")


def _gate(site: Site) -> Iterator[Check]:
    folder = site.gate_folder
    if not folder.is_dir():
        for name in ("gate secret", "ledger", "executor"):
            yield Check(
                name, "not checked", "this site has no gate folder: it is not set up for a deployment"
            )
        return
    yield secret_file("gate secret", folder / SECRET, f"run 'fedkalemia-site init {site.folder}'")
    yield from attempt("ledger", lambda: _ledger(folder), "restore the key or the ledger from a copy")
    yield from attempt(
        "executor",
        lambda: Check("executor", "ok", check_alive(site.folder, HEARTBEAT_MAX_S)),
        f"start it with 'fedkalemia-site executor {site.folder}'",
    )


def _ledger(folder: Path) -> Check:
    found = examine_ledger(ledger_of(folder))
    if found.findings:
        text = f"{plural(len(found.findings), 'finding')}, the first: {found.findings[0]}"
        advice = "run 'fedkalemia-site audit verify SITE', and find out who wrote there"
        return Check("ledger", "failed", text, advice)
    return Check(
        "ledger",
        "ok",
        f"{plural(found.entries, 'entry', 'entries')}, as written by the gate",
    )


def _same_secret(site: Site) -> Iterator[Check]:
    here, there = site.gate_folder / SECRET, site.node / SECRET
    if here.is_file() and there.is_file() and here.read_bytes() != there.read_bytes():
        text = f"{here} and {there} differ: the node hands out no messages"
        yield Check("node secret", "failed", text, f"copy one over the other: cp -p {here} {there}")


def versions() -> Iterator[Check]:
    """Name the versions that run here, and check that the engine is one the executor works with."""
    check_engine(USES)
    yield Check(
        "versions",
        "ok",
        f"fedkalemia {protocol.software()} (protocol {protocol.VERSION}), flwr {_installed('flwr')}, "
        f"torch {_installed('torch')}, Python {platform.python_version()}",
    )
    unseen = "it comes with the coordinator's hello; where it differs, site.log names both"
    yield Check("coordinator's version", "not checked", unseen)


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "missing"
