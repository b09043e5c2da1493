"""Make a contact sheet: draw a sample, read its signals again, write the page and a file for verdicts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from markupsafe import Markup

from client.data.exclusion import EXCLUSION_SHORT, EXCLUSION_TEXT, Exclusion
from client.data.made_with import check_made_with
from client.data.sources import AnnotatedSource, Source, open_source
from client.database.reviews import ACCEPTED, SHEET, VERDICTS
from client.database.runs import SessionFactory, code_version, now, running
from client.database.tables import Report, Strip
from client.review.cards import Card, legend, make_card
from client.review.paper import paper
from client.review.reading import load_rows, read_strips
from client.review.sampling import Sample, draw_sample, shuffle
from client.review.verdicts import blank_file, holds_verdicts
from client.site import Site
from common.errors import CohortError, ConfigurationError
from common.files import write_atomic
from common.logs import stage
from common.page import Key, render
from common.page.numbers import count, plural

HERE: Final = Path(__file__).parent
#: Patients' ECG: for the owner of the file and nobody else.
PRIVATE: Final = 0o600
#: Stands in the page for its digest while that is computed.
NO_DIGEST: Final = "0" * 64


@dataclass(frozen=True)
class Order:
    """What is asked for.

    Attributes
    ----------
    per_reason : strips of each reason.
    seed : of the sample.
    reasons : codes; empty for all with a signal to look at.
    blind : hide what the software and the laboratory said.
    """

    per_reason: int
    seed: int
    reasons: tuple[str, ...] = ()
    blind: bool = False


@dataclass(frozen=True)
class Made:
    """A sheet that was written: page, file for verdicts, digest, strips on it, strips without a signal."""

    page: Path
    verdicts: Path
    digest: str
    strips: int
    missing: int


def make_sheet(site: Site, session_factory: SessionFactory, order: Order, out: Path | None = None) -> Made:
    """Write a contact sheet and an empty file for verdicts beside it.

    Parameters
    ----------
    site : settings and places.
    session_factory : of the site database.
    order : what to show.
    out : the page; ``review/review.html`` in the site folder by default. The file for verdicts has its
        name with ``.csv``.

    Raises
    ------
    CohortError
        If the site has no strip to look at.
    ConfigurationError
        If a reason is unknown, the settings are not those of the strips, or the file for verdicts already
        holds some.
    SourceError
        If the hospital's files are not where the settings say. A damaged file is shown on the sheet.
    StorageError
        If the page cannot be written; older files stay.
    """
    page_path = (out or site.folder / "review" / "review.html").absolute()
    csv_path = page_path.with_suffix(".csv")
    if csv_path == page_path:
        raise ConfigurationError(f"--out {page_path}: a page ends with .html; .csv is the file for verdicts")
    if holds_verdicts(csv_path):
        raise ConfigurationError(
            f"{csv_path} holds verdicts, and a new sheet would overwrite them: read them with "
            f"'fedkalemia-site review read {site.folder} {csv_path} --reviewer NAME' "
            "and move the file away, or choose --out"
        )
    with session_factory() as session:
        check_made_with(session, site)
        sample = draw_sample(session, order.seed, order.per_reason, order.reasons)
        if not sample.total:
            raise CohortError(_nothing(site, sample))
        reasons = {strip: reason for reason, strips in sample.strips.items() for strip in strips}
        rows = load_rows(session, sorted(reasons))
    source = open_source(site)
    with running(session_factory, "review", site.settings, name=SHEET) as run:
        cards = _cards(site, source, rows, order)
        content = sheet_content(site, sample, cards, order, annotated=isinstance(source, AnnotatedSource))
        page, digest = finished_page(content)
        shown = [card.strip for group in content["groups"] for card in group["cards"]]
        write_atomic(page_path, page, mode=PRIVATE)
        write_atomic(csv_path, blank_file(digest, shown), mode=PRIVATE)
        said = {str(strip): None if reasons[strip] == ACCEPTED else reasons[strip] for strip in shown}
        run.details = {
            "sheet_sha256": digest,
            "strips": said,
            "seed": order.seed,
            "per_reason": order.per_reason,
            "blind": order.blind,
        }
        _note(session_factory, site, run.id, page_path, page)
    return Made(page_path, csv_path, digest, len(cards), sum(bool(card.missing) for card in cards.values()))


def finished_page(content: Mapping[str, Any]) -> tuple[str, str]:
    """Render a sheet and put its digest into it.

    Returns
    -------
    The page, and the SHA-256 of the page with 64 zeros in place of the digest: it covers every line that is
    drawn, and anybody can compute it again.
    """
    page = render(HERE / "sheet.html", {**content, "digest": NO_DIGEST})
    digest = hashlib.sha256(page.encode()).hexdigest()
    return page.replace(NO_DIGEST, digest), digest


def sheet_content(
    site: Site, sample: Sample, cards: Mapping[int, Card], order: Order, *, annotated: bool
) -> dict[str, Any]:
    """Return everything the template shows; equal strips give equal content.

    Parameters
    ----------
    site : its name and task.
    sample : what was drawn.
    cards : strip -> card.
    order : what was asked for.
    annotated : beats are an expert's, not a detector's.
    """
    script = (HERE / "sheet.js").read_text(encoding="utf-8")
    return {
        "site": site.name,
        "task": site.settings.words,
        "title": "Strips to review" + (", blind" if order.blind else ""),
        "keys": [] if order.blind else _keys(sample),
        "how": _how(order),
        "paper": paper(),
        "marks": [] if order.blind else legend(annotated),
        "left_out": "" if order.blind else _left_out(sample, order),
        "groups": _groups(sample, cards, order),
        "blind": order.blind,
        "verdicts": VERDICTS,
        "script": Markup(script),
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "own_style": Markup((HERE / "sheet.css").read_text(encoding="utf-8")),
        "facts": [
            ("Sheet", NO_DIGEST),
            ("Sample", f"seed {order.seed}, up to {order.per_reason} strips per reason"),
            ("Software", f"fedkalemia {code_version()}"),
            ("Settings digest", site.settings.digest()),
        ],
    }


def _cards(site: Site, source: Source, rows: Mapping[str, Sequence[Strip]], order: Order) -> dict[int, Card]:
    """Read and draw all strips of the sample; only one signal is in memory at a time."""
    cards: dict[int, Card] = {}
    total, missing = sum(len(own) for own in rows.values()), 0
    with stage(f"Review sheet of {site.name}", total=total, unit="strip") as bar:
        for seen in read_strips(source, rows, site.settings):
            card = make_card(seen, site.settings.words, blind=order.blind)
            cards[card.strip] = card
            missing += bool(card.missing)
            bar.advance(1, f"{missing} without a signal" if missing else None)
    return cards


def _groups(sample: Sample, cards: Mapping[int, Card], order: Order) -> list[dict[str, Any]]:
    if order.blind:
        strips = [strip for group in sample.strips.values() for strip in group]
        return [{"title": "", "text": "", "cards": [cards[s] for s in shuffle(strips, order.seed)]}]
    return [
        {
            "title": "Accepted" if reason == ACCEPTED else _capital(EXCLUSION_SHORT[Exclusion(reason)]),
            "text": f"{_meaning(reason)} {len(strips)} of {plural(sample.available[reason], 'strip')} shown.",
            "cards": [cards[strip] for strip in strips],
        }
        for reason, strips in sample.strips.items()
    ]


def _meaning(reason: str) -> str:
    if reason == ACCEPTED:
        return "The software uses these strips."
    return f"Not used ({reason}). {EXCLUSION_TEXT[Exclusion(reason)]}"


def _keys(sample: Sample) -> list[Key]:
    rejected = sample.total - len(sample.strips.get(ACCEPTED, ()))
    accepted_of = sample.available.get(ACCEPTED, 0)
    rejected_of = sum(sample.available.values()) - accepted_of
    return [
        Key("On this sheet", count(sample.total), "strips", main=True),
        Key("Accepted", count(sample.total - rejected), f"of {count(accepted_of)} of the site"),
        Key("Not accepted", count(rejected), f"of {count(rejected_of)} of the site"),
        Key("Reasons", count(len(set(sample.strips) - {ACCEPTED})), "for not accepting a strip"),
    ]


def _how(order: Order) -> list[str]:
    drawn = (
        "The strips were drawn at random: of every reason the same number where there are so many, spread "
        "evenly over the labels, and another patient before a second strip of the same."
    )
    if order.blind:
        drawn += " They stand in random order, and nothing here says what the software thinks of them."
    return [
        drawn,
        "Give each strip one verdict, by the signal alone. Then press “Save verdicts” at the bottom of the "
        "page: the browser saves a file, nothing is sent anywhere. Or write the verdicts into the .csv file "
        "beside this page, with an editor or a spreadsheet program. Whoever runs the site reads the file "
        "with ‘fedkalemia-site review read’.",
    ]


def _left_out(sample: Sample, order: Order) -> str:
    if order.reasons or not sample.left_out:
        return ""
    parts = [f"{EXCLUSION_SHORT[Exclusion(reason)]} {count(n)}" for reason, n in sample.left_out.items()]
    total = plural(sum(sample.left_out.values()), "strip")
    return f"Not on this sheet, because there is no lead II to look at: {total} ({', '.join(parts)})."


def _nothing(site: Site, sample: Sample) -> str:
    if not sample.available:
        return f"{site.name} holds no strip yet; run: fedkalemia-site ingest {site.folder}"
    parts = ", ".join(f"{reason} {n}" for reason, n in sample.available.items())
    return f"no strip of {site.name} has a signal to look at ({parts}); see them all the same with --reason"


def _note(session_factory: SessionFactory, site: Site, run_id: int, path: Path, page: str) -> None:
    """Keep where the page is, so that a patient who is forgotten can be removed from it."""
    with session_factory() as session:
        inside = path.is_relative_to(site.folder)
        name = path.relative_to(site.folder).as_posix() if inside else str(path)
        digest = hashlib.sha256(page.encode()).hexdigest()
        session.add(Report(run_id=run_id, path=name[:255], sha256=digest, created_at=now()))
        session.commit()


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
