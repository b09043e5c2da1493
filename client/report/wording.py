"""The first screen in words: what was asked, the answer, its numbers, and what to know before trusting it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean

from client.learning.explain import PatientExplanation
from client.report.comparison import WORSE_BY, Comparison, Loss, lost, worse_off
from client.report.evidence import APART, CohortEvidence, Evidence, Generic, Personal
from common.config import Settings
from common.intervals import MIN_VALUES
from common.page import METHODS, FigureWords, Key, Note
from common.page.numbers import count, figure_difference, figure_value, interval_text, plural, share
from common.page.verdict import WEAK_AUC, verdict, weak_model
from common.page.words import FIGURES, cohort_rule

#: What became of a patient, for the reader; the codes are those of ``client.learning.planning``.
OUTCOMES: Mapping[str, str] = {
    "personal": "fitted and tested",
    "not_interleaved": "fitted, but labels lie in different periods",
    "too_few_strips": "too few strips once training and test are kept apart in time",
    "one_label": "strips of one label only",
    "trained_generic": "helped to train the generic model, so not tested",
    "after_cohort": "not in the cohort, which was frozen before there were enough strips; freeze a new one",
}
SHORT_OUTCOMES: Mapping[str, str] = {"personal": "tested", "not_interleaved": "set apart"}


def asked(settings: Settings) -> str:
    """Say what was asked, in the task's words."""
    task, cohort = settings.words, settings.cohort
    return (
        f"Can one ECG lead tell {task.positive} from {task.negative}, and does it help to fit the model to "
        "each patient? A generic model was trained across sites while every ECG stayed at its own. It was "
        f"then fitted to each patient of this site with at least {cohort.min_positive} positive and "
        f"{cohort.min_negative} negative strips, and tested on strips of the same patient recorded later. "
        f"A strip is {task.strip_rule}."
    )


def rule(settings: Settings) -> str:
    """Say what the labels are."""
    sentence = settings.words.rule
    return f"Labels: {sentence}."


def cohort_rules(evidence: CohortEvidence) -> str:
    """Say which strips of generic patients are in; empty before a cohort is frozen."""
    if not evidence.is_frozen:
        return ""
    rules = evidence.settings["cohort"]
    return cohort_rule(rules.get("classes", "both"), rules.get("balance", "none"))


def answer(result: Comparison, evidence: Evidence) -> str:
    """Answer in one plain sentence."""
    if not result.patients:
        return f"No patient of this site could be tested personally. {_generic_alone(evidence.generic)}"
    selected, threshold = (result.methods[method].mean for method in ("selected", "threshold"))
    change = result.over_threshold
    return verdict(result.words, selected, threshold, change.n, change.interval)


def beside(result: Comparison) -> str:
    """Say how the generic model alone compares; exploratory, and empty without personal patients."""
    if not result.patients:
        return ""
    words, change = result.words, result.over_generic
    text = (
        "The generic model alone reached "
        f"{figure_value(result.methods['generic'].mean, words)}; the selected "
        f"models differ from it by {figure_difference(change.mean, words)} on average "
        f"({interval_text(change.interval, words, difference=True)}; exploratory)."
    )
    if words.key != "strip_accuracy":
        return text
    positive = [one.test[0] / sum(one.test) for one in result.patients]
    commoner = fmean(max(part, 1 - part) for part in positive)
    return (
        f"{text} Always saying the label that is commoner among a patient’s test strips would reach "
        f"{figure_value(commoner, words)}."
    )


def _generic_alone(generic: Sequence[Generic]) -> str:
    for one in generic:
        if one.counted:
            strips = one.strips
            return (
                f"The generic model called {share(strips.tp + strips.tn, strips.total)} strips of "
                f"{plural(one.patients, 'test patient')} right."
            )
    return "There is no generic test patient either, so there are no numbers to show."


def keys(result: Comparison) -> list[Key]:
    """Return the numbers of the first screen."""
    if not result.patients:
        return []
    words = result.words

    def one(method: str, main: bool = False) -> Key:
        value = result.methods[method]
        return Key(
            METHODS[method].title,
            figure_value(value.mean, words),
            f"mean {words.title}, {plural(value.n, 'patient')}; {interval_text(value.interval, words)}",
            main,
        )

    difference = result.over_threshold
    return [
        one("selected", main=True),
        one("threshold"),
        one("generic"),
        Key(
            "Selected − own threshold",
            figure_difference(difference.mean, words),
            f"{plural(difference.n, 'patient')}; "
            f"{interval_text(difference.interval, words, difference=True)}; "
            "the comparison declared before the run",
        ),
    ]


