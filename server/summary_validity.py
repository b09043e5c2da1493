"""What could fool a reader, across sites: simpler ways, the paper's protocol, controls, and P values.

The server has sums over patients and no patient: intervals are Student's t with each site as a stratum, and P
is that of the same t. A site's own report tests patient by patient (Wilcoxon signed-rank).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from common.corrections import holm
from common.metrics import AS_GOOD
from common.page import BASELINES, FIGURES, METHODS, FigureWords, Note, Table
from common.page.numbers import (
    MISSING,
    SMALL_SAMPLE_NOTE,
    count,
    decimal,
    figure_difference,
    figure_value,
    interval_cell,
    interval_text,
    plural,
)
from common.procedures import (
    BEAT_AUC,
    CONTROLS,
    FLAGGED,
    LEARNING,
    PAPER_METHODS,
    SIMPLER,
    control_verdict,
    not_run,
)
from server.summary_tables import WITHHELD
from server.sums import Pooled, Told, pooled

AUC = FIGURES["beat_auc"]
#: Paired differences that are told, the one declared before the run first.
DIFFERENCES = (
    ("selected", "threshold"),
    ("selected", "generic"),
    *(("selected", way) for way in SIMPLER),
    ("threshold", "generic"),
    ("closed_form", "generic"),
    ("fine_tuned", "generic"),
)
PUBLISHED = "Published rate and batch"
SMALLEST_P = 0.001
T_NOTE = (
    "P: two-sided Student’s t of the mean difference, from sums with each site as a stratum; the server has "
    "no figure of a single patient to rank. ‡ exploratory, corrected by Holm within a table."
)


@dataclass(frozen=True)
class Control:
    """What one control found over the sites that told it.

    Attributes
    ----------
    name : as on the wire.
    gain : selected less generic, in the figure of the task.
    auc : beat AUC by method that could learn.
    """

    name: str
    gain: Pooled
    auc: Mapping[str, Pooled]

    @property
    def flagged(self) -> bool:
        """Whether labels without meaning were told apart: a lower 95 % bound above chance."""
        return self.verdict == FLAGGED

    @property
    def verdict(self) -> str:
        """What the control says in a word or two; without any interval it says nothing."""
        return control_verdict(one.interval.low if one.interval else None for one in self.auc.values())


def controls_of(told: Sequence[Told], words: FigureWords) -> list[Control]:
    """Add up every control over the sites that told it; one nobody told is without patients."""
    return [
        Control(
            name,
            pooled(told, f"control.{name}.gain.{words.wire}"),
            {method: pooled(told, f"control.{name}.{method}.{BEAT_AUC}") for method in LEARNING},
        )
        for name in CONTROLS
    ]


def control_notes(told: Sequence[Told], words: FigureWords) -> list[Note]:
    """Say on the first screen what the controls found, beside what was gained."""
    out = []
    true = pooled(told, f"difference.selected-generic.{words.wire}")
    for one in controls_of(told, words):
        if not one.gain.all.n:
            continue
        what = CONTROLS[one.name].lower()
        beside = (
            f"The same procedure gained {figure_difference(one.gain.all.mean, words)} over the generic model "
            f"there ({of_sites(one.gain)}; {interval_text(one.gain.interval, words, difference=True)})"
        )
        if true.all.n:
            beside += f", against {figure_difference(true.all.mean, words)} with the true labels"
        title = f"Control with {what}: {one.verdict}."
        if one.flagged:
            text = (
                f"Labels that mean nothing were told apart better than by chance. {beside}. As much of the "
                "gain may be days, electrodes or heart rates, not the quantity itself."
            )
            out.append(Note(title, text))
        else:
            out.append(Note(title, f"{beside}."))
    if not out and true.all.n:
        text = "How much of the gain is days, electrodes or heart rates is not known from this page."
        out.append(Note("No control could be told across sites.", text))
    return out


def simpler_ways(told: Sequence[Told], words: FigureWords) -> list[Note]:
    """Name the simpler ways that did as well as the selected model, or better, the best first.

    Compared are sites that told both, so that the same patients are behind the two means.
    """
    found = []
    selected = pooled(told, f"last.selected.{words.wire}")
    for way in SIMPLER:
        own = pooled(told, f"last.{way}.{words.wire}")
        same = Pooled({site: selected.sites[site] for site in own.sites if site in selected.sites})
        if same.all.n and same.all.n == own.all.n and own.all.mean >= same.all.mean - AS_GOOD:
            numbers = f"{figure_value(own.all.mean, words)} against {figure_value(same.all.mean, words)}"
            found.append((own.all.mean, f"{BASELINES[way].noun}, {numbers} ({of_sites(own)})"))
    if not found:
        return []
    listed = "; ".join(text for _, text in sorted(found, reverse=True))
    title = "A simpler way did as well as the selected model, or better, on the same test strips:"
    return [Note(title, f"{listed}. Mean {words.title}; exploratory.")]


def ways_table(told: Sequence[Told], words: FigureWords) -> Table:
    """Return every way that was tried on the same test strips, the selected model last."""
    rows = []
    for key in (*BASELINES, *METHODS):
        own, auc = pooled(told, f"last.{key}.{words.wire}"), pooled(told, f"last.{key}.{BEAT_AUC}")
        if own.all.n or auc.all.n:
            title = (METHODS.get(key) or BASELINES[key]).title
            rows.append([title, *_mean_sd(own, words), interval_cell_of(own, words), *_auc(auc)])
    return Table(
        caption="Every way that was tried, on the same test strips, after each patient’s last round: mean "
        "over patients (standard deviation).",
        head=("Way", "Patients", "Sites", f"Mean {words.title}", "95\u202f% interval", "Beat AUC",
              "95\u202f% interval"),
        rows=rows if any(row[0] == BASELINES[way].title for row in rows for way in SIMPLER) else [],
        strong=[n for n, row in enumerate(rows) if row[0] == METHODS["selected"].title],
        note=_small(rows),
        form="dense",
        empty="No site could tell of simpler ways: too few patients, or they were not run.",
    )  # fmt: skip


def paper_table(told: Sequence[Told], words: FigureWords) -> Table:
    """Return the paper's protocol beside the declared one, on the same patients."""
    rows = []
    for key in PAPER_METHODS:
        paper, auc = (pooled(told, f"paper.{key}.{name}") for name in (words.wire, BEAT_AUC))
        if not paper.all.n:
            continue
        own = pooled(told, f"last.{key}.{words.wire}") if key in METHODS else Pooled({})
        same = Pooled({site: own.sites[site] for site in paper.sites if site in own.sites})
        title = METHODS[key].title if key in METHODS else PUBLISHED
        later = figure_value(same.all.mean, words) if same.all.n == paper.all.n else MISSING
        rows.append([title, *_mean_sd(paper, words), interval_cell_of(paper, words), *_auc(auc)[:1], later])
    return Table(
        caption="The source paper’s protocol: a random quarter of each label held out, after the last round. "
        f"Mean {words.title} over patients (standard deviation), and the same by the declared one: later "
        "strips of the same patients, after a gap.",
        head=("Method", "Patients", "Sites", f"Mean {words.title}", "95\u202f% interval", "Beat AUC",
              "Later strips"),
        rows=rows,
        note="With the random hold-out test strips lie between training strips, hours apart, with the same "
        "electrodes: its numbers are no estimate for tomorrow." + _small(rows, " "),
        form="dense",
        empty="No site could tell of the paper’s protocol: too few patients, or it was not run.",
    )  # fmt: skip


