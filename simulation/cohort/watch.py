"""What the monitor of one patient records: when it is off, lacks lead II, or sees movement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from simulation.cohort import clinical_parameters as table
from simulation.cohort.labs import SAME_MEASUREMENT_MIN, SERUM, Draw, label_of, measurements
from simulation.cohort.profile import CohortSizes, SiteProfile
from simulation.cohort.spans import Span, merged, pieces, random_spans, touches, without

STRIP_S = 600  # ECG before a draw that one label is about, as in the source paper
LONGEST_STRETCH_S, SHORTEST_STRETCH_S = 3600, 5
SAME_WINDOW_S = 60  # windows this near are written as one


@dataclass(frozen=True)
class Stretch:
    """Recorded ECG without a break and without a change of leads.

    Attributes
    ----------
    index : position within the patient's stay.
    start_s, end_s : whole seconds after the start of the stay.
    lead_ii : lead II is recorded (else another lead).
    noisy : ruined by movement.
    record : which recording of the stay it belongs to.
    """

    index: int
    start_s: int
    end_s: int
    lead_ii: bool
    noisy: bool
    record: int

    @property
    def seconds(self) -> int:
        """Length, s."""
        return self.end_s - self.start_s


class Watch:
    """When the monitor of one patient is off, lacks lead II, or sees movement; all in seconds of the stay."""

    def __init__(
        self,
        rng: np.random.Generator,
        profile: SiteProfile,
        sizes: CohortSizes,
        draws: Sequence[Draw],
        hours: float,
    ) -> None:
        seconds = round(hours * 3600)
        self._sizes, self._gas = sizes, profile.laboratory.whole_blood_only
        monitor = profile.monitor
        self.absent = random_spans(rng, seconds, monitor.lead_ii_missing, 3600 * table.LEAD_II_GONE_H)
        # A strip is ruined if movement touches it: episodes take less time than that share of strips.
        moving = monitor.noisy_share * table.MOVEMENT_S / (table.MOVEMENT_S + STRIP_S)
        self.noisy = random_spans(rng, seconds, moving, table.MOVEMENT_S)
        breaks_s = np.cumsum(rng.exponential(3600 * table.BREAK_EVERY_H, int(hours / 12) + 2))
        self.breaks = [
            (int(start), int(start + rng.integers(*table.BREAK_S))) for start in breaks_s if start < seconds
        ]
        # The patient comes back from an examination, the monitor is switched on, and blood is drawn.
        late = [draw.minute * 60 for draw in draws if rng.random() < table.LATE_SHARE]
        self.off = [(s - table.LATE_OFF_S, s - int(rng.integers(*table.LATE_LEFT_S))) for s in late]

    def running(self, draw: Draw) -> bool:
        """Tell whether the monitor runs during the strip before a draw, whatever it shows."""
        return self._free(draw, self.breaks, self.off)

    def usable(self, draw: Draw) -> bool:
        """Tell whether the strip before a draw is recorded in lead II without movement.

        Whole blood does not count where there is serum: not every reader takes it.
        """
        return (draw.item == SERUM or self._gas) and self._free(
            draw, self.absent, self.noisy, self.breaks, self.off
        )

    def _free(self, draw: Draw, *holes: Sequence[Span]) -> bool:
        end = draw.minute * 60
        start = end - min(STRIP_S, round(self._sizes.window_hours * 3600))
        # A break that begins at the draw leaves its strip, but not the moment itself.
        return start >= 0 and not any(touches(spans, start, end + 1) for spans in holes)

    def enough(self, draws: Sequence[Draw]) -> int:
        """Length of the shortest start of the draws with the wanted usable strips of each label.

        A strip is that of a measurement, not of every row: see ``measurements``.
        """
        counts = {"positive": 0, "negative": 0}
        for draw in measurements(draws):
            label = label_of(draw.reading)
            if label in counts and self.usable(draw):
                counts[label] += 1
            if min(counts.values()) >= self._sizes.personal_strips:
                # What follows within the half hour belongs to the same measurement.
                return sum(d.minute < draw.minute + SAME_MEASUREMENT_MIN for d in draws)
        return len(draws)

    def stretches(self, monitored: Span, recorded: Sequence[Draw]) -> tuple[Stretch, ...]:
        """Cut what is recorded into stretches: around the draws, or all of the monitored time."""
        before, after = round(self._sizes.window_hours * 3600), round(self._sizes.minutes_after * 60)
        low, high = monitored
        seconds = [draw.minute * 60 for draw in recorded]
        windows = [(max(second - before, low), min(second + after, high)) for second in seconds]
        if self._sizes.continuous:
            windows = [monitored]
        spans = without(merged(windows, SAME_WINDOW_S), [*self.breaks, *self.off])
        edges = (edge for span in (*self.absent, *self.noisy) for edge in span)
        cut = pieces(spans, edges, LONGEST_STRETCH_S)
        long = [(start, end) for start, end in cut if end - start >= SHORTEST_STRETCH_S]
        numbers = [sum(b <= start for b, _ in self.breaks) for start, _ in long]
        records = {number: record for record, number in enumerate(sorted(set(numbers)))}
        return tuple(
            Stretch(
                index=index,
                start_s=start,
                end_s=end,
                lead_ii=not touches(self.absent, start, end - 1),
                noisy=touches(self.noisy, start, end - 1),
                record=records[number],
            )
            for index, ((start, end), number) in enumerate(zip(long, numbers, strict=True))
        )
