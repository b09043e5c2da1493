"""The figures of the site report with their captions, numbered in the order they stand on the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.figure import Figure as Canvas

from client.learning.beat_map import BeatMap
from client.learning.explain import STRIP_BEATS, Explanation, PatientExplanation
from client.report import figures, flow
from client.report.comparison import FITTED, Comparison
from client.report.evidence import CohortEvidence, Generic, Personal
from common.config import Settings
from common.page import METHODS, Figure, flowchart, inline_svg
from common.page.numbers import count, decimal, figure_value, plural
from common.task import Label


@dataclass
class Drawing:
    """Draws the figures of one page and numbers them in the order they are asked for."""

    settings: Settings
    number: int = 0

    def page(self, canvas: Canvas, name: str, title: str, text: str, caption: str) -> Figure:
        """Give a drawing its number and make it ready for the page.

        Parameters
        ----------
        canvas : the drawing.
        name : of what it shows, part of its ids.
        title, text : for readers who do not see it.
        caption : below it.
        """
        self.number += 1
        svg = inline_svg(canvas, f"f{self.number}-{name}", title, text)
        return Figure(svg, caption, self.number)

    def flow(self, evidence: CohortEvidence, personal: Sequence[Personal] = ()) -> Figure:
        """Draw the inclusion flowchart."""
        steps, branches = flow.chart(evidence, self.settings.words, personal)
        return self.page(
            flowchart.flowchart(steps, branches),
            "flow",
            "Inclusion flowchart",
            flowchart.description(steps, branches),
            "From the site’s files to the cohort. Everything left out has a reason in the database; the "
            "table below lists all of them.",
        )

    def scores(self, generic: Generic) -> Figure | None:
        """Draw the beat scores of the generic model, per label; None without beats of both labels."""
        histogram, task = generic.histogram, self.settings.words
        if histogram is None or not any(histogram.positive) or not any(histogram.negative):
            return None
        names = {str(label): task.word(label) for label in (Label.POSITIVE, Label.NEGATIVE)}
        positive, negative = sum(histogram.positive), sum(histogram.negative)
        where = f" ({generic.run})" if generic.run != "main" else ""
        auc = f"Beat AUC {decimal(histogram.auc, 3)}."
        return self.page(
            figures.score_distribution(histogram, names),
            "scores",
            "Scores of the generic model by label",
            f"Beats by label: {task.positive} {count(positive)}, {task.negative} {count(negative)}. {auc}",
            f"Beat scores of the generic model{where} on {plural(generic.patients, 'test patient')}: "
            f"beats by label ({task.positive} {count(positive)}, {task.negative} {count(negative)}), each "
            f"as a share of its own label. The less the two overlap, the better. {auc}",
        )

    def votes(self, generic: Sequence[Generic]) -> Figure | None:
        """Draw votes against the measured quantity; None for a task without one."""
        task = self.settings.words
        shown = [vote for one in generic for vote in one.votes if vote.value is not None]
        if not task.quantity or not shown:
            return None
        labels = [str(label) for label in Label if any(vote.label == label for vote in shown)]
        values = {name: np.array([v.value for v in shown if v.label == name], float) for name in labels}
        votes = {name: np.array([v.vote for v in shown if v.label == name]) for name in labels}
        patients = len({vote.patient for vote in shown})
        return self.page(
            figures.votes_by_value(
                values, votes, {name: task.word(name) for name in labels}, f"{task.quantity}, {task.unit}"
            ),
            "votes",
            f"Vote of each strip by {task.quantity}",
            f"{plural(len(shown), 'strip')} of {plural(patients, 'patient')}; one point per strip.",
            f"Each point is one strip of a test patient ({plural(len(shown), 'strip')}, "
            f"{plural(patients, 'patient')}): its {task.quantity} and the share of its beats the generic "
            f"model calls positive. Above the dotted line the strip is called positive. Strips of "
            f"{task.gap} are shown; they count in no accuracy.",
        )

    def rounds(self, result: Comparison) -> Figure | None:
        """Draw the headline figure by personalization round."""
        patients, words = result.patients, result.words
        if not patients:
            return None
        last = max(one.rounds for one in patients)
        panels = [
            (
                METHODS[method].title,
                np.array(
                    [
                        [
                            one.figure(method, r, words.key) if r <= one.rounds else np.nan
                            for r in range(last + 1)
                        ]
                        for one in patients
                    ]
                ),
            )
            for method in FITTED
        ]
        ends = ", ".join(
            f"{METHODS[method].noun} {figure_value(result.methods[method].mean, words)}" for method in METHODS
        )
        return self.page(
            figures.by_round(panels, words.title, words.percent),
            "rounds",
            f"{words.heading} by personalization round",
            f"Mean after the last round: {ends}.",
            f"{words.heading} by personalization round. Thin grey lines: each of the "
            f"{plural(len(patients), 'patient')}. Thick blue line: mean of those who reached the round. "
            "Dashed: the generic model’s mean. "
            f"{'Lines on the same value are drawn a little apart. ' if words.percent else ''}"
            " Patients with fewer strips stop earlier, so the mean of later "
            "rounds is over fewer patients.",
        )

    def beats(self, seen: PatientExplanation, patient: str) -> Figure:
        """Draw one patient's mean beats with what the models look at."""
        task = self.settings.words
        names = {str(Label.POSITIVE): task.short_positive, str(Label.NEGATIVE): task.short_negative}
        panels = [("Generic model", seen.before)]
        if not seen.same_attention:
            panels.append((_after(seen.method), seen.after))
        views = [
            figures.BeatView(
                title,
                _by_name(one.mean_beat),
                {
                    _stage(stage): _by_name({label: found.curve for label, found in by_label.items()})
                    for stage, by_label in one.attention.items()
                },
            )
            for title, one in panels
        ]
        text = (
            f"Patient {patient}, test strips: mean beat by label ({task.positive} {count(seen.n_positive)}, "
            f"{task.negative} {count(seen.n_negative)} beats, at most {STRIP_BEATS} of a strip). "
        )
        widths = {
            _stage(stage): by_label[Label.POSITIVE].cell_ms
            for stage, by_label in seen.before.attention.items()
        }
        cells = ", ".join(f"{decimal(width, 0)} ms in {stage}" for stage, width in widths.items())
        note = (
            f" {METHODS[seen.method].title} moves only the threshold, so it looks at the same places."
            if seen.same_attention and seen.method != "generic"
            else ""
        )
        return self.page(
            figures.mean_beats(views, names),
            "beats",
            "Mean beats of one patient and what the models look at",
            text,
            f"{text}Below, for each label, where a stage of the network finds "
            "evidence for it (Grad-CAM, highest "
            f"point set to 1). It shows where a model looks, not why, and no finer than a cell: {cells}, "
            f"the last.{note}",
        )

    def beat_map(self, seen: PatientExplanation, patient: str) -> Figure:
        """Draw the map of one patient's beats; once where the models share the embedding."""
        task = self.settings.words
        names = {str(Label.POSITIVE): task.short_positive, str(Label.NEGATIVE): task.short_negative}
        panels: list[tuple[str, Explanation]] = [("Generic model", seen.before)]
        if not seen.same_map:
            panels.append((_after(seen.method), seen.after))
        drawn = [
            (
                f"{title}: purity {decimal(one.beats.purity, 2)}, "
                f"silhouette {decimal(one.beats.silhouette, 2)}",
                _groups(one.beats),
            )
            for title, one in panels
        ]
        shown = len(seen.before.beats.points)
        note = (
            f" {METHODS[seen.method].title} changes only the last layer, so the map "
            "is the same before and after."
            if seen.same_map and seen.method != "generic"
            else ""
        )
        text = (
            f"Patient {patient}: {plural(shown, 'beat')} of the test strips, as the "
            "last layer sees them, drawn in two "
            "dimensions (t-SNE). Purity: share of a beat’s 10 nearest neighbours "
            "that have its label, measured "
            "before drawing; 0.5 where labels are mixed, 1 where they are apart. Silhouette, measured there "
            f"too: 0 where labels are mixed, 1 where each label is one group of like beats far from the "
            f"other.{note}"
        )
        return self.page(figures.embedding(drawn, names), "map", "Map of one patient’s beats", text, text)


def _after(method: str) -> str:
    return f"Selected: {METHODS[method].title.lower()}"


def _stage(name: str) -> str:
    return name.replace("stage", "stage ")


def _by_name(values: Mapping[Label, figures.Floats]) -> dict[str, figures.Floats]:
    return {str(label): values[label] for label in (Label.POSITIVE, Label.NEGATIVE)}


def _groups(beats: BeatMap) -> dict[str, figures.Floats]:
    return {
        str(Label.NEGATIVE): beats.points[~beats.positive],
        str(Label.POSITIVE): beats.points[beats.positive],
    }
