"""``fedkalemia-site forget``: remove one patient, and say what cannot be withdrawn."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from client.site import load_site
from common.errors import ConfigurationError
from common.logs import say
from common.wording import plural

if TYPE_CHECKING:
    from client.data.forgetting import Forgotten
    from client.database.removal import Beyond

SiteFolder = Annotated[Path, typer.Argument(metavar="SITE", help="Site folder, made by 'init'")]
#: Stands for an identifier that is read from standard input.
STDIN = "-"
#: What a person calls the rows of a table.
NAMES = {
    "beats": "beats, overwritten with zeros in the beat store (other strips keep their places)",
    "runs": "runs whose notes named the patient or its strips, corrected",
    "strip_predictions": "predictions",
    "cohort_members": "memberships of frozen cohorts",
    "reports": "entries of written pages",
    "patients": "entry of the patient",
}
#: What may be left below the database, by engine.
FREED = {
    "sqlite": "blocks that the disk has freed: only an encrypted disk, or erasing it, takes care of those",
    "postgresql": "the server's write-ahead log, its archive, replicas and dumps, which the hospital keeps",
}


def add_commands(app: typer.Typer) -> None:
    """Add this module's command to ``fedkalemia-site``."""
    app.command()(forget)


def forget(
    folder: SiteFolder,
    patient: Annotated[
        str,
        typer.Argument(
            metavar="PATIENT",
            help="Identifier as in the hospital's files; '-' reads it from standard input, which keeps it "
            "out of the shell's history and the list of processes",
        ),
    ],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask")] = False,
) -> None:
    """Remove everything kept of one patient: draws, strips, beats, predictions, personal models, pages.

    The patient does not come back with a later ingest. What left the site before cannot be withdrawn; the
    command says what that is. Stopped at any moment, the same command completes it.
    """
    from client.data.forgetting import forget as forget_patient
    from client.data.forgetting import need_known, page_files
    from client.database.session import open_database

    site = load_site(folder)
    key = (_line("identifier of the patient") if patient == STDIN else patient).strip()
    engine = open_database(site.database_url)
    try:
        need_known(site, engine, key)
        if not yes:
            for path in page_files(site):
                say(f"this file will be deleted: {path}")
            if _line("this cannot be undone; type the identifier again to go on").strip() != key:
                raise ConfigurationError("that is not the identifier; nothing was removed")
        done = forget_patient(site, engine, key)
    finally:
        engine.dispose()
    say(f"{site.name}: " + "\n".join(_told(done, engine.dialect.name)))
    say(f"next: fedkalemia-site cohort {folder}, then personalize and report again")


def _line(prompt: str) -> str:
    """Ask on a terminal, or take the next line of what is piped in.

    Raises
    ------
    ConfigurationError
        If standard input has ended.
    """
    if sys.stdin.isatty():
        typer.echo(f"{prompt}: ", nl=False, err=True)
    line = sys.stdin.readline()
    if not line:
        raise ConfigurationError(
            f"standard input ended where a line was expected ({prompt}); nothing was removed; with --yes "
            "nothing is asked"
        )
    return line


def _told(done: Forgotten, engine: str) -> Iterator[str]:
    """Yield what was removed, what cannot be withdrawn, and what was not touched."""
    when = f"this patient was forgotten on {done.since:%Y-%m-%d}"
    if not done.again:
        yield "the patient is forgotten"
    elif done.completed:
        yield f"{when}; what that call had left is removed now"
    else:
        yield f"{when}; nothing was left to do"
    yield "removed"
    for name, n in done.rows.items():
        if n:
            yield f"  {n:>8,}  {NAMES.get(name, name.replace('_', ' '))}"
    if done.models:
        yield f"  {len(done.models):>8,}  files of personal models"
    for path in done.pages:
        yield f"            {path}"
    if done.pages:
        yield "  (every page and review sheet is deleted, because any of them may show the patient)"
    yield "cannot be withdrawn"
    yield from (f"  - {sentence}" for sentence in _beyond(done.beyond))
    yield "not touched"
    yield "  - the hospital's own files, and all copies: backups, exports, pages that were handed on"
    yield "  - sums of earlier runs in which the patient is one of several: counts and losses by run"
    yield "  - the ledger of what left: digests of weights, and the counts and sums that were sent"
    yield f"  - {FREED[engine]}"
    for path in done.elsewhere:
        yield f"  - a page outside the site folder, which may show the patient; delete it: {path}"
    if done.running:
        yield f"warning: marked as running: {', '.join(done.running)}"
        yield "  What was at work meanwhile may still use or write what it had read of the patient: stop it"
        yield "  (of a federation, the executor) and run this command again"


def _beyond(beyond: Beyond) -> Iterator[str]:
    cohorts = ", ".join(repr(name) for name in beyond.cohorts)
    if beyond.weights:
        answers = plural(beyond.weights, "answer")
        yield (
            f"weights: {answers} with weights that this patient's beats had helped to train went to the "
            f"coordinator (cohort {cohorts}); what the generic model learned from them stays in it"
        )
    else:
        yield "no weights: this patient trained in no federated round that was answered with weights"
    if beyond.losses:
        yield f"validation: {plural(beyond.losses, 'answer')} with a loss to which this patient added"
    if beyond.sums:
        yield f"sums: {plural(beyond.sums, 'personalization')} whose counts and sums include this patient"
    if beyond.models:
        yield (
            f"models: {plural(beyond.models, 'generic model')} at this site that the patient helped to make "
            "stays, and so do the personal models of others that began from it"
        )
    yield "'fedkalemia-site audit show' lists all that left this site"