def notes(result: Comparison, evidence: Evidence, settings: Settings) -> list[Note]:
    """Return what a reader must know before believing the numbers."""
    out = [Note("Not finished:", text) for text in evidence.unfinished]
    n = len(result.patients)
    if n == 0:
        out.append(Note("No personal result.", why_nobody(evidence, settings)))
    elif n < MIN_VALUES:
        out.append(
            Note(
                f"Only {plural(n, 'personal patient')}.",
                f"Below {MIN_VALUES} patients this report shows points and no "
                "intervals; a difference between "
                "methods may be chance.",
            )
        )
    worse = worse_off(result)
    if worse:
        listed = "; ".join(
            _loss(loss, result.words, evidence.naming.name(loss.patient.patient)) for loss in worse
        )
        out.append(
            Note(f"{plural(len(worse), 'patient')} worse off than with the generic model:", f"{listed}.")
        )
    elif n:
        out.append(
            Note(
                f"No patient of the primary result lost more than {limit(result.words)} {result.words.title}"
                + ("" if result.words.key == "beat_f1" else f" or {WORSE_BY:g} beat F1"),
                "against the generic model.",
            )
        )
    out += _below_threshold(result, evidence)
    for generic in evidence.generic:
        where = f" ({generic.run})" if len(evidence.generic) > 1 else ""
        if generic.histogram is not None and generic.histogram.auc < WEAK_AUC:
            sample = f"{plural(generic.strips.total, 'strip')} of {plural(generic.patients, 'test patient')}"
            out.append(weak_model(generic.histogram.auc, sample, where, _within(result)))
        if generic.decayed and generic.round is not None and generic.round == generic.rounds:
            out.append(
                Note(
                    f"The generic model is the last of a decaying schedule{where}.",
                    "Its weights are those after the last federated round, not those with "
                    "the best validation loss: "
                    "the way for few validation patients.",
                )
            )
    out += [Note("Cohort:", f"{note}.") for note in evidence.cohort_notes]
    apart = [one for one in evidence.personal if one.outcome == APART and one.tested]
    if apart:
        out.append(
            Note(
                f"{plural(len(apart), 'patient')} outside the primary result.",
                "Their positive and negative strips lie in different periods, so that "
                "no single time separates "
                "training from test. They are reported apart: a model may tell the periods from each other.",
            )
        )
    return out


def _within(result: Comparison) -> str:
    """Say how well the generic model tells a personal patient's own beats apart; empty where unknown."""
    aucs = [auc for one in result.patients if math.isfinite(auc := one.last("generic", "beat_auc"))]
    if not aucs:
        return ""
    mean = figure_value(fmean(aucs), FIGURES["beat_auc"])
    return f"Within each of the {plural(len(aucs), 'personal patient')} it is {mean} on average."


def _below_threshold(result: Comparison, evidence: Evidence) -> list[Note]:
    """Name the patients whose own threshold would have done better than what was selected."""
    words = result.words
    losses = sorted(
        (change, evidence.naming.name(one.patient), sum(one.test))
        for one in result.patients
        if (change := lost(one, words.key, "threshold")) is not None
    )
    if not losses:
        return []
    listed = "; ".join(
        f"patient {name}, {words.title} {figure_difference(change, words)}, on {plural(n, 'test strip')}"
        for change, name, n in losses
    )
    return [Note(f"{plural(len(losses), 'patient')} worse off than with their own threshold:", f"{listed}.")]


def _loss(loss: Loss, words: FigureWords, name: str) -> str:
    one = loss.patient
    score = one.score("selected", one.rounds)
    beats = f" ({plural(score.beats.total, 'beat')})" if score else ""
    changes = [f"{words.title} {figure_difference(loss.headline, words)}"]
    if words.key != "beat_f1":
        changes.append(f"beat F1 {figure_difference(loss.beat_f1, FIGURES['beat_f1'])}")
    return f"patient {name}, {', '.join(changes)}, on {plural(sum(one.test), 'test strip')}{beats}"


def why_nobody(evidence: Evidence, settings: Settings) -> str:
    """Say why there is no personal result."""
    found = len({one.patient for one in evidence.personal})
    need = f"{settings.cohort.min_positive} positive and {settings.cohort.min_negative} negative strips"
    if not found:
        return f"No patient of the frozen cohort has {need}."
    outcomes = sorted({one.outcome for one in evidence.personal})
    reasons = ", ".join(
        f"{sum(one.outcome == code for one in evidence.personal)} {outcome_text(code)}" for code in outcomes
    )
    return f"{plural(found, 'patient')} came into question: {reasons}."


def limit(words: FigureWords) -> str:
    """Write the loss from which on a patient is named, in the form of the figure."""
    return "5 points" if words.percent else f"{WORSE_BY:g}"


def short_outcome(code: str) -> str:
    """Return an outcome for a narrow column."""
    return SHORT_OUTCOMES.get(code, code.replace("_", " "))


def outcome_text(code: str) -> str:
    """Return what an outcome means."""
    return OUTCOMES.get(code, code.replace("_", " "))


def selection_sentence(evidence: Evidence, result: Comparison) -> str:
    """Say what the guard chose, and how often its choice held on the test strips."""
    if not result.patients:
        return ""
    chosen = [one.selected_method or "generic" for one in result.patients]
    parts = [f"{METHODS[m].title.lower()} {chosen.count(m)}" for m in METHODS if chosen.count(m)]
    text = f"What the guard chose for the {plural(len(chosen), 'patient')}: {', '.join(parts)}."
    if evidence.guard[1]:
        hits, decisions = evidence.guard
        text += (
            " Where it had enough strips to decide, its choice was as good as the best method on the test "
            f"strips (beat F1 within 0.01) for {count(hits)} of {plural(decisions, 'patient')}."
        )
    return text


def example(patient: Personal, name: str, result: Comparison, seen: PatientExplanation | None) -> str:
    """Say which patient is shown, by its name on the page, why this one, and what became of it."""
    words = result.words
    before, after = (
        figure_value(patient.last(method, words.key), words) for method in ("generic", "selected")
    )
    chosen = METHODS.get(patient.selected_method or "generic", METHODS["generic"])
    text = (
        f"Patient {name} is the one with the median gain, among "
        "those whose selected model has weights "
        "of its own where there are any: a rule, not a choice. Selected was "
        f"{chosen.noun}; {words.title} went "
        f"from {before} to {after} on {plural(sum(patient.test), 'test strip')}."
    )
    if seen is None:
        text += (
            " There are no figures, because the models or beats of this patient are no longer on the disk or "
            "were replaced; run 'fedkalemia-site personalize' and 'report' again."
        )
    return text
