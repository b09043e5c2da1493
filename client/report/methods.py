"""How the numbers of a report were made: in sentences a clinician can follow, and setting by setting."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from client.learning.calibration import MIN_STRIPS_POOLED
from client.report.evidence import Generic
from client.report.reading_votes import ScoredStrips
from common.config import Section, Settings, TrainingSettings, make_settings
from common.intervals import MIN_VALUES, SMALL_SAMPLE
from common.page import METHODS, Table
from common.page.numbers import MINUS, decimal, percent, plural
from common.procedures import not_run

#: Of settings that differ from the default.
MARK = "▲"


def methods_text(
    settings: Settings, generic: Sequence[Generic], scored: ScoredStrips
) -> list[tuple[str, str]]:
    """Return the methods as titles with a few plain sentences, in the order of the journey.

    Parameters
    ----------
    settings : of the site, as the run used them.
    generic : the generic model of each run, for what the federation did.
    scored : for the settings with which each was trained.
    """
    return [
        ("Labels", _labels(settings)),
        ("Signal", _signal(settings)),
        ("Quality", _quality(settings)),
        ("Cohort", _cohort(settings)),
        ("Model", _model(settings)),
        ("Generic model", _federation(generic, scored, settings)),
        ("Personal models", _personal(settings)),
        ("Test", _test(settings)),
        ("Selection", _selection(settings)),
        ("Comparisons, controls", _beside(settings)),
        ("Numbers", _numbers(settings)),
    ]


def _labels(settings: Settings) -> str:
    task, label = settings.words, settings.label
    if not task.quantity:
        return f"{_sentence(task.rule)}"
    blood = "Serum and whole-blood results count" if label.whole_blood else "Only serum results count"
    suspected = "left out as well" if label.suspected_hemolysis == "exclude" else "kept"
    return (
        f"Positive: {task.quantity} above {_limit(label.positive_above)} {task.unit}; negative: "
        f"{_limit(label.negative_from)} to {_limit(label.negative_to)} {task.unit}. Strips between the two "
        "keep their beats, are never trained on and are in no figure of accuracy. Draws less than "
        f"{_duration(label.merge_s)} apart are one measurement if their labels agree, and left out if not. "
        f"{blood}; specimens the laboratory reports as hemolyzed are left out, those a rule suspects are "
        f"{suspected}."
    )


def _signal(settings: Settings) -> str:
    signal, strip = settings.signal, settings.strip
    return (
        f"A strip is {settings.words.strip_rule}. Lead II is brought to {signal.rate_hz:g} samples per "
        f"second and filtered from {signal.low_hz:g} to {signal.high_hz:g} Hz without a shift in time. A "
        "beat is 120 samples, from 320 ms before to 632 ms after its R peak; at a fast heart rate the next "
        f"beat may reach into it. A strip needs {plural(strip.min_beats, 'accepted beat')}"
        + (f" and {_duration(strip.min_signal_s)} of signal." if strip.min_signal_s else ".")
    )


def _quality(settings: Settings) -> str:
    rules = settings.quality
    if not rules.reject:
        return "No strip and no beat is left out for its quality or rhythm."
    return (
        "Rules decide: a strip is left out if two programs that find R peaks agree on less than "
        f"{percent(rules.min_agreement)} of them, if fewer than {percent(rules.min_accepted_share)} of its "
        f"beats resemble its median beat (correlation {rules.min_beat_correlation:g}), if its signal is "
        "flat, clipped or of an amplitude that is not real, if its heart rate is not between "
        f"{rules.min_rate_bpm:g} and {rules.max_rate_bpm:g} per minute, or if its RR intervals are as "
        "irregular as in atrial fibrillation. Paced rhythms are flagged, not left out."
    )


def _cohort(settings: Settings) -> str:
    cohort = settings.cohort
    parts = ("training", "validation", "test")
    whole = sum(cohort.split)
    shares = ", ".join(
        f"{percent(part / whole)} {name}" for part, name in zip(cohort.split, parts, strict=True) if part
    )
    return (
        f"Patients with at least {cohort.min_positive} positive and {cohort.min_negative} negative strips "
        f"are personal; all others are generic and divided by patient ({shares}). Nobody is in two parts, "
        "and nobody whose beats helped to make a generic model is tested on it. The cohort is frozen before "
        "anything is trained."
    )


def _model(settings: Settings) -> str:
    model = settings.model
    return (
        f"A residual network of {model.depth} layers for one lead, {model.width} channels wide at its first "
        "stage. It gives every beat a score; above zero the beat is called positive, and a strip is called "
        "positive when more than half of its beats are (a tie is negative)."
    )


def _federation(generic: Sequence[Generic], scored: ScoredStrips, settings: Settings) -> str:
    several = len(generic) > 1
    texts = []
    for one in generic:
        training = scored.training.get(one.run, settings.training)
        chosen = ""
        if one.round is not None:
            how = ""
            if one.round < one.rounds:
                how = ", chosen by the loss on validation patients, each patient weighing the same"
            elif one.decayed:
                how = ", the last of a decaying learning rate"
            chosen = f" Its weights are those after federated round {one.round} of {one.rounds}{how}."
        texts.append(f"{f'{one.run}: ' if several else ''}{_training(training)}{chosen}")
    return (
        "Trained across sites: in every federated round each site trained on its own patients and sent "
        f"weights, never beats; the coordinator averaged them. {' '.join(texts)}"
    ).strip()


def _training(training: TrainingSettings) -> str:
    drawn = f"up to {training.beats_per_strip}" if training.beats_per_strip else "all"
    balance = (
        "both labels weighing the same"
        if training.balance == "strips"
        else "labels weighing as often as they occur"
    )
    return (
        f"A site’s round: {plural(training.local_epochs, 'pass', 'passes')} over {drawn} beats of every "
        f"strip, {balance} (Adam, learning rate {training.learning_rate:g} at first, {training.batch_size} "
        "beats a step)."
    )


def _personal(settings: Settings) -> str:
    own = settings.personalization
    frozen = (
        "every layer is trained"
        if own.freeze_through == "none"
        else f"layers up to the {_stage(own.freeze_through)} stay as they are"
    )
    start = "the generic model" if own.start == "restart" else "the model of the round before"
    head = "a new last layer" if own.head == "new" else "the generic last layer"
    beats = f"{own.beats_per_strip} beats" if own.beats_per_strip else "all beats"
    return (
        f"In each of at most {plural(own.rounds, 'personalization round')} a patient gives one more strip of "
        f"each label ({beats} of it). Three ways learn from them: an own threshold; a last layer solved in "
        f"closed form, drawn toward the generic one (penalty {own.penalty:g}); and fine-tuning, which starts "
        f"each round from {start} with {head} and trains {plural(own.epochs, 'pass', 'passes')} at a "
        f"learning rate of {own.learning_rate:g}, {own.batch_size} beats a step ({frozen})."
    )


def _test(settings: Settings) -> str:
    own = settings.personalization
    gap = f" by at least {_duration(own.gap_s)}" if own.gap_s else ""
    return (
        "Prospective: one moment divides a patient’s strips. At least "
        f"{percent(own.test_share)} of each label, and {own.min_test} strips, lie after it and are the test; "
        f"what is learned from lies before it{gap}, whatever its label. Patients whose labels leave no such "
        "moment are tested all the same and reported apart."
    )


def _selection(settings: Settings) -> str:
    own = settings.personalization
    order = ", ".join(
        METHODS[name].title.lower() for name in ("generic", "threshold", "closed_form", "fine_tuned")
    )
    return (
        "A guard chooses one model per patient from training strips alone: every model is asked about the "
        f"next pair of strips before it learns from it. From simple to complex ({order}), a more complex "
        f"model is taken only if its summed log loss is lower by more than {own.guard_margin:g}, and nothing "
        f"but the generic model before {plural(own.guard_pairs, 'such pair')}."
    )


def _beside(settings: Settings) -> str:
    own = settings.personalization
    paper = (
        "the protocol of the source paper (a random part of the strips held out, training in random order); "
        if "paper" in own.protocols
        else ""
    )
    missing = not_run(own)
    left = f" Not run with these settings: {', '.join(missing)}." if missing else ""
    return (
        f"On the same patients: {paper}simpler ways to tell the labels apart; and controls with labels that "
        f"mean nothing, which show what days and electrodes give away.{left}"
    )


def _numbers(settings: Settings) -> str:
    return (
        "The unit is the patient: figures are means over patients, not over beats. One comparison was "
        "declared before the run: selected model against own threshold, last round, prospective. All others "
        "are exploratory; their P values (Wilcoxon signed-rank) are corrected by Holm within each table. "
        f"Below {MIN_VALUES} patients there are no intervals, up to {SMALL_SAMPLE} Student’s t, above a "
        "bootstrap over patients; within one patient Wilson’s interval. Calibration is pooled over at least "
        f"{MIN_STRIPS_POOLED} strips. Every random choice follows from seed {settings.seed}."
    )


def settings_table(settings: Settings, scored: ScoredStrips) -> Table:
    """Return every setting with its value, the default of the task, and what it means, by section.

    Settings that differ from the task's ``standard`` preset carry a mark. Those of measured labels are not
    listed for a task that has none.

    Parameters
    ----------
    settings : of the site, as the run used them.
    scored : for the training the coordinator asked for, which is shown in place of the site's own.
    """
    asked = list(scored.training.values())
    if asked and all(one == asked[0] for one in asked):
        settings = settings.model_copy(update={"training": asked[0]})
    standard = dict(_values(make_settings(settings.task)))
    rows: list[list[str]] = []
    strong: list[int] = []
    marked: list[int] = []
    section = ""
    for name, (value, meaning) in _values(settings):
        head, _, key = name.rpartition(".")
        if head == "label" and not settings.words.quantity:
            continue
        if head != section:
            section = head
            strong.append(len(rows))
            rows.append([head, "", "", _about(getattr(settings, head))])
        default = standard[name][0]
        if changed := value != default:
            marked.append(len(rows))
        rows.append(
            [
                f"  {key}" + (f" {MARK}" if changed else ""),
                _written(key, value),
                _written(key, default),
                meaning,
            ]
        )
    return Table(
        caption=f"Every setting, with the default of the task {settings.task} (preset standard); this site "
        f"used the preset {settings.preset}.",
        head=("Setting", "Value", "Default", "Meaning"),
        rows=rows,
        text=(1, 2, 3),
        strong=strong,
        marked=marked,
        note=f"{MARK} differs from the default. The coordinator decides model, training and federation; "
        "what it asked for in federation is not known here, so this site’s own file is shown.",
        form="dense",
    )


def _values(section: Section, prefix: str = "") -> Iterator[tuple[str, tuple[Any, str]]]:
    for name, info in type(section).model_fields.items():
        value = getattr(section, name)
        if isinstance(value, Section):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", (value, info.description or _ABOUT_TOP.get(name, ""))


_ABOUT_TOP: Mapping[str, str] = {
    "task": "What the model tells apart",
    "preset": "Values laid over the defaults",
}


def _about(section: Section) -> str:
    """Return what a group of settings is about: its first sentence, without sources in brackets."""
    text = (type(section).__doc__ or "").strip().splitlines()[0]
    return re.sub(r" \([^)]*\)", "", text)


def _written(key: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple):
        if all(isinstance(one, float) for one in value):
            return " : ".join(f"{one:g}" for one in value)
        return ", ".join(str(one) for one in value)
    if isinstance(value, float):
        text = np.format_float_positional(value, trim="-").replace("-", MINUS)
        return f"{text} ({_duration(value)})" if key.endswith("_s") and value >= 60 else text
    return str(value) if value != "" else "none"


def _duration(seconds: float) -> str:
    """Write a time in the unit a person would use: ``10 min``, ``6 h``."""
    if seconds >= 3600:
        return f"{_plain(seconds / 3600)}\u202fh"
    return f"{_plain(seconds / 60)}\u202fmin" if seconds >= 60 else f"{_plain(seconds)}\u202fs"


def _limit(value: float) -> str:
    """Write a limit of a label with at least one decimal, as laboratories do."""
    return np.format_float_positional(value, trim="0")


def _plain(number: float) -> str:
    return decimal(number, 0 if float(number).is_integer() else 1)


def _stage(name: str) -> str:
    return name if name == "stem" else f"{('first', 'second', 'third', 'fourth')[int(name[-1]) - 1]} stage"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
