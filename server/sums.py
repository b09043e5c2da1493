"""What federations left behind in ``server.json``, and sums over the sites' answers.

Sites answered counts and sums. They are added per site over the runs (folds) of a journey, where the patients
are different ones. What a site withheld stays withheld: nothing is computed from what is left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from common.config import Settings, validated
from common.errors import FederationError, ProtocolError, StorageError
from common.files import read_json
from common.intervals import Interval
from common.metrics import Confusion, Moments, ScoreHistogram, stratified_interval
from server.admission import admitted, check_story
from server.state import BEST, FORMAT, STORY, VERSION

NEEDED = {
    "name", "settings", "settings_sha256", "rounds", "evaluations", "status", "failure", "selected", "sites",
    "refused", "personalize", "personalize_failures",
}  # fmt: skip

#: Halvings that find a P value to 1e-12.
BISECTIONS = 40
#: An interval narrower than this is that of equal values: sums of squares leave a rest of rounding.
NO_SPREAD = 1e-6


@dataclass(frozen=True)
class Told:
    """What one federation left behind.

    Attributes
    ----------
    story : ``server.json``; its keys are listed in ``server.state``.
    settings : of the run.
    answers : counts and sums of the second phase by site, without those over fewer patients than the
        smallest cell of the run.
    weight_bytes : size of the generic model's file, None if there is none.
    """

    story: Mapping[str, Any]
    settings: Settings
    answers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    weight_bytes: int | None = None

    @property
    def name(self) -> str:
        """Name of the run."""
        return str(self.story["name"])

    def left_out(self, site: str) -> int:
        """Return how many numbers of a site's answer are not shown."""
        return len(self.story["personalize"].get(site, {})) - len(self.answers.get(site, {}))

    @property
    def sites(self) -> list[str]:
        """Every site that took part or was refused."""
        return sorted({*self.story["sites"], *self.story["refused"], *self.answers})


@dataclass(frozen=True)
class Pooled:
    """Sums over patients, by site; each site is a stratum of the interval."""

    sites: Mapping[str, Moments]

    @property
    def all(self) -> Moments:
        """The sums of all sites."""
        return reduce(add, (self.sites[site] for site in sorted(self.sites)), Moments())

    @property
    def interval(self) -> Interval | None:
        """Interval of the mean over patients, None with too few."""
        return stratified_interval([self.sites[site] for site in sorted(self.sites)])

    @property
    def p(self) -> float | None:
        """Two-sided P of a mean of zero, by the t of ``interval``: 1 less the level that just reaches zero.

        None with too few patients, or if all patients have the same value.
        """
        sites = [self.sites[site] for site in sorted(self.sites)]
        whole = stratified_interval(sites)
        if whole is None or whole.high - whole.low < NO_SPREAD:
            return None
        low, high = 0.0, 1.0
        for _ in range(BISECTIONS):
            middle = (low + high) / 2
            interval = stratified_interval(sites, 1 - middle)
            if interval is not None and interval.low <= 0 <= interval.high:
                low = middle
            else:
                high = middle
        return high


@dataclass(frozen=True)
class GenericSums:
    """The generic model of one run on test patients, over the sites that answered.

    A part is None where no site answered it; ``sites`` says how many answered each.
    """

    patients: int
    beats: Confusion | None
    strips: Confusion | None
    histogram: ScoreHistogram | None
    sites: Mapping[str, int]


def load(out: Path) -> Told:
    """Read what the server of one federation wrote.

    Raises
    ------
    FederationError
        If the folder holds no federation this version can read, or one that was changed.
    """
    try:
        story = read_json(out / STORY)
    except StorageError as error:
        raise FederationError(
            f"{out} holds no federation: {error}; run one with this output folder"
        ) from None
    if not isinstance(story, dict) or (story.get("format"), story.get("version")) != (FORMAT, VERSION):
        raise FederationError(f"{out / STORY} was not written by a server of this version; run it again")
    if missing := sorted(NEEDED - set(story)):
        raise FederationError(
            f"{out / STORY} is damaged: {', '.join(missing)} missing; run the federation again"
        )
    check_story(story, str(out / STORY))
    settings = validated(Settings, story["settings"], f"{out / STORY}, settings")
    return Told(
        story=story,
        settings=settings,
        answers={
            site: admitted(flat, settings.policy.min_cell) for site, flat in story["personalize"].items()
        },
        weight_bytes=_size(out / BEST),
    )


def _size(checkpoint: Path) -> int | None:
    return checkpoint.stat().st_size if checkpoint.exists() else None


def pooled(told: Sequence[Told], prefix: str) -> Pooled:
    """Add a figure's sums per site over the runs; sites that withheld it are not in the result."""
    sites: dict[str, Moments] = {}
    for one in told:
        for site, flat in one.answers.items():
            try:
                sites[site] = sites.get(site, Moments()) + Moments.from_flat(flat, prefix)
            except ProtocolError:  # withheld, or no patient of this site came so far
                continue
    return Pooled({site: moments for site, moments in sites.items() if moments.n})


def counted(told: Sequence[Told], key: str) -> int | None:
    """Add a count over sites and runs; None where nobody answered it."""
    found = [int(flat[key]) for one in told for flat in one.answers.values() if key in flat]
    return sum(found) if found else None


def generic(one: Told) -> GenericSums:
    """Add what the sites answered about the generic model of one run."""
    beats = _added(one, Confusion, "generic.beat")
    strips = _added(one, Confusion, "generic.strip")
    histograms = _added(one, ScoreHistogram, "generic.histogram")
    return GenericSums(
        patients=counted([one], "generic.patients") or 0,
        beats=reduce(add, beats) if beats else None,
        strips=reduce(add, strips) if strips else None,
        histogram=reduce(add, histograms) if histograms else None,
        sites={"beats": len(beats), "strips": len(strips), "histogram": len(histograms)},
    )


def _added(one: Told, kind: Any, prefix: str) -> list[Any]:
    out = []
    for site in sorted(one.answers):
        try:
            sums = kind.from_flat(one.answers[site], prefix)
        except ProtocolError:
            continue
        if sums != kind():
            out.append(sums)
    return out


def last_round(told: Sequence[Told]) -> int:
    """Return the last personalization round any site answered for."""
    rounds = [
        int(key.split(".")[2])
        for one in told
        for flat in one.answers.values()
        for key in flat
        if key.startswith("personal.")
    ]
    return max(rounds, default=0)


def answer_bytes(told: Sequence[Told]) -> int:
    """Return the size of the largest answer to personalization, written as JSON."""
    sizes = [len(json.dumps(flat)) for one in told for flat in one.answers.values()]
    return max(sizes, default=0)
