"""Several sites: which, what they will cost, and writing them one after the other with all workers.

The layout is the one of a simulated run: ``OUT/hospitals/SITE`` is a data root, ``OUT/truth/SITE`` what only
tests may read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from common.config import validated
from common.errors import ConfigurationError, StorageError
from common.files import storage_errors
from common.logs import Stage, duration, say, stage
from common.workers import worker_processes
from simulation.cohort.describe import aligned, describe_cohort
from simulation.cohort.estimate import (
    Cost,
    check_places,
    check_space,
    cost_of,
    is_whole,
    measure_pace,
    missing_share,
    size_text,
)
from simulation.cohort.folder import COMPLETE, WORK, complete_mark, foreign_entries
from simulation.cohort.forecast import MOST_PLANNED, Forecast, check_personal, forecast
from simulation.cohort.layouts import LAYOUTS, in_layout
from simulation.cohort.parts import SiteOrder
from simulation.cohort.profile import PROFILES, CohortSizes, SiteProfile, load_profile
from simulation.cohort.site import SiteCounts, check_order, write_order

HOSPITALS, TRUTH = "hospitals", "truth"
SITES = 3  # unless asked for otherwise
PLANNED_FOR_SPACE = 48  # patients per site


@dataclass(frozen=True)
class WrittenSite:
    """A site that is on the disk."""

    order: SiteOrder
    counts: SiteCounts


class _Steps:
    """Turns a count of what is done into steps of a progress bar."""

    def __init__(self, bar: Stage) -> None:
        self._bar, self._done = bar, 0

    def __call__(self, done: int, total: int) -> None:
        if done > self._done:
            self._bar.advance(done - self._done)
            self._done = done


def built_in_sites(sites: int) -> list[SiteProfile]:
    """Return as many site profiles as asked for; the known ones come again under numbered names."""
    known = list(PROFILES.values())
    return [
        profile.model_copy(update={"name": f"{profile.name}-{turn + 1}"}) if turn else profile
        for turn, profile in ((index // len(known), known[index % len(known)]) for index in range(sites))
    ]


def chosen_sites(names: Sequence[str]) -> list[SiteProfile]:
    """Load profiles by name or file.

    Raises
    ------
    ConfigurationError
        If one is unknown or wrong, or two have the same name.
    """
    profiles = [load_profile(name) for name in names]
    for name, count in Counter(profile.name for profile in profiles).items():
        if count > 1:
            sources = [n for n, profile in zip(names, profiles, strict=True) if profile.name == name]
            raise ConfigurationError(
                f"{count} profiles are named {name!r} ({', '.join(sources)}); change the key 'name' in a "
                "copy of the profile"
            )
    return profiles


def sites_in_layout(profiles: Sequence[SiteProfile], layout: str) -> list[SiteProfile]:
    """Return profiles whose files are all in one layout.

    Raises
    ------
    ConfigurationError
        If there is no such layout.
    """
    name = next((name for name in LAYOUTS if name == layout), None)
    if name is None:
        raise ConfigurationError(f"unknown --layout {layout!r}; allowed: {', '.join(LAYOUTS)}")
    return [in_layout(profile, name) for profile in profiles]


def cohort_sizes(**options: Any) -> CohortSizes:
    """Return the size of every site from command line options; those that are None keep their default.

    Raises
    ------
    ConfigurationError
        If one is out of its range.
    """
    values = {name: value for name, value in options.items() if value is not None}
    try:
        return validated(CohortSizes, values, "")
    except ConfigurationError as error:  # in the words of the command line
        name, _, rest = str(error).lstrip(": ").partition(" ")
        option = name.removesuffix("_patients").replace("_", "-")
        raise ConfigurationError(f"--{option} {rest}") from None


def site_orders(
    profiles: Sequence[SiteProfile], sizes: CohortSizes, seed: int, out: Path, truth: Path | None = None
) -> list[SiteOrder]:
    """Plan where each site goes; ``truth`` is the folder of all ground truth, ``OUT/truth`` by default."""
    truth = truth or out / TRUTH
    return [
        SiteOrder(out / HOSPITALS / profile.name, profile, sizes, seed, truth / profile.name)
        for profile in profiles
    ]


def check_out(out: Path, truth: Path | None = None) -> None:
    """Refuse an output folder that holds anything but synthetic hospitals and their truth.

    Raises
    ------
    StorageError
        If it, its hospitals or the ground truth's folder hold something else, or are files.
    ConfigurationError
        If the ground truth would lie among the hospitals, or around them.
    """
    truth = truth or out / TRUTH
    if out.resolve().is_relative_to(truth.resolve()):
        raise ConfigurationError(
            f"the ground truth folder {truth} would hold the hospitals of {out} too; choose another one, "
            f"such as {out / TRUTH}"
        )
    if truth.resolve().is_relative_to((out / HOSPITALS).resolve()):
        raise ConfigurationError(
            f"the ground truth folder {truth} lies inside {out / HOSPITALS}, where a site could read it; "
            "choose one outside"
        )
    if out.exists() and not out.is_dir():
        raise StorageError(f"{out} is a file; choose an empty or new folder")
    own = {HOSPITALS, TRUTH}
    if truth.resolve().is_relative_to(out.resolve()):
        own.add(truth.resolve().relative_to(out.resolve()).parts[0])
    with storage_errors(out):
        entries = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    _refuse_other(out, [name for name in entries if name not in own])
    for root in (out / HOSPITALS, truth):
        _refuse_other(root, foreign_entries(root))


def describe_sites(orders: Sequence[SiteOrder]) -> str:
    """Say what sites will hold, as a text; nothing is written.

    Raises
    ------
    ConfigurationError
        If a site cannot be what is asked for.
    """
    columns = []
    with stage("Planning", len(orders), "site") as progress:
        for order in orders:
            check_personal(order.profile, order.sizes)
            found = forecast(order.profile, order.sizes, order.seed, MOST_PLANNED)
            cost = _whole_cost(order, found)
            columns.append((order, found, cost))
            progress.advance()
    return describe_cohort(columns)


def write_sites(orders: Sequence[SiteOrder], workers: int) -> list[WrittenSite]:
    """Write sites, with what they cost said first and their progress shown.

    Raises
    ------
    ConfigurationError, StorageError
        Before anything is written, if a site cannot be what is asked for, a folder holds something else, or
        the disk is too small; later, if it cannot be written.
    """
    for order in orders:
        check_order(order)
        check_places(order)
        if not is_whole(order):
            check_personal(order.profile, order.sizes)
    cost = remaining_cost(orders)
    if cost.patients:
        say(_announcement(cost, orders, workers))
    written = []
    with worker_processes(workers) as pool:
        for order in orders:
            if is_whole(order):
                say(f"hospital {order.profile.name} is complete already")
                written.append(WrittenSite(order, write_order(order, pool)))
                continue
            with stage(f"Writing hospital {order.profile.name}", order.sizes.patients, "patient") as bar:
                written.append(WrittenSite(order, write_order(order, pool, _Steps(bar))))
    return written


def remaining_cost(orders: Sequence[SiteOrder]) -> Cost:
    """Estimate what is still to be written, all sites together.

    Raises
    ------
    StorageError
        If the disk is too small for it.
    """
    cost = Cost()
    for order in orders:
        share = missing_share(order)
        if share > 0.0:
            found = forecast(order.profile, order.sizes, order.seed, PLANNED_FOR_SPACE)
            whole = _whole_cost(order, found)
            if complete_mark(order.folder) is not None:  # what is left is the truth
                whole = replace(whole, bytes=whole.truth_bytes)
            cost += whole.times(share)
    if cost.patients:
        check_space(orders[0].folder, cost, orders[0].truth)
    return cost


@dataclass(frozen=True)
class Hospital:
    """A written hospital: what it was made from, and its data root."""

    profile: SiteProfile
    folder: Path

    def source(self) -> dict[str, Any]:
        """Return the ``[source]`` section of a site that reads it, clock offset included."""
        ahead = self.profile.laboratory.clock_offset_min
        return {"kind": self.profile.files.layout, "folder": str(self.folder)} | (
            {"lab_clock_ahead_min": ahead} if ahead else {}
        )


def hospitals_in(data: Path) -> list[Hospital]:
    """List the hospitals a ``cohort`` command wrote to a folder, by name.

    Raises
    ------
    StorageError
        If there are none, or one is not complete.
    """
    folders = sorted(path for path in (data / HOSPITALS).glob("*") if path.is_dir())
    if not folders:
        raise StorageError(
            f"{data} holds no synthetic hospitals ({data / HOSPITALS} has none); write some with "
            f"'fedkalemia-sim cohort --out {data}', or leave --data out"
        )
    found = []
    for folder in folders:
        mark = complete_mark(folder)
        if mark is None:
            raise StorageError(
                f"{folder} is not complete; run the 'fedkalemia-sim cohort' command that began it again, it "
                "goes on where it stopped"
                if (folder / WORK).is_dir()
                else f"{folder} is no synthetic hospital: it has no {COMPLETE}; move it out of "
                f"{folder.parent}"
            )
        found.append(Hospital(validated(SiteProfile, mark["profile"], str(folder)), folder.resolve()))
    return found


def closing_text(written: Sequence[WrittenSite], out: Path, truth: Path) -> str:
    """Say what was written, where, how much, and what to do next."""
    rows = [("", "patients", "draws with ECG", "hours of ECG", "files", "size")]
    for site in written:
        counts = site.counts
        rows.append(
            (
                site.order.profile.name,
                f"{counts.patients:,}",
                f"{counts.recorded_draws:,}",
                f"{counts.ecg_s / 3600:,.1f}",
                f"{counts.files:,}",
                size_text(counts.bytes),
            )
        )
    first = written[0].order
    name = first.profile.name
    ahead = first.profile.laboratory.clock_offset_min
    clock = f" --lab-clock-ahead {ahead}" if ahead else ""
    layout = first.profile.files.layout
    source = "" if layout == "mimic3" else f" --source {layout}"
    return "\n".join(
        [
            "",
            aligned(rows),
            "",
            f"Hospitals     {out / HOSPITALS}",
            f"Ground truth  {truth} (for tests; no site may read it)",
            "",
            "next: one site by itself, or all of them as a federation",
            f"  fedkalemia-site init runs/{name} --name {name} --data {first.folder}{source}{clock}",
            f"  fedkalemia-sim run --source synthetic --data {out} --out runs/federation",
        ]
    )


def _refuse_other(root: Path, names: Sequence[str]) -> None:
    if names:
        named = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
        raise StorageError(
            f"{root} is not empty and holds more than a synthetic cohort ({named}); nothing was written. "
            "Choose an empty or new folder"
        )


def _whole_cost(order: SiteOrder, found: Forecast) -> Cost:
    truth = order.truth is not None
    pace_s = measure_pace(order.profile, order.sizes, truth)
    return cost_of(found, pace_s, order.profile, truth)


def _announcement(cost: Cost, orders: Sequence[SiteOrder], workers: int) -> str:
    sites = f"{len(orders)} hospital{'s' * (len(orders) != 1)}"
    with_workers = f"{workers} worker{'s' * (workers != 1)}"
    return (
        f"{sites}, {cost.patients:,.0f} patients to write: about {cost.ecg_h:,.0f} h of ECG, "
        f"{size_text(cost.bytes)} in {cost.files:,.0f} files, {duration(cost.wall_s(workers))} with "
        f"{with_workers}; {size_text(check_space(orders[0].folder, cost, orders[0].truth))} are free"
    )
