"""Who is in a federation: the flowchart and Table 1 over sites, from the counts and sums the sites sent.

Each number is added over the sites that told it, and says how many these are: a site withholds what too few
patients are behind. So rows need not add up with each other. Medians cannot be added across sites; means and
standard deviations can.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add
from typing import Any

from common.errors import ProtocolError
from common.metrics import Moments
from common.page import Figure, Table, inline_svg
from common.page.flowchart import Box, Branch, Step, description, flowchart
from common.page.numbers import MISSING, count, decimal, percent, plural
from common.page.words import EXCLUDED, cohort_rule
from common.protocol import DRAW_REASONS, STRIP_REASONS
from common.task import Label, Task
from server.sums import Told

WITHHELD = "too few patients"
ROLES = ("generic", "personal")
#: Reasons in one box of the figure; the table lists all of them.
MOST_REASONS = 5


@dataclass(frozen=True)
class Sum:
    """A count added over the sites that told it."""

    value: int
    sites: int

    def text(self) -> str:
        """Write it, or that everybody withheld it."""
        return count(self.value) if self.sites else WITHHELD

    def beside(self, sites: int) -> str:
        """Write it in a row that is about so many sites: with its own number of sites where that differs."""
        same = self.sites in (0, sites)
        return self.text() if same else f"{self.text()} [{plural(self.sites, 'site')}]"


@dataclass(frozen=True)
class Answers:
    """What the sites of one federation said about their patients, by site."""

    flats: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, told: Sequence[Told]) -> Answers:
        """Take the first run of each site.

        The runs (folds) of a journey look at the same files, and a patient may be in several of them.
        """
        flats: dict[str, Mapping[str, Any]] = {}
        for one in told:
            for site, flat in one.answers.items():
                flats.setdefault(site, flat)
        return cls(flats)

    @property
    def any(self) -> bool:
        """Whether any site said anything about its patients."""
        return any(key.startswith(("flow.", "table-one.")) for flat in self.flats.values() for key in flat)

    def sum(self, key: str) -> Sum:
        """Add a count over the sites that told it."""
        values = [int(flat[key]) for flat in self.flats.values() if key in flat]
        return Sum(sum(values), len(values))

    def moments(self, prefix: str) -> tuple[Moments, int, int]:
        """Add moments and what is missing over the sites that told them: (moments, missing, sites)."""
        found, missing = [], 0
        for site in sorted(self.flats):
            try:
                moments = Moments.from_flat(self.flats[site], prefix)
            except ProtocolError:
                continue
            found.append(moments)
            missing += int(self.flats[site].get(f"{prefix}.missing", 0))
        return reduce(add, found, Moments()), missing, len(found)


def inclusion_table(answers: Answers, task: Task) -> Table:
    """Return the flowchart as a table: numbers at each step and who told them, reasons in between."""
    labels = [Label.POSITIVE, Label.NEGATIVE, *([Label.GAP] if task.gap else [])]
    rows: list[list[str]] = []
    strong: list[int] = []

    def step(title: str, key: str, patients: str, by: str | None = None) -> None:
        told = answers.sum(f"flow.patients.{patients}")
        numbers = answers.sum(key) if key else None
        parts = [answers.sum(f"flow.by-label.{by}.{label}") if by else None for label in labels]
        sites = (numbers or told).sites
        strong.append(len(rows))
        cells = [MISSING if one is None else one.beside(sites) for one in (numbers, *parts)]
        rows.append([title, told.beside(sites), *cells, f"{sites}"])

    def reasons(codes: Sequence[str]) -> None:
        for code in codes:
            one = answers.sum(f"flow.{code}")
            if one.value:
                title = f"  left out: {EXCLUDED[code]}"
                rows.append([title, MISSING, one.text(), *(MISSING for _ in labels), f"{one.sites}"])

    step("Patients in the sites’ files", "", "files")
    if task.quantity:
        step("Blood draws", "", "draws")
        reasons(DRAW_REASONS)
        step("Draws with a label", "flow.labelled", "labelled", "labelled")
        if (kept := answers.sum("flow.suspected-kept")).value:
            title = "  of these kept although hemolysis is suspected"
            rows.append([title, MISSING, kept.text(), *(MISSING for _ in labels), f"{kept.sites}"])
    reasons(STRIP_REASONS)
    step("Strips accepted", "flow.accepted", "accepted", "accepted")
    return Table(
        caption="Inclusion over the sites, step by step. Each number is the sum over the sites that may tell "
        "it; the last column says how many these are, a number in brackets where it differs.",
        head=("Step", "Patients", "Draws or strips" if task.quantity else "Strips",
              *(task.word(label).capitalize() for label in labels), "Sites"),
        rows=rows if answers.any else [],
        strong=strong,
        note=f"“{WITHHELD}”: every site withheld the number. A site withholds what too few of its patients "
        "are behind, and what would tell such a number by subtraction; so rows need not add up.",
        empty="No site told how its patients were included.",
    )  # fmt: skip


def beats_table(answers: Answers) -> Table:
    """Say what became of the beats of the accepted strips, over the sites."""
    titles = {
        "accepted": "Beats accepted",
        "edge": "  left out: reaches over the window or into a gap",
        "step": "  left out: the base line jumps",
        "amplitude": "  left out: amplitude not real",
        "unlike": "  left out: unlike the median beat of its strip",
    }
    sums = {name: answers.sum(f"flow.beats.{name}") for name in titles}
    found = sum(one.value for one in sums.values())
    return Table(
        caption="Beats of the accepted strips, over the sites.",
        head=("", "Beats", "Share", "Sites"),
        rows=[
            [title, sums[name].text(), percent(sums[name].value / found, 1), f"{sums[name].sites}"]
            for name, title in titles.items()
            if sums[name].value
        ]
        if found
        else [],
        form="narrow",
        note="Shares are of the beats in this table.",
        empty="No site told how many beats were accepted.",
    )


def table_one(answers: Answers, task: Task, runs: Sequence[str]) -> Table:
    """Return Table 1 over the sites: means with standard deviations, shares of those who are known."""
    rows = [["Patients", *_each(lambda role: _with_sites(answers.sum(f"table-one.{role}.patients")))]]
    for name, title, digits in (
        ("age", "Age, years", 0), ("height", "Height, cm", 0), ("weight", "Weight, kg", 0),
    ):  # fmt: skip
        rows.append(
            [title, *_each(lambda role, n=name, d=digits: _mean(answers, f"table-one.{role}.{n}", d))]
        )
    rows += _shares(answers, "Sex", "sex", {"male": "male", "female": "female", "unknown": "unknown"})
    origins = {"white": "White", "african-american": "African American", "hispanic": "Hispanic",
               "asian": "Asian", "american-indian": "American Indian", "other": "other",
               "unknown": "unknown"}  # fmt: skip
    rows += _shares(answers, "Ethnicity", "ethnicity", origins)
    for label in Label:
        if label == Label.GAP and task.gap is None:
            continue
        key = f"label.{label}"
        rows.append(
            [
                f"Patients with strips of {task.word(label)}",
                *_each(lambda role, k=key: _with_sites(answers.sum(f"table-one.{role}.{k}"))),
            ]
        )
        if task.quantity:
            key = f"potassium-{label}"
            rows.append(
                [
                    f"  {task.quantity}, {task.unit}",
                    *_each(lambda role, k=key: _mean(answers, f"table-one.{role}.{k}", 1)),
                ]
            )
    rows.append(
        ["Heart rate, per minute", *_each(lambda role: _mean(answers, f"table-one.{role}.heart-rate", 0))]
    )
    rows = [row for row in rows if any(cell != MISSING for cell in row[1:]) or row[1:] == ["", ""]]
    per_patient = (
        f"{task.quantity.capitalize()} and heart rate are means"
        if task.quantity
        else "Heart rate is the mean"
    )
    several = f" Of the runs {', '.join(runs)} the first of each site is shown." if len(runs) > 1 else ""
    return Table(
        caption="Who the patients are, over the sites: those of the generic model, and those with strips "
        "enough for a model of their own. Mean (standard deviation) over patients, or share; in brackets how "
        "many sites told it." + several,
        head=("", "Generic cohort", "Personal cohort"),
        rows=rows if any(answers.sum(f"table-one.{role}.patients").sites for role in ROLES) else [],
        note="Medians cannot be added across sites, so this table shows means; the report of each site has "
        f"the medians. {per_patient} over patients of each patient’s mean over strips.",
        empty="No site could tell who its patients are: too few patients, or others would follow.",
    )


def _each(cell: Any) -> list[str]:
    return [cell(role) for role in ROLES]


def _with_sites(one: Sum) -> str:
    return f"{count(one.value)} [{plural(one.sites, 'site')}]" if one.sites else WITHHELD


def _mean(answers: Answers, prefix: str, digits: int) -> str:
    moments, missing, sites = answers.moments(prefix)
    if not sites:
        return WITHHELD
    if not moments.n:
        return f"{count(missing)} missing [{plural(sites, 'site')}]"
    sd = moments.sd if moments.n > 1 else math.nan
    text = f"{decimal(moments.mean, digits)} ({decimal(sd, digits)})"
    return f"{text}{f'; {count(missing)} missing' if missing else ''} [{plural(sites, 'site')}]"


def _shares(answers: Answers, title: str, name: str, words: Mapping[str, str]) -> list[list[str]]:
    """Write a division of the patients; shares are of the cells that were told, by each site."""
    rows = []
    for key, word in words.items():
        cells = [answers.sum(f"table-one.{role}.{name}.{key}") for role in ROLES]
        if any(cell.value for cell in cells) or not any(cell.sites for cell in cells):
            rows.append([f"  {word}", *map(_with_sites, cells)])
    return [[title, "", ""], *rows]


def flow_figure(answers: Answers, task: Task, number: int) -> Figure | None:
    """Draw the flowchart over the sites; None if no site told anything."""
    if not answers.any:
        return None
    steps = [Step(Box("In the sites’ files", [_patients(answers, "files")]))]
    if task.quantity:
        steps.append(
            Step(
                Box("Draws with a label", _lines(answers, task, "labelled", "draw")),
                _left_out(answers, DRAW_REASONS, "draw"),
            )
        )
    steps.append(
        Step(
            Box("Strips accepted", _lines(answers, task, "accepted", "strip")),
            _left_out(answers, STRIP_REASONS, "strip"),
        )
    )
    branches = [Branch([_cohort_box(answers, role)]) for role in ROLES]
    text = (
        "From the files of all sites to the cohorts. Each number is the sum over the sites that may tell it; "
        "where these are not all, the line says so, and boxes need not add up."
    )
    svg = inline_svg(
        flowchart(steps, branches),
        f"f{number}-flow",
        "Inclusion over the sites",
        description(steps, branches),
    )
    return Figure(svg, text, number)


def _patients(answers: Answers, step: str) -> str:
    told = answers.sum(f"flow.patients.{step}")
    return _line(answers, told, plural(told.value, "patient")) if told.sites else f"patients: {WITHHELD}"


def _line(answers: Answers, told: Sum, text: str) -> str:
    """Write a line of a box, with its number of sites where not all of them told it."""
    all_sites = len(answers.flats)
    return (
        text if told.sites in (0, all_sites) else f"{text} (of {told.sites} of {plural(all_sites, 'site')})"
    )


def _lines(answers: Answers, task: Task, step: str, unit: str) -> list[str]:
    total = answers.sum(f"flow.{step}")
    labels = [Label.POSITIVE, Label.NEGATIVE, *([Label.GAP] if task.gap else [])]
    return [
        _line(answers, total, plural(total.value, unit)) if total.sites else f"{unit}s: {WITHHELD}",
        _patients(answers, step),
        *(
            _line(answers, told, f"{task.word(label)}: {told.text()}")
            for label in labels
            for told in [answers.sum(f"flow.by-label.{step}.{label}")]
        ),
    ]


def _left_out(answers: Answers, codes: Sequence[str], unit: str) -> Box | None:
    sums = {code: one.value for code in codes if (one := answers.sum(f"flow.{code}")).value}
    if not sums:
        return None
    ranked = sorted(sums.items(), key=lambda item: (-item[1], item[0]))
    lines = [f"{count(n)}  {EXCLUDED[code]}" for code, n in ranked[:MOST_REASONS]]
    if rest := sum(n for _, n in ranked[MOST_REASONS:]):
        lines.append(f"{count(rest)}  other reasons, see the table")
    return Box(f"Left out: {plural(sum(sums.values()), unit)}", lines)


def _cohort_box(answers: Answers, role: str) -> Box:
    told = answers.sum(f"table-one.{role}.patients")
    if not told.sites:
        return Box(f"{role.capitalize()} cohort", [WITHHELD])
    return Box(
        f"{role.capitalize()} cohort", [f"{plural(told.value, 'patient')} of {plural(told.sites, 'site')}"]
    )


def rules_sentence(told: Sequence[Told]) -> str:
    """Say which strips of generic patients were learned from."""
    cohorts = [one.settings.cohort for one in told]
    return " ".join(dict.fromkeys(cohort_rule(cohort.classes, cohort.balance) for cohort in cohorts))