def controls_table(told: Sequence[Told], words: FigureWords) -> Table:
    """Return what each control found over the sites."""
    rows = []
    for one in controls_of(told, words):
        if not one.gain.all.n:
            continue
        rows.append(
            [
                CONTROLS[one.name],
                f"{count(one.gain.all.n)} of {plural(len(one.gain.sites), 'site')}",
                figure_difference(one.gain.all.mean, words),
                interval_cell(one.gain.interval, words, difference=True),
                *(
                    f"{figure_value(auc.all.mean, AUC)} ({interval_cell(auc.interval, AUC)})"
                    if auc.all.n
                    else MISSING
                    for auc in one.auc.values()
                ),
                one.verdict,
            ]
        )
    return Table(
        caption="Controls: the whole procedure on labels that mean nothing. Gain: selected − generic. A "
        "control is flagged when the lower bound of a beat AUC is above 0.5.",
        head=("Control", "Patients", f"Gain, {words.title}", "95\u202f% interval",
              *(f"Beat AUC, {METHODS[method].noun.removeprefix('the ')}" for method in LEARNING), "Verdict"),
        rows=rows,
        text=(len(LEARNING) + 4,),
        marked=[n for n, row in enumerate(rows) if row[-1] == "flagged"],
        note="A site whose control could not be computed for some patients leaves out more of them, so that "
        "the sum of a few does not follow; so patients may be fewer than above." + _small(rows, " "),
        form="dense",
        empty="No site could tell of a control: too few patients, or too few whose days allow one.",
    )  # fmt: skip


