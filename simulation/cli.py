"""``fedkalemia-sim``: a whole federation on one machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from common.command import run_app
from common.config import parse_overrides
from common.errors import ConfigurationError
from common.logs import say

app = typer.Typer(
    help="A whole federation on one machine: hospital files, federation, personal models, reports.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Out = Annotated[Path, typer.Option(help="Folder of the run; started again, a run goes on where it stopped")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random stream")]
Workers = Annotated[int, typer.Option(min=1, help="Processes; never changes a result")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting, e.g. federation.rounds=30"),
]


@app.command()
def demo(out: Out = Path("runs/demo"), seed: Seed = 7, workers: Workers = 2) -> None:
    """Three small synthetic hospitals, one federation, a report at every site. A few minutes on two cores."""
    from simulation.closing import closing_text
    from simulation.plans import synthetic_journey
    from simulation.run import run_journey

    journey = synthetic_journey(out, sites=3, seed=seed, preset="quick", overrides={}, workers=workers)
    say(closing_text(journey.out, run_journey(journey)))


@app.command()
def run(
    source: Annotated[str, typer.Option(help="synthetic (MIMIC-III layout) or mitbih (real recordings)")],
    out: Out,
    data: Annotated[
        Path | None,
        typer.Option(help="mitbih: folder of the recordings; synthetic: folder written by 'cohort'"),
    ] = None,
    sites: Annotated[int | None, typer.Option(min=1, help="Number of sites; 3 by default")] = None,
    seed: Seed = 0,
    preset: Annotated[str, typer.Option(help="Preset of the settings")] = "standard",
    split: Annotated[
        str, typer.Option(help="mitbih: folds (train on one half, test the other, swap) or ds1-ds2")
    ] = "folds",
    train_records: Annotated[
        str | None, typer.Option(help="mitbih: records to train on, e.g. 101,106; with --test-records")
    ] = None,
    test_records: Annotated[str | None, typer.Option(help="mitbih: records to test on")] = None,
    detect: Annotated[
        bool, typer.Option("--detect", help="mitbih: use the R-peak detector, not the annotated positions")
    ] = False,
    overrides: Overrides = None,
    workers: Workers = 2,
) -> None:
    """Run the whole journey on synthetic hospitals or on real annotated recordings."""
    from simulation.closing import closing_text
    from simulation.cohort.build import SITES
    from simulation.plans import mitbih_journey, synthetic_journey
    from simulation.run import run_journey

    changed = parse_overrides(overrides or [])
    if source == "synthetic":
        _refuse("synthetic", train_records=train_records, test_records=test_records)
        journey = synthetic_journey(
            out, sites=sites, seed=seed, preset=preset, overrides=changed, workers=workers, data=data
        )
    elif source == "mitbih":
        if data is None:
            raise ConfigurationError("--source mitbih needs --data, the folder of the recordings")
        journey = mitbih_journey(
            out,
            data,
            sites=SITES if sites is None else sites,
            seed=seed,
            preset=preset,
            overrides=changed,
            workers=workers,
            split=split,
            train_records=_list(train_records),
            test_records=_list(test_records),
            detect=detect,
        )
    else:
        raise ConfigurationError(f"unknown --source {source!r}; allowed: mitbih, synthetic")
    say(closing_text(journey.out, run_journey(journey)))


@app.command()
def cohort(
    out: Annotated[
        Path | None,
        typer.Option(help="Folder of the hospitals; started again, it goes on where it stopped"),
    ] = None,
    sites: Annotated[
        int | None, typer.Option(min=1, help="Number of hospitals, from the built-in profiles; 3 by default")
    ] = None,
    profile: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME_OR_FILE", help="A built-in profile or a TOML file; repeatable"),
    ] = None,
    patients: Annotated[int | None, typer.Option(help="Patients per hospital; 60 by default")] = None,
    personal: Annotated[
        int | None,
        typer.Option(help="Of them, dialysed for weeks (personal patients); default: the profile's share"),
    ] = None,
    positive_share: Annotated[
        float | None,
        typer.Option(help="Share of the others with hyperkalemia, as in a case-control study"),
    ] = None,
    window_hours: Annotated[
        float | None, typer.Option(help="Hours of ECG written before each draw; 0.5 by default")
    ] = None,
    continuous: Annotated[
        bool, typer.Option("--continuous", help="Write all monitored hours, not only those around draws")
    ] = False,
    layout: Annotated[
        str | None,
        typer.Option(help="Layout of the files: mimic3, mimic4 or vitaldb; by default that of each profile"),
    ] = None,
    seed: Seed = 0,
    truth: Annotated[
        Path | None, typer.Option(help="Folder of the ground truth; by default OUT/truth")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; never changes a byte")] = 2,
    describe: Annotated[
        bool, typer.Option("--describe", help="Print what would be written, and write nothing")
    ] = False,
) -> None:
    """Write synthetic hospitals in the layout of real ones, from a few patients to thousands."""
    from simulation.cohort.build import (
        SITES,
        TRUTH,
        built_in_sites,
        check_out,
        chosen_sites,
        closing_text,
        cohort_sizes,
        describe_sites,
        site_orders,
        sites_in_layout,
        write_sites,
    )

    if sites is not None and profile:
        raise ConfigurationError("--sites and --profile do not go together; name each hospital by --profile")
    if continuous and window_hours is not None:
        raise ConfigurationError("--window-hours has no meaning with --continuous, which writes everything")
    if out is None and not describe:
        raise ConfigurationError("--out is missing: name a new folder, or ask for --describe only")
    sizes = cohort_sizes(
        patients=patients,
        personal_patients=personal,
        positive_share=positive_share,
        window_hours=window_hours,
        continuous=continuous,
    )
    profiles = chosen_sites(profile) if profile else built_in_sites(SITES if sites is None else sites)
    if layout is not None:
        profiles = sites_in_layout(profiles, layout)
    folder = Path() if out is None else out
    orders = site_orders(profiles, sizes, seed, folder, truth)
    if describe:
        say(describe_sites(orders))
        return
    check_out(folder, truth)
    say(closing_text(write_sites(orders, workers), folder, truth or folder / TRUTH))


@app.command()
def profile(
    name: Annotated[str | None, typer.Argument(help="Built-in profile; without it, all are listed")] = None,
) -> None:
    """Print a built-in hospital profile as TOML, to copy and edit."""
    from simulation.cohort.describe import profile_list
    from simulation.cohort.profile import profile_text

    say(profile_list() if name is None else profile_text(name).rstrip())


@app.command()
def settings(
    task: Annotated[str, typer.Option(help="hyperkalemia or ventricular")] = "hyperkalemia",
    preset: Annotated[str, typer.Option(help="Preset of the settings")] = "standard",
    overrides: Overrides = None,
) -> None:
    """Print every setting with its value and meaning."""
    from common.config import make_settings
    from simulation.listing import settings_table

    say(settings_table(make_settings(task, preset, parse_overrides(overrides or []))))


@app.command()
def physiology(
    patients: Annotated[
        int, typer.Option(min=4, help="Patients of the paired study; the other studies are sized by it")
    ] = 200,
    seed: Seed = 7,
    out: Annotated[
        Path | None, typer.Option(help="Folder for the figures and the tables; without it nothing is written")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes; never changes a number")] = 2,
) -> None:
    """Repeat published studies on simulated patients and compare. One to two minutes."""
    from simulation.cohort.proof.command import physiology as run_physiology

    say(run_physiology(patients, seed, out, workers))


def _list(text: str | None) -> list[str] | None:
    return None if text is None else text.replace(",", " ").split()


def _refuse(source: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigurationError(f"--{name.replace('_', '-')} has no meaning with --source {source}")


def main() -> None:
    """Entry point of ``fedkalemia-sim``."""
    run_app(app)
