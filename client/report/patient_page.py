"""The page of one patient: what was measured, what each model said, which was selected and why."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.learning.explain import PatientExplanation
from client.learning.guard import METHODS as CANDIDATES
from client.report import timeline
from client.report.cohort_tables import reason
from client.report.comparison import FITTED, WORSE_BY
from client.report.drawing import Drawing
from client.report.evidence import APART, Personal
from client.report.looking import attention_table
from client.report.naming import Naming
from client.report.story import Story, StripStory
from client.report.wording import outcome_text
from common.config import Settings
from common.intervals import wilson
from common.page import BASELINES, FIGURES, METHODS, Figure, Key, Note, Table, headline
from common.page.figure import figure
from common.page.numbers import (
    MISSING,
    SPACE,
    count,
    decimal,
    figure_value,
    percent,
    plural,
    share,
    short_digest,
)
from common.task import Task

TEMPLATE = Path(__file__).parent / "patient.html"
#: Fewer test strips of a label and the page says so above all numbers.
FEW_STRIPS = 5
USES: Mapping[str, str] = {"test": "test", "gap": "shown, not counted", "unused": "not used"}


@dataclass(frozen=True)
class Subject:
    """One patient as the page needs it.

    Attributes
    ----------
    personal : the patient under the primary protocol.
    beside : the same patient under the paper's protocol, where it was run.
    story : from the database.
    seen : what the models look at; None where there are no models, or they are gone.
    missing : why there is nothing to see; empty where there is.
    """

    personal: Personal
    beside: Personal | None
    story: Story
    seen: PatientExplanation | None
    missing: str = ""


def page_content(
    site: str, settings: Settings, naming: Naming, subject: Subject, neighbours: Mapping[str, str]
) -> dict[str, Any]:
    """Return everything the template shows; equal evidence gives equal content.

    Parameters
    ----------
    site : its name.
    settings : of the site.
    naming : how the page calls the patient and writes times.
    subject : the patient.
    neighbours : pages of the patients before and after, by ``previous`` and ``next``; empty for none.
    """
    one, story, task = subject.personal, subject.story, settings.words
    draw = Drawing(settings)
    name = naming.name(one.patient)
    figures = {"timeline": _timeline(draw, story, settings, naming, name) if _any_time(story) else None}
    figures["rounds"] = _rounds(draw, one, settings) if one.tested else None
    seen = subject.seen
    figures["beats"] = draw.beats(seen, name) if seen else None
    figures["map"] = draw.beat_map(seen, name) if seen else None
    return {
        "site": site,
        "task": task,
        "name": name,
        "naming": naming,
        "neighbours": neighbours,
        "answer": answer(one, settings),
        "keys": keys(one, settings),
        "notes": notes(one, story, settings),
        "facts": facts(story, settings, naming),
        "figures": figures,
        "tables": {
            "strips": strips_table(story, task, naming),
            "rounds": rounds_table(one),
            "guard": guard_table(one, story),
            "ways": ways_table(subject, settings),
            "attention": attention_table(seen, task) if seen else None,
            "models": None if naming.pseudonymous else models_table(story),
        },
        "why": why(one, settings),
        "missing": subject.missing,
        "origin": origin(one, story, naming),
        "tested": one.tested,
    }


def answer(one: Personal, settings: Settings) -> str:
    """Say in one sentence what became of the patient."""
    if not one.tested:
        return f"There is no personal model: {outcome_text(one.outcome)}."
    selected, generic = one.score("selected", one.rounds), one.score("generic", one.rounds)
    right, before = (s.strips.tp + s.strips.tn if s else 0 for s in (selected, generic))
    tested = plural(sum(one.test), "test strip")
    noun = METHODS[one.selected_method or "generic"].noun
    if one.selected_method == "generic":
        return (
            f"No personal model proved better in training: {noun} stays, and called {right} of "
            f"{tested} right."
        )
    return f"Selected was {noun}. It called {right} of {tested} right; the generic model {before}."


def keys(one: Personal, settings: Settings) -> list[Key]:
    """Return the numbers of the first screen, each with its sample."""
    if not one.tested:
        return []
    out = []
    for method in ("selected", "threshold", "generic"):
        score = one.score(method, one.rounds)
        if score is None:
            continue
        right, total = score.strips.tp + score.strips.tn, score.strips.total
        below = f"{right} of {plural(total, 'test strip')}; {_wilson(right, total)}"
        out.append(Key(METHODS[method].title, percent(right / total), below, method == "selected"))
    before, after = (one.last(method, "beat_auc") for method in ("generic", "selected"))
    selected = one.score("selected", one.rounds)
    beats = count(selected.beats.total) if selected else MISSING
    out.append(Key("Beat AUC, generic → selected", f"{decimal(before, 2)} → {decimal(after, 2)}",
                   f"{beats} beats of the test strips; beats of one strip resemble each other"))  # fmt: skip
    return out


def _wilson(k: int, n: int) -> str:
    low, high = wilson(k, n)
    return f"95{SPACE}% interval {decimal(100 * low, 0)} to {percent(high)} (Wilson, strips as independent)"


def notes(one: Personal, story: Story, settings: Settings) -> list[Note]:
    """Return what a reader must know before believing the numbers of one patient."""
    out = []
    task = settings.words
    if one.tested:
        for key in (headline(settings.task).key, "beat_f1"):
            change = one.last("selected", key) - one.last("generic", key)
            if change < -WORSE_BY - 1e-9:
                words = FIGURES[key]
                before, after = (figure_value(one.last(m, key), words) for m in ("generic", "selected"))
                out.append(
                    Note("Worse off than with the generic model:", f"{words.title} {before} → {after}.")
                )
        for n, label in zip(one.test, (task.positive, task.negative), strict=True):
            if n < FEW_STRIPS:
                out.append(
                    Note(
                        f"Only {plural(n, 'test strip')} of {label}.", "One strip more or less changes much."
                    )
                )
    if one.outcome == APART:
        out.append(
            Note(
                "Labels lie in different periods.",
                "No single time separates training from test for both. The model may tell the periods from "
                "each other; this patient is not in the site’s primary result.",
            )
        )
    elif one.tested and 1 in one.episodes:
        out.append(
            Note(
                "One episode of a label.",
                "All its strips lie in one stretch of time. What was learned may be that stretch: its "
                "electrodes, drugs or heart rate.",
            )
        )
    if not one.tested and one.outcome == "personal":
        out.append(Note("No result.", "Personalization of this patient has not ended."))
    return out


def facts(story: Story, settings: Settings, naming: Naming) -> list[tuple[str, str]]:
    """Return what is known of the patient and what was measured."""
    task, out = settings.words, []
    sex = {"F": "female", "M": "male"}.get(story.sex or "")
    age = naming.age(story.age)
    person = [text for text in (sex, f"{age} years" if age else None) if text]
    if not naming.pseudonymous:
        person += [f"{story.height_cm:.0f} cm"] if story.height_cm else []
        person += [f"{story.weight_kg:.0f} kg"] if story.weight_kg else []
    if person:
        out.append(("Patient", ", ".join(person)))
    values = [draw.value for draw in story.draws if draw.value is not None]
    if task.quantity and values:
        out.append((f"{task.quantity[0].upper()}{task.quantity[1:]}",
                    f"{plural(len(values), 'draw')}, {decimal(min(values), 1)} to {decimal(max(values), 1)} "
                    f"{task.unit}"))  # fmt: skip
    labels = [(task.word(label), sum(strip.label == label for strip in story.strips))
              for label in ("positive", "negative", *(["gap"] if task.gap else []))]  # fmt: skip
    out.append(("Strips accepted", ", ".join(f"{name} {n}" for name, n in labels)))
    if story.left_out:
        out.append(
            ("Strips left out", "; ".join(f"{reason(code)}: {n}" for code, n in story.left_out.items()))
        )
    if story.strips:
        first, last = story.strips[0].start, story.strips[-1].end
        out.append(("Time", f"{naming.moment(first, story.first)} to {naming.moment(last, story.first)}"))
    if story.cut:
        rest = f"nothing trained on ends less than {decimal(story.gap_s / 3600, 2)} h before it"
        out.append(("First test strip", f"{naming.moment(story.cut, story.first)}; {rest}"))
    return out


def _any_time(story: Story) -> bool:
    return bool(story.strips)


def _timeline(draw: Drawing, story: Story, settings: Settings, naming: Naming, name: str) -> Figure:
    task, label = settings.words, settings.label
    limits = (label.negative_to, label.positive_above) if task.quantity else ()
    canvas = timeline.timeline(
        story, task, limits, lambda time: naming.moment(time, story.first), naming.origin(story.first)
    )
    tested = sum(strip.use == "test" for strip in story.strips)
    above = (
        f"Above: {task.quantity} of each draw (small dots: without an accepted strip), up to a day "
        "before the first and after the last strip. "
        if task.quantity else ""
    )  # fmt: skip
    return draw.page(
        canvas,
        "timeline",
        "Strips over time",
        f"{plural(len(story.strips), 'strip')} of patient {name}, {tested} of them test strips.",
        f"Strips over time. {above}Below: the share of each strip’s beats that is called positive, by the "
        "generic model (hollow) and by the model selected at that time (filled); above the dotted line the "
        "strip is called positive. Numbers: the personalization round from which on a strip is trained on; "
        "its votes are from before. Grey: the time of the test strips; hatched: from the last "
        "strip trained on to the first test strip. Stretches without a measurement are drawn short, with "
        "their length.",
    )


def _rounds(draw: Drawing, one: Personal, settings: Settings) -> Figure:
    words = headline(settings.task)
    canvas = figure(timeline.WIDTH, 2.9)
    second = FIGURES["beat_auc"]
    for index, shown in enumerate((words, second)):
        axes = canvas.add_axes((0.085 + 0.49 * index, 0.17, 0.4, 0.66))
        series = {
            METHODS[method].title: np.array(
                [one.figure(method, round_, shown.key) for round_ in range(one.rounds + 1)]
            )
            for method in FITTED
        }
        timeline.by_round(series, shown.title, shown.percent, axes)
        if index == 0:
            handles = axes.get_legend_handles_labels()
    canvas.legend(*handles, loc="upper center", ncols=4, frameon=False, fontsize=9)
    ends = "; ".join(
        f"{METHODS[m].noun} {figure_value(one.last(m, words.key), words)}" for m in ("generic", *FITTED)
    )
    return draw.page(
        canvas,
        "rounds",
        f"{words.heading} by personalization round",
        f"After the last round: {ends}.",
        f"Results on the same {plural(sum(one.test), 'test strip')} after each personalization round: "
        f"{words.title} (left) and {second.title} (right). Round 0 is the generic model; with each round one "
        "more strip of each label is learned from.",
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
                naming.moment(strip.start, story.first).replace(" ", "\u00a0"),
                *([decimal(strip.value, 1)] if task.quantity else []),
                task.word(strip.label),
                f"train, round {strip.pair}" if strip.pair else USES.get(strip.use, strip.use),
                count(strip.n_beats),
                decimal(strip.heart_rate_bpm, 0),
                _vote(strip, "generic"),
                _vote(strip, "selected"),
                *([] if naming.pseudonymous else [_rows(strip)]),
            ]
        )
    value = [f"{task.quantity[:1].upper()}{task.quantity[1:]}, {task.unit}"] if task.quantity else []
    columns = 5 if task.quantity else 4
    return Table(
        caption="Every accepted strip in order of time. Votes: share of beats called positive, by the "
        "generic model and by the model selected before the strip was trained on; "
        "✗: the label says otherwise.",
        head=("Start", *value, "Label", "Use", "Beats", "Heart rate", "Generic", "Selected",
              *([] if naming.pseudonymous else ["Row of strips" + (" / draws" if task.quantity else "")])),
        rows=rows,
        text=(columns - 3, columns - 2),
        marked=marked,
        note="Shaded: test strips that the selected model calls wrong." if marked else "",
        form="dense",
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
        "Lower is better; 0.693 is a coin.",
        head=("Method", *(f"Pair {n + 2}" for n in range(pairs)), "Sum"),
        rows=rows if pairs else [],
        form="narrow",
        empty="There was no pair to compare models on before training on it.",
    )


def why(one: Personal, settings: Settings) -> str:
    """Say by which rule the model was selected."""
    rules = settings.personalization
    text = (
        "Before each pair of strips is trained on, every model so far is asked about it; test strips play no "
        "part. From simple to complex (generic, own threshold, closed-form head, fine-tuned), a more complex "
        f"model is selected only if its summed log loss is lower by more than {decimal(rules.guard_margin)}, "
        f"and nothing but the generic model before {plural(rules.guard_pairs, 'pair')} can be compared."
    )
    if one.guard is not None:
        text += (
            " On the test strips the choice was as good as the best method (beat F1 within 0.01)."
            if one.guard
            else " On the test strips another method was better (beat F1)."
        )
    return text


def ways_table(subject: Subject, settings: Settings) -> Table:
    """Return every way tried for this patient, on the same test strips, and under the paper's protocol."""
    words, one = headline(settings.task), subject.personal
    rows: list[list[str]] = []
    strong: list[int] = []
    parts = [("Prospective: later strips, after a gap", one, (*METHODS, *BASELINES))]
    if subject.beside is not None and subject.beside.tested:
        parts.append(("Paper: a random quarter of the strips", subject.beside, (*METHODS, "published")))
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


def origin(one: Personal, story: Story, naming: Naming) -> list[tuple[str, str]]:
    """Return the rows of the site database that the page was written from."""
    rows = [("Run", f"{story.run} (table runs), protocol {one.protocol}")]
    if not naming.pseudonymous:
        rows.append(("Personalization", f"{story.row} (table personalization_runs)"))
        rows.append(("Patient", f"{story.patient} (table patients)"))
        records = sorted({strip.record for strip in story.strips if strip.record})
        rows.append(("WFDB records", ", ".join(records) or MISSING))
    return rows


def neighbours(pages: Sequence[str], index: int) -> dict[str, str]:
    """Return the pages before and after one in a list, empty at its ends."""
    return {
        "previous": pages[index - 1] if index > 0 else "",
        "next": pages[index + 1] if index + 1 < len(pages) else "",
    }
