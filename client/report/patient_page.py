"""The page of one patient: what was measured, what each model said, which was selected and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from client.learning.explain import PatientExplanation
from client.report import patient_tables, timeline
from client.report.cohort_tables import reason
from client.report.comparison import FITTED, lost
from client.report.drawing import Drawing
from client.report.evidence import APART, Personal, Score
from client.report.looking import attention_table
from client.report.naming import Naming
from client.report.story import Story
from client.report.wording import outcome_text
from common.config import Settings
from common.intervals import wilson
from common.page import FIGURES, METHODS, Figure, Key, Note, headline
from common.page.figure import figure
from common.page.numbers import (
    MISSING,
    SPACE,
    count,
    decimal,
    figure_value,
    percent,
    plural,
)
from common.task import Task

TEMPLATE = Path(__file__).parent / "patient.html"
#: Fewer test strips of a label and the page says so above all numbers.
FEW_STRIPS = 5
#: Parts of the caption of the strips over time.
MEASURED = "of each draw (small dots: without an accepted strip), up to a day around the strips."
VOTED = (
    "he share of each strip’s beats that is called positive, by the generic model (hollow) and by the model "
    "selected in the round before (filled); above the dotted line the strip is called positive. Numbers: the "
    "personalization round from which on a strip is trained on; its votes are from before, though the other "
    "label’s strips of that round may be later ones. Grey: the time of the test strips; hatched: from the "
    "last strip trained on to the first test strip."
)


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
    figures = {"timeline": _timeline(draw, story, settings, naming, name) if _drawable(story, task) else None}
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
            "strips": patient_tables.strips_table(story, task, naming),
            "rounds": patient_tables.rounds_table(one),
            "guard": patient_tables.guard_table(one, story),
            "ways": patient_tables.ways_table(one, subject.beside, settings),
            "attention": attention_table(seen, task) if seen else None,
            "models": None if naming.pseudonymous else patient_tables.models_table(story),
        },
        "why": why(one, settings),
        "missing": subject.missing,
        "origin": origin(one, story, naming),
        "tested": one.tested,
    }


def answer(one: Personal, settings: Settings) -> str:
    """Say in one sentence what became of the patient."""
    if not one.tested:
        return f"No personal model: {outcome_text(one.outcome)}."
    selected, generic = one.score("selected", one.rounds), one.score("generic", one.rounds)
    right, before = (s.strips.tp + s.strips.tn if s else 0 for s in (selected, generic))
    tested = plural(sum(one.test), "test strip")
    noun = METHODS[one.selected_method or "generic"].noun
    if one.selected_method == "generic":
        return (
            f"No personal model proved better in training: {noun} stays, and called {right} of "
            f"{tested} right{_by_label(selected, settings.words)}."
        )
    return (
        f"Selected was {noun}. It called {right} of {tested} right{_by_label(selected, settings.words)}; the "
        f"generic model {before}{_by_label(generic, settings.words)}."
    )


def _by_label(score: Score | None, task: Task) -> str:
    """Write how many strips of each label were called right: a model that always says one is seen at once."""
    if score is None:
        return ""
    strips = score.strips
    return (
        f" ({strips.tp} of {strips.tp + strips.fn} {task.positive}, {strips.tn} of {strips.tn + strips.fp} "
        f"{task.negative})"
    )


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
        judged = headline(settings.task).key
        for key, base in ((judged, "generic"), ("beat_f1", "generic"), (judged, "threshold")):
            if lost(one, key, base) is not None:
                words = FIGURES[key]
                before, after = (figure_value(one.last(m, key), words) for m in (base, "selected"))
                than = "the generic model" if base == "generic" else "the patient’s own threshold"
                out.append(Note(f"Worse off than with {than}:", f"{words.title} {before} → {after}."))
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
                    f"{plural(len(story.draws), 'draw')}"
                    + (f", {len(values)} with a number" if len(values) < len(story.draws) else "")
                    + f", {decimal(min(values), 1)} to {decimal(max(values), 1)} {task.unit}"))  # fmt: skip
    # A draw that became a strip has the strip's reason; what is left of the reasons is of draws alone.
    without = Counter(draw.reason for draw in story.draws if draw.reason) - Counter(story.left_out)
    if without:
        out.append(("Draws left out", _reasons(without)))
    labels = [(task.word(label), sum(strip.label == label for strip in story.strips))
              for label in ("positive", "negative", *(["gap"] if task.gap else []))]  # fmt: skip
    out.append(("Strips accepted", ", ".join(f"{name} {n}" for name, n in labels)))
    if story.left_out:
        out.append(("Strips left out", _reasons(story.left_out)))
    if story.strips:
        first, last = story.strips[0].start, story.strips[-1].end
        out.append(("Time", f"{naming.moment(first, story.first)} to {naming.moment(last, story.first)}"))
    if story.cut:
        rest = f"nothing trained on ends less than {story.gap_s / 3600:.3g} h before it"
        out.append(("First test strip", f"{naming.moment(story.cut, story.first)}; {rest}"))
    return out


def _reasons(counts: Mapping[str, int]) -> str:
    return "; ".join(f"{reason(code)}: {n}" for code, n in counts.items())


def _drawable(story: Story, task: Task) -> bool:
    """Whether there is anything to draw over time."""
    measured = task.quantity is not None and any(draw.value is not None for draw in story.draws)
    return bool(story.strips) and (measured or story.voted)


def _timeline(draw: Drawing, story: Story, settings: Settings, naming: Naming, name: str) -> Figure:
    task, label = settings.words, settings.label
    limits = (label.negative_to, label.positive_above) if task.quantity else ()
    canvas = timeline.timeline(
        story, task, limits, lambda time: naming.moment(time, story.first), naming.origin(story.first)
    )
    tested = sum(strip.use == "test" for strip in story.strips)
    parts = ["Strips over time."]
    if task.quantity:
        parts.append(("Above: " if story.voted else "") + f"{task.quantity} {MEASURED}")
    if story.voted:
        parts.append(("Below: t" if task.quantity else "T") + VOTED)
    parts.append("Stretches without a measurement are drawn short, with their length.")
    return draw.page(
        canvas,
        "timeline",
        "Strips over time",
        f"{plural(len(story.strips), 'strip')} of patient {name}, {tested} of them test strips.",
        " ".join(parts),
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
