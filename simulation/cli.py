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
Workers = Annotated[int, typer.Option(min=1, help="Sites computed at once; never changes a result")]
Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a setting, e.g. federation.rounds=30"),
]


@app.command()
def demo(out: Out = Path("runs/demo"), seed: Seed = 7, workers: Workers = 2) -> None:
    """Three small synthetic hospitals, one federation, a report at every site. About three minutes."""
    from simulation.closing import closing_text
    from simulation.plans import synthetic_journey
    from simulation.run import run_journey

    journey = synthetic_journey(out, sites=3, seed=seed, preset="quick", overrides={}, workers=workers)
    say(closing_text(journey.out, run_journey(journey)))


@app.command()
def run(
    source: Annotated[str, typer.Option(help="synthetic (MIMIC-III layout) or mitbih (real recordings)")],
    out: Out,
    data: Annotated[Path | None, typer.Option(help="mitbih: folder of the recordings")] = None,
    sites: Annotated[int, typer.Option(min=1, help="Number of sites")] = 3,
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
    from simulation.plans import mitbih_journey, synthetic_journey
    from simulation.run import run_journey

    changed = parse_overrides(overrides or [])
    if source == "synthetic":
        _refuse("synthetic", data=data, train_records=train_records, test_records=test_records)
        journey = synthetic_journey(
            out, sites=sites, seed=seed, preset=preset, overrides=changed, workers=workers
        )
    elif source == "mitbih":
        if data is None:
            raise ConfigurationError("--source mitbih needs --data, the folder of the recordings")
        journey = mitbih_journey(
            out,
            data,
            sites=sites,
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
def settings(
    task: Annotated[str, typer.Option(help="hyperkalemia or ventricular")] = "hyperkalemia",
    preset: Annotated[str, typer.Option(help="Preset of the settings")] = "standard",
    overrides: Overrides = None,
) -> None:
    """Print every setting with its value and meaning."""
    from common.config import make_settings
    from simulation.listing import settings_table

    say(settings_table(make_settings(task, preset, parse_overrides(overrides or []))))


def _list(text: str | None) -> list[str] | None:
    return None if text is None else text.replace(",", " ").split()


def _refuse(source: str, **options: object) -> None:
    for name, value in options.items():
        if value is not None:
            raise ConfigurationError(f"--{name.replace('_', '-')} has no meaning with --source {source}")


def main() -> None:
    """Entry point of ``fedkalemia-sim``."""
    run_app(app)
