"""The inclusion flowchart in words: who came in, what was left out at each step, where everybody ended."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from client.data.exclusion import EXCLUSION_SHORT
from client.database.cohort_queries import Excluded
from client.database.queries import LabelCounts
from client.report.evidence import CohortEvidence, Member, Personal
from client.report.wording import outcome_text
from common.page.flowchart import Box, Branch, Step
from common.page.numbers import count, plural
from common.task import Label, Task

#: Reasons listed in the chart; the rest are counted together and listed in the table.
MOST_REASONS = 5
#: What a rule of the cohort leaves out, for a box.
RULES = {"classes": "other label of a patient", "balance": "surplus of a label"}
SPLITS = ("train", "validation", "test")


def chart(
    evidence: CohortEvidence, task: Task, personal: Sequence[Personal] = ()
) -> tuple[list[Step], list[Branch]]:
    """Return the boxes of the flowchart.

    The task without blood draws starts at its strips; before a cohort is frozen the way ends there.

    Parameters
    ----------
    evidence : what is known of the site.
    task : for its words.
    personal : what became of the personal patients, if they were personalized yet.
    """
    flow, counts = evidence.flow, evidence.flow.steps
    steps = [Step(Box("In the site’s files", [plural(counts.patients, "patient")]))]
    if task.quantity:
        steps = [
            Step(
                Box(
                    "Blood draws found",
                    [f"{plural(counts.draws, 'draw')} of {plural(counts.draw_patients, 'patient')}"],
                )
            ),
            Step(
                Box(
                    "Draws with a label",
                    [
                        f"{plural(counts.labelled.total, 'draw')} of "
                        f"{plural(counts.labelled_patients, 'patient')}",
                        *_by_label(counts.labelled, task),
                        *(
                            [f"hemolysis suspected, kept: {count(flow.suspected_kept.number)}"]
                            if flow.suspected_kept.number
                            else []
                        ),
                    ],
                ),
                _left_out("draw", flow.draws_excluded),
            ),
        ]
    steps.append(
        Step(
            Box(
                "Strips accepted",
                [
                    f"{plural(counts.accepted.total, 'strip')} of "
                    f"{plural(counts.accepted_patients, 'patient')}",
                    f"{plural(counts.accepted_beats, 'beat')}",
                    *_by_label(counts.accepted, task),
                ],
            ),
            _left_out("draw" if task.quantity else "strip", flow.strips_excluded),
        )
    )
    if not evidence.is_frozen:
        return steps, []
    inside = len({member.patient for member in evidence.members})
    outside = counts.accepted_patients - inside
    if outside > 0:
        why = f"{task.gap} only, or not part of this run" if task.gap else "not part of this run"
        whys = [why, "or no strip left to balance"] if flow.cohort_excluded else [why]
        steps.append(
            Step(
                Box("Frozen cohort", [plural(inside, "patient")]),
                Box(f"Left out: {plural(outside, 'patient')}", whys),
            )
        )
    return steps, [_generic_arm(evidence), _personal_arm(evidence, personal)]


def _by_label(counts: LabelCounts, task: Task) -> list[str]:
    shown = [Label.POSITIVE, Label.NEGATIVE, *([Label.GAP] if task.gap else [])]
    return [f"{task.word(label)}: {count(getattr(counts, label))}" for label in shown]


def _left_out(kind: str, excluded: Sequence[Excluded]) -> Box | None:
    total = sum(one.number for one in excluded)
    if not total:
        return None
    lines = [f"{count(one.number)}  {_short(one.code)}" for one in excluded[:MOST_REASONS]]
    rest = sum(one.number for one in excluded[MOST_REASONS:])
    if rest:
        lines.append(f"{count(rest)}  other reasons, see the table")
    return Box(f"Left out: {plural(total, kind)}", lines)


def _short(code: str) -> str:
    """Return a reason in a few words."""
    return {str(key): text for key, text in EXCLUSION_SHORT.items()}.get(code, code.replace("_", " "))


def _generic_arm(evidence: CohortEvidence) -> Branch:
    runs = _runs(evidence.members)
    lines = []
    for run, members in runs.items():
        own = [member for member in members if member.role == "generic"]
        lines.append(
            f"{_where(run, runs)}{plural(len(own), 'patient')}, {plural(_strips(own), 'labelled strip')}"
        )
    lines += [
        f"left out, {RULES.get(one.code, one.code)}: {plural(one.number, 'strip')}"
        for one in evidence.flow.cohort_excluded
    ]
    splits = []
    for run, members in runs.items():
        for split in SPLITS:
            own = [member for member in members if member.role == "generic" and member.split == split]
            if own:
                splits.append(
                    f"{_where(run, runs)}{split} {plural(len(own), 'patient')}, "
                    f"{plural(_strips(own), 'strip')}"
                )
    boxes = [Box("Generic cohort", lines)]
    return Branch([*boxes, Box("Split by patient", splits)] if splits else boxes)


def _personal_arm(evidence: CohortEvidence, personal: Sequence[Personal]) -> Branch:
    runs = _runs(evidence.members)
    lines = []
    for run, members in runs.items():
        own = [member for member in members if member.role == "personal"]
        lines.append(
            f"{_where(run, runs)}{plural(len(own), 'patient')}, {plural(_strips(own), 'labelled strip')}"
        )
    # Who trained the generic model stands in the other arm, and who came later in neither.
    outcomes = sorted({one.outcome for one in personal} - {"trained_generic", "after_cohort"})
    ends = [
        f"{plural(len({one.patient for one in personal if one.outcome == code}), 'patient')} "
        f"{outcome_text(code)}"
        for code in outcomes
    ]
    boxes = [Box("Personal cohort", lines)]
    return Branch([*boxes, Box("Outcome", ends)] if ends else boxes)


def _runs(members: Sequence[Member]) -> dict[str, list[Member]]:
    out: dict[str, list[Member]] = {}
    for member in members:
        out.setdefault(member.run, []).append(member)
    return out


def _where(run: str, runs: Mapping[str, Sequence[Member]]) -> str:
    return f"{run}: " if len(runs) > 1 else ""


def _strips(members: Sequence[Member]) -> int:
    return sum(member.counts["positive"] + member.counts["negative"] for member in members)
