"""Speed and memory of ingest: ``python benchmarks/ingest.py``.

Writes a synthetic site in the MIMIC-III layout, ingests it in one process and prints how many seconds of
ECG become rows and beats per second of processor time. Then the same strips are cut from records of one
hour and of many hours, each in a process of its own, and the peak memory of both is printed. The bars: at
least 1,000 times real time per core, and a memory that does not grow with the length of a record.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from client.data.ingest import ingest
from client.database.session import create_database, sessions
from client.site import Site, SourceSettings
from common.config import make_settings
from common.logs import reporter_for, use_reporter

BAR = 1000.0
RATE_HZ = 125
START = datetime(2150, 1, 1)


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="data root to ingest; default: a synthetic site")
    parser.add_argument(
        "--kind", default="mimic3", choices=("mimic3", "mitbih"), help="layout of the data root"
    )
    parser.add_argument("--patients", type=int, default=20, help="generic patients of the synthetic site")
    parser.add_argument("--hours", type=float, nargs="+", default=[5.0, 24.0, 100.0], help="record lengths")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.data, options.kind)))
        return
    use_reporter(reporter_for(sys.stdout))
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or synthetic_site(Path(folder) / "site", options.patients)
        speed(in_own_process(data, options.kind))
        print(f"\n{'record':>8} {'on disk':>9} {'strips':>7} {'CPU':>8} {'peak memory':>12}")
        for hours in options.hours:
            root = Path(folder) / f"long-{hours:g}"
            size = long_record(root, hours)
            found = in_own_process(root, "mimic3")
            print(
                f"{hours:6g} h {size / 1e6:6.0f} MB {found['strips']:7.0f} {found['cpu_s']:6.1f} s "
                f"{found['peak_mb']:9.0f} MB"
            )


def speed(found: dict[str, float]) -> None:
    """Print the rate and whether it reaches the bar."""
    rate = found["hours"] * 3600 / found["cpu_s"]
    verdict = "reached" if rate >= BAR else "MISSED"
    print(
        f"{found['strips']:.0f} strips, {found['beats']:.0f} beats from {found['hours']:.1f} h of ECG in "
        f"{found['cpu_s']:.1f} s of CPU: {rate:,.0f} times real time per core "
        f"(bar {BAR:,.0f}: {verdict}); peak memory {found['peak_mb']:.0f} MB"
    )


def measure(data: Path, kind: str) -> dict[str, float]:
    """Ingest a data root into a folder that is thrown away; return counts, CPU time and peak memory."""
    with tempfile.TemporaryDirectory() as folder:
        site = Site(
            name="bench",
            folder=Path(folder),
            settings=make_settings("ventricular" if kind == "mitbih" else "hyperkalemia"),
            source=SourceSettings.model_validate({"kind": kind, "folder": str(data.resolve())}),
            database_url=f"sqlite:///{folder}/site.sqlite",
        )
        factory = sessions(create_database(site.database_url))
        before = time.process_time()
        result = ingest(site, factory)
        return {
            "cpu_s": time.process_time() - before,
            "hours": result.hours,
            "beats": result.beats,
            "strips": sum(sum(reasons.values()) for reasons in result.strips.values()),
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }


def in_own_process(data: Path, kind: str) -> dict[str, float]:
    """Measure in a fresh process, so that peak memory belongs to this data root alone."""
    command = [sys.executable, str(Path(__file__)), "--one", "--data", str(data), "--kind", kind]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def synthetic_site(folder: Path, patients: int) -> Path:
    """Write a synthetic site and return its data root."""
    from simulation.cohort.profile import PROFILES, CohortSizes
    from simulation.cohort.site import write_site

    # Windows little longer than a strip, as in the demo: most of what is read is used.
    sizes = CohortSizes(
        patients=patients + 2, personal_patients=2, positive_share=0.55, most_draws=4, window_hours=0.175
    )
    write_site(folder, PROFILES["north"], sizes, 1)
    return folder


def long_record(root: Path, hours: float, draws: int = 8) -> int:
    """Write one patient with one record of so many hours and a fixed number of draws; return its bytes."""
    clinical, folder = root / "clinical", root / "waveforms" / "p00" / "p000020"
    clinical.mkdir(parents=True)
    folder.mkdir(parents=True)
    end = START + timedelta(hours=hours)
    tables = {
        "D_LABITEMS": "ITEMID,LABEL,FLUID\n50971,Potassium,Blood\n",
        "PATIENTS": f"SUBJECT_ID,GENDER,DOB\n20,F,{START - timedelta(days=20000)}\n",
        "ICUSTAYS": f"SUBJECT_ID,INTIME,OUTTIME\n20,{START},{end}\n",
        "LABEVENTS": "ROW_ID,SUBJECT_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM\n",
    }
    # As many windows in every record, spread over its length.
    for number in range(draws):
        time_of = START + timedelta(minutes=10) + (end - START - timedelta(minutes=10)) * number / (draws - 1)
        tables["LABEVENTS"] += f"{number},20,50971,{time_of:%Y-%m-%d %H:%M:%S},4.0,4.0,mEq/L\n"
    for name, text in tables.items():
        (clinical / f"{name}.csv").write_text(text)
    n, part = round(hours * 3600 * RATE_HZ), 600 * RATE_HZ
    wave = np.zeros(RATE_HZ)
    for height, place, width in ((10, 20, 2.5), (90, 45, 1.4), (-20, 49, 1.5), (25, 80, 5.0)):
        wave += height * np.exp(-0.5 * ((np.arange(RATE_HZ) - place) / width) ** 2)
    noise = np.random.default_rng(0).normal(0, 1.5, part)
    block = np.rint(np.tile(wave, part // RATE_HZ) + noise + 128).astype(np.uint8).tobytes()
    with (folder / "3000000_0001.dat").open("wb") as file:
        for first in range(0, n, part):
            file.write(block[: min(part, n - first)])
    (folder / "3000000_0001.hea").write_text(
        f"3000000_0001 1 {RATE_HZ} {n}\n3000000_0001.dat 80 100(0)/mV 8 0 0 0 0 II\n"
    )
    name = f"p000020-{START:%Y-%m-%d-%H-%M}"
    (folder / f"{name}.hea").write_text(
        f"{name}/1 1 {RATE_HZ} {n} {START:%H:%M:%S}.000 {START:%d/%m/%Y}\n3000000_0001 {n}\n"
    )
    (root / "waveforms" / "RECORDS-waveforms").write_text(f"p00/p000020/{name}\n")
    return n


if __name__ == "__main__":
    main()
