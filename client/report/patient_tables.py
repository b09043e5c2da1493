"""The tables of a patient's page."""

from __future__ import annotations

import math
from collections.abc import Mapping

from client.learning.guard import METHODS as CANDIDATES
from client.report.comparison import FITTED
from client.report.evidence import Personal
from client.report.naming import Naming
from client.report.story import Story, StripStory
from common.config import Settings
from common.page import BASELINES, METHODS, Table, headline
from common.page.numbers import MISSING, SPACE, count, decimal, percent, plural, share, short_digest
from common.task import Task

USES: Mapping[str, str] = {"test": "test", "gap": "shown, not counted", "unused": "not used"}
VOTES = (
    " Votes: share of beats called positive, by the generic model and by the model selected before the strip "
    "was trained on; ✗: the label says otherwise."
)


def strips_table(story: Story, task: Task, naming: Naming) -> Table:
    """Return one row per accepted strip: what it is, what it was used for, what was said about it."""
    rows: list[list[str]] = []
    marked: list[int] = []
    for strip in story.strips:
        if strip.right("selected") is False and strip.use == "test":
            marked.append(len(rows))
        rows.append(
            [
                naming.moment(strip.start, story.first),
                *([decimal(strip.value, 1)] if task.quantity else []),
                task.word(strip.label),
                f"train, round {strip.pair}" if strip.pair else USES.get(strip.use, strip.use),
                count(strip.n_beats),
                decimal(strip.heart_rate_bpm, 0),
                *([_vote(strip, "generic"), _vote(strip, "selected")] if story.voted else []),
                *([] if naming.pseudonymous else [_rows(strip)]),
            ]
        )
    value = [f"{task.quantity[:1].upper()}{task.quantity[1:]}, {task.unit}"] if task.quantity else []
    columns = 5 if task.quantity else 4
    return Table(
        caption="Every accepted strip in order of time." + (VOTES if story.voted else ""),
        head=("Start", *value, "Label", "Use", "Beats", "Heart rate",
              *(("Generic", "Selected") if story.voted else ()),
              *([] if naming.pseudonymous else ["Row of strips" + (" / draws" if task.quantity else "")])),
        rows=rows,
        text=(columns - 3, columns - 2),
        marked=marked,
        note="Shaded: test strips that the selected model calls wrong." if marked else "",
        form="dense dated",
        empty="No strip of this patient was accepted.",
    )  # fmt: skip


def _rows(strip: StripStory) -> str:
    return f"{strip.strip}" + (f" / {strip.draw}" if strip.draw else "")


def _vote(strip: StripStory, method: str) -> str:
    vote = strip.votes.get(method)
    if vote is None:
        return MISSING
    return percent(vote.share) + (f"{SPACE}✗" if strip.right(method) is False else "")


def rounds_table(one: Personal) -> Table:
    """Return how many test strips each method called right, by round."""
    rows: list[list[str]] = []
    for method in FITTED:
        cells = [METHODS[method].title]
        for round_ in range(one.rounds + 1):
            score = one.score(method, round_)
            counts = score.strips if score else None
            cells.append(f"{counts.tp + counts.tn} of {counts.total}" if counts else MISSING)
        rows.append(cells)
    return Table(
        caption="Test strips called right, by personalization round.",
        head=("Method", *(f"Round {r}" for r in range(one.rounds + 1))),
        rows=rows if one.tested else [],
        form="narrow",
        empty="No test strip: there are no results by round.",
    )


def guard_table(one: Personal, story: Story) -> Table:
    """Return what the guard knew: the loss on each pair before it was trained on."""
    pairs = max((len(losses) for losses in story.guard.values()), default=0)
    rows: list[list[str]] = []
    for method in CANDIDATES:
        losses = story.guard.get(method)
        if losses is None:
            continue
        own = METHODS[method].title + (" ← selected" if method == one.selected_method else "")
        rows.append([own, *(decimal(loss, 3) for loss in losses), decimal(math.fsum(losses), 3)])
    return Table(
        caption="What the guard knew: log loss on each pair of training strips before it was trained on. "
        "Lower is better; 0.693 is a coin toss.",
        head=("Method", *(f"Pair {n + 2}" for n in range(pairs)), "Sum"),
        rows=rows if pairs else [],
        form="narrow",
        empty="There was no pair to compare models on before training on it.",
    )


def ways_table(one: Personal, beside: Personal | None, settings: Settings) -> Table:
    """Return every way tried for this patient, on the same test strips, and under the paper's protocol."""
    words = headline(settings.task)
    rows: list[list[str]] = []
    strong: list[int] = []
    parts = [("Prospective: later strips, after a gap", one, (*METHODS, *BASELINES))]
    if beside is not None and beside.tested:
        parts.append(("Paper: a random quarter of the strips", beside, (*METHODS, "published")))
    for title, found, methods in parts:
        if not found.tested:
            continue
        strong.append(len(rows))
        rows.append([f"{title} ({plural(sum(found.test), 'test strip')})", "", "", "", ""])
        for method in methods:
            score = found.score(method, found.rounds)
            if score is None:
                continue
            name = METHODS.get(method) or BASELINES.get(method)
            strips = score.strips
            rows.append(
                [
                    f"  {name.title if name else 'Fine-tuned, published rate and batch'}",
                    share(strips.tp + strips.tn, strips.total),
                    f"{strips.tp} of {strips.tp + strips.fn}",
                    f"{strips.tn} of {strips.tn + strips.fp}",
                    decimal(score.figure("beat_auc"), 3),
                ]
            )
    return Table(
        caption=f"Every way that was tried for this patient, after the last round; {words.title} is the "
        "figure the site’s report is judged by.",
        head=("Way", "Strips called right", "Positive strips", "Negative strips", "Beat AUC"),
        rows=rows,
        strong=strong,
        form="narrow",
        empty="No way was tried.",
    )


def models_table(story: Story) -> Table:
    """Return the personal models on the disk."""
    return Table(
        caption="Personal models of this patient: only what differs from the generic model is stored.",
        head=("Method", "Round", "Row of models", "SHA-256", "File"),
        rows=[
            [METHODS[m.method].title if m.method in METHODS else m.method, f"{m.round}", f"{m.model}",
             short_digest(m.sha256), m.path]
            for m in story.models
        ],
        text=(3, 4),
        form="dense",
        empty="No personal model is stored for this patient.",
    )  # fmt: skip