def differences_table(told: Sequence[Told], words: FigureWords) -> Table:
    """Return the paired differences, the declared one first, with P from sums."""
    found = {pair: pooled(told, f"difference.{pair[0]}-{pair[1]}.{words.wire}") for pair in DIFFERENCES}
    found = {pair: value for pair, value in found.items() if value.all.n}
    # The declared comparison stands alone; all others are corrected together.
    exploratory = [pair for pair in found if pair != DIFFERENCES[0]]
    adjusted = dict(zip(exploratory, holm([found[pair].p for pair in exploratory]), strict=True))
    rows = []
    for pair, value in found.items():
        primary = pair == DIFFERENCES[0]
        more, less = METHODS[pair[0]].title, _inside(pair[1])
        p = value.p if primary else adjusted[pair]
        rows.append(
            [
                f"{more} − {less}",
                "primary, declared before the run" if primary else "exploratory",
                f"{count(value.all.n)} of {plural(len(value.sites), 'site')}",
                figure_difference(value.all.mean, words),
                interval_cell(value.interval, words, difference=True),
                f"{p_text(p)}{'' if primary or p is None else ' ‡'}",
            ]
        )
    return Table(
        caption=f"Paired differences in {words.title} after the last round, mean over patients.",
        head=("Difference", "Status", "Patients", "Mean", "95\u202f% interval", "P"),
        rows=rows,
        text=(1,),
        note=T_NOTE + _small(rows, " "),
        empty="No site answered for enough personal patients.",
    )


def left_out(told: Sequence[Told]) -> str:
    """Name what the settings did not run; empty where everything was."""
    names = dict.fromkeys(name for one in told for name in not_run(one.settings.personalization))
    return f"Not run with these settings: {'; '.join(names)}." if names else ""


def _inside(key: str) -> str:
    """Name a way inside a line."""
    return METHODS[key].title.lower() if key in METHODS else BASELINES[key].noun.removeprefix("the ")


def of_sites(value: Pooled) -> str:
    """Write how many patients of how many sites a number is about."""
    return f"{plural(value.all.n, 'patient')} of {plural(len(value.sites), 'site')}"


def p_text(p: float | None) -> str:
    """Write a P value; none where it does not exist."""
    if p is None:
        return MISSING
    return f"< {SMALLEST_P}" if p < SMALLEST_P else decimal(p, 3)


def interval_cell_of(value: Pooled, words: FigureWords) -> str:
    """Write the interval of a figure, or that nobody told it."""
    return interval_cell(value.interval, words) if value.all.n else MISSING


def _mean_sd(value: Pooled, words: FigureWords) -> list[str]:
    own = value.all
    if not own.n:
        return [WITHHELD, MISSING, MISSING]
    spread = f" ({figure_value(own.sd, words)})" if math.isfinite(own.sd) else ""
    return [count(own.n), count(len(value.sites)), f"{figure_value(own.mean, words)}{spread}"]


def _auc(value: Pooled) -> list[str]:
    if not value.all.n:
        return [MISSING, MISSING]
    return [figure_value(value.all.mean, AUC), interval_cell(value.interval, AUC)]


def _small(rows: Sequence[Sequence[str]], before: str = "") -> str:
    return before + SMALL_SAMPLE_NOTE if any("†" in cell for row in rows for cell in row) else ""
