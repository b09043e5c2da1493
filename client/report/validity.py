"""What could fool a reader: simpler ways on the same strips, the paper's protocol, and controls.

A control is the whole procedure where potassium has nothing to say. What it gains on the generic model is
what days, electrodes and heart rates give away; the gain of the personal models is shown beside it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev

from client.learning.comparisons import paired
from client.learning.controls import MIN_STRIPS
from client.learning.protocols import DAYS, PERMUTED
from client.report.comparison import Comparison, Summary, summary
from client.report.evidence import APART, Evidence, Personal
from client.report.tables import p_value
from common.config import Settings
from common.corrections import holm
from common.metrics import AS_GOOD
from common.page import BASELINES, FIGURES, METHODS, FigureWords, Note, Table
from common.page.numbers import (
    MISSING,
    SMALL_SAMPLE_NOTE,
    count,
    figure_difference,
    figure_value,
    interval_cell,
    interval_text,
    plural,
)
from common.procedures import CONTROLS, FLAGGED, LEARNING, control_verdict, not_run
from common.seeding import stream

#: Controls by their name in the database, and what they are.
CONTROL_WORDS: Mapping[str, str] = {PERMUTED: CONTROLS["permuted"], DAYS: CONTROLS["days"]}


@dataclass(frozen=True)
class Control:
    """What one control found.

    Attributes
    ----------
    name : ``control_permuted`` or ``control_days``.
    patients : for whom it could be computed.
    tried : for whom it was tried.
    gain : selected less generic, in the headline figure.
    auc : beat AUC by method, ``LEARNING``.
    """

    name: str
    patients: int
    tried: int
    gain: Summary
    auc: Mapping[str, Summary]

    @property
    def flagged(self) -> bool:
        """Whether labels without meaning were told apart: a lower 95 % bound above .5."""
        return self.verdict == FLAGGED

    @property
    def verdict(self) -> str:
        """What the control says in a word or two; without any interval it says nothing."""
        if not self.patients:
            return "not computable"
        return control_verdict(one.interval.low if one.interval else None for one in self.auc.values())


def controls_of(evidence: Evidence, result: Comparison, seed: int, site: str) -> list[Control]:
    """Summarize every control that was run."""
    words = result.words
    found = []
    for name in CONTROL_WORDS:
        rows = [one for one in evidence.controls if one.protocol == name]
        tested = [one for one in rows if one.tested]
        if rows:
            gains = [one.last("selected", words.key) - one.last("generic", words.key) for one in tested]
            auc = {
                method: summary([one.last(method, "beat_auc") for one in tested], seed, site, name, method)
                for method in LEARNING
            }
            found.append(Control(name, len(tested), len(rows), summary(gains, seed, site, name, "gain"), auc))
    return found


def control_notes(controls: Sequence[Control], result: Comparison) -> list[Note]:
    """Say on the first screen what the controls found, beside what was gained."""
    words, out = result.words, []
    gain = result.over_generic
    for one in controls:
        what = CONTROL_WORDS[one.name].lower()
        if not one.patients:
            out.append(Note(f"Control with {what}: {one.verdict}.", "No patient has the days it needs."))
            continue
        beside = (
            f"The same procedure gained {figure_difference(one.gain.mean, words)} over the generic model "
            f"there ({plural(one.gain.n, 'patient')}; "
            f"{interval_text(one.gain.interval, words, difference=True)}), against "
            f"{figure_difference(gain.mean, words)} with the true labels."
        )
        if one.flagged:
            out.append(
                Note(
                    f"Control with {what}: {one.verdict}.",
                    f"Labels that mean nothing were told apart better than by chance. {beside} As much of "
                    "the gain may be days, electrodes or heart rates, not the quantity itself.",
                )
            )
        elif result.patients:
            out.append(Note(f"Control with {what}: {one.verdict}.", beside))
    return out


def simpler_ways(result: Comparison) -> list[Note]:
    """Name the baselines that did as well as the selected model, or better, the best first."""
    words = result.words
    selected = result.methods["selected"].mean
    found = []
    for key, own in BASELINES.items():
        values = [v for one in result.patients if math.isfinite(v := one.last(key, words.key))]
        if values and (mean := math.fsum(values) / len(values)) >= selected - AS_GOOD:
            found.append((mean, f"{own.noun} {figure_value(mean, words)}"))
    if not found:
        return []
    listed = ", ".join(text for _, text in sorted(found, reverse=True))
    return [
        Note(
            "A simpler way did as well, or better, on the same test strips:",
            f"{listed}, against {figure_value(selected, words)} with the selected model (mean {words.title}; "
            "exploratory).",
        )
    ]


def few_episodes(result: Comparison) -> list[Note]:
    """Name how many patients had one episode of a label only."""
    single = [one for one in result.patients if min(one.episodes) < 2]
    if not single:
        return []
    return [
        Note(
            f"{plural(len(single), 'patient')} with one episode of a label.",
            "All strips of that label follow one another without a strip of the other between them: what "
            "tells the labels apart may be what tells two periods apart.",
        )
    ]


def controls_table(controls: Sequence[Control], words: FigureWords) -> Table:
    """Return what each control found."""
    auc = FIGURES["beat_auc"]
    rows = [
        [
            CONTROL_WORDS[one.name],
            f"{count(one.patients)} of {count(one.tried)}",
            figure_difference(one.gain.mean, words) if one.gain.n else MISSING,
            interval_cell(one.gain.interval, words, difference=True),
            *(
                f"{figure_value(one.auc[method].mean, auc)} ({interval_cell(one.auc[method].interval, auc)})"
                if one.auc[method].n
                else MISSING
                for method in LEARNING
            ),
            one.verdict,
        ]
        for one in controls
    ]
    return Table(
        caption="Controls: the whole procedure on labels that mean nothing. Gain: selected − generic. A "
        "control is flagged when the lower bound of a beat AUC is above 0.5; it needs an interval for that.",
        head=(
            "Control",
            "Patients",
            f"Gain, {words.title}",
            "95\u202f% interval",
            *(f"Beat AUC, {METHODS[method].noun.removeprefix('the ')}" for method in LEARNING),
            "Verdict",
        ),
        rows=rows,
        text=(len(LEARNING) + 4,),
        note=(
            f"{CONTROL_WORDS[PERMUTED]}: the sequences of labels of a patient’s days change places. "
            f"{CONTROL_WORDS[DAYS]}: strips of a patient’s earlier days against those of later days, for "
            f"whoever has at least {MIN_STRIPS} in both. A control that is not flagged is no proof. "
            + (SMALL_SAMPLE_NOTE if any("†" in cell for row in rows for cell in row) else "")
        ).strip(),
        form="dense",
        empty="No control was run.",
    )


def baselines_table(result: Comparison, seed: int, site: str) -> Table:
    """Return every way that was tried on the same test strips, the selected model last."""
    words = result.words
    ways = [key for key in (*BASELINES, *METHODS) if key != "selected"]
    ways = [key for key in ways if any((key, one.rounds) in one.scores for one in result.patients)] + (
        ["selected"] if result.patients else []
    )
    values = {key: [one.last(key, words.key) for one in result.patients] for key in ways}
    beats = {key: [one.last(key, "beat_auc") for one in result.patients] for key in ways}
    differences = {
        key: paired(
            values["selected"], values[key], "selected", key, stream("report", seed, site, "over", key)
        )
        for key in ways
        if key != "selected"
    }
    # The declared comparison stands alone; all others are corrected together.
    exploratory = [key for key in differences if key != "threshold"]
    adjusted = dict(zip(exploratory, holm([differences[key].p for key in exploratory]), strict=True))
    rows = []
    for key in ways:
        mean = summary(values[key], seed, site, words.key, key)
        auc = summary(beats[key], seed, site, "beat_auc", key)
        row = [
            (METHODS.get(key) or BASELINES[key]).title,
            f"{figure_value(mean.mean, words)} ({mean.n})" if mean.n else MISSING,
            interval_cell(mean.interval, words),
            figure_value(auc.mean, FIGURES["beat_auc"]) if auc.n else MISSING,
        ]
        if key == "selected":
            rows.append([*row, MISSING, MISSING, MISSING])
            continue
        one = differences[key]
        p = one.p if key == "threshold" else adjusted[key]
        rows.append(
            [
                *row,
                figure_difference(one.mean, words) if one.n else MISSING,
                f"{one.better} / {one.equal} / {one.worse}" if one.n else MISSING,
                p_value(p) + ("" if p is None or key == "threshold" else " ‡"),
            ]
        )
    return Table(
        caption=f"Every way that was tried, on the same test strips, after each patient’s last round: mean "
        f"{words.title} and mean beat AUC over patients, and how the selected model differs.",
        head=(
            "Way",
            f"Mean {words.title}",
            "95\u202f% interval",
            "Beat AUC",
            "Selected −",
            "Better / equal / worse",
            "P",
        ),
        rows=rows,
        note="P: Wilcoxon signed-rank over patients, two-sided. ‡ exploratory, corrected by Holm within this "
        "table. The comparison with the own threshold was declared before the run and stands alone.",
        form="dense",
        empty="No patient was tested personally.",
    )


def protocols_table(evidence: Evidence, result: Comparison, seed: int, site: str) -> Table:
    """Return the results by protocol: the declared one, patients set apart in it, and the paper's."""
    words = result.words
    apart = [one for one in evidence.personal if one.tested and one.outcome == APART]
    paper = [one for one in evidence.beside if one.tested]
    both = {one.patient for one in result.patients} & {one.patient for one in paper}
    groups: list[tuple[str, Sequence[Personal]]] = [
        ("Prospective: later strips, after a gap", result.patients),
        ("Prospective, labels in different periods", apart),
        ("Paper: a random quarter of the strips", paper),
        ("Paper, patients of the primary result", [one for one in paper if one.patient in both]),
    ]
    rows = []
    for name, members in groups:
        if not members:
            continue
        values = [
            summary([one.last(method, words.key) for one in members], seed, site, name, method)
            for method in METHODS
        ]
        spread = [_spread([one.last(method, words.key) for one in members], words) for method in METHODS]
        cells = [
            f"{figure_value(value.mean, words)}{wide}" for value, wide in zip(values, spread, strict=True)
        ]
        published = [v for one in members if math.isfinite(v := one.last("published", words.key))]
        rows.append(
            [
                name,
                count(len(members)),
                *cells,
                figure_value(math.fsum(published) / len(published), words) + _spread(published, words)
                if published
                else MISSING,
            ]
        )
    return Table(
        caption=f"By protocol: mean {words.title} after the last round (standard deviation over patients). "
        "The random hold-out of the source paper has test strips between training strips, hours apart, with "
        "the same electrodes; only the first line is the primary result.",
        head=(
            "Protocol",
            "Patients",
            *(METHODS[method].short for method in METHODS),
            "Published rate and batch",
        ),
        rows=rows,
        form="dense",
        empty="No patient was tested personally.",
    )


def _spread(values: Sequence[float], words: FigureWords) -> str:
    kept = [value for value in values if math.isfinite(value)]
    if len(kept) < 2:
        return ""
    return f" ({figure_value(stdev(kept), words)})"


def left_out(settings: Settings) -> str:
    """Name what the settings did not run; empty where everything was."""
    names = not_run(settings.personalization)
    return f"Not run with these settings: {', '.join(names)}." if names else ""
