"""Speed and memory of ingest: ``python benchmarks/ingest.py``.

1. A synthetic site in the MIMIC-III layout is ingested in one process: seconds of ECG that become rows and
   beats per second of processor time. Bar: 5,000 times real time per core.
2. Records of 5 and of 100 hours, made by repeating real segments of a bedside monitor (several leads, gaps,
   hundreds to thousands of segments), with one draw every eight hours, are ingested; beside it the plain way:
   ``wfdb.rdrecord`` of the whole record and ``wfdb.processing.xqrs_detect`` on lead II of each strip. The two
   run in turn, each in a process of its own; medians of the ratios of processor time. Bars: 5 times on 5
   hours, 20 times on 100 hours, memory below 400 MB and the same for both lengths.

Real segments come from FEDKALEMIA_TEST_DATA (or --real); without it the second part repeats a synthetic one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np

from client.data.ingest import ingest
from client.database.session import create_database, sessions
from client.site import Site, SourceSettings
from common.config import make_settings
from common.logs import reporter_for, use_reporter

BAR, MEMORY_BAR_MB = 5000.0, 400.0
RATIO_BARS = {5.0: 5.0, 100.0: 20.0}
RATE_HZ = 125
WINDOW_S, HOURS_PER_DRAW = 600, 8.0
START = datetime(2150, 1, 1)
RECORD = f"p00/p000020/p000020-{START:%Y-%m-%d-%H-%M}"
#: A stretch of a real record with lead II: five segments of two and three leads, twelve minutes in all.
REAL = ("mimic_wfdb/s00001", ("3975656_0012", "3975656_0013", "3975656_0014", "3975656_0015", "3975656_0016"))


def main() -> None:
    """Run the parts that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="data root to ingest in part 1; default: a synthetic site")
    parser.add_argument(
        "--kind", default="mimic3", choices=("mimic3", "mitbih"), help="layout of the data root"
    )
    parser.add_argument("--patients", type=int, default=20, help="generic patients of the synthetic site")
    parser.add_argument("--hours", type=float, nargs="*", default=[5.0, 100.0], help="record lengths")
    parser.add_argument("--repeats", type=int, default=3, help="pairs of runs per record length")
    named = os.environ.get("FEDKALEMIA_TEST_DATA")
    parser.add_argument("--real", type=Path, default=Path(named) if named else None, help="real recordings")
    parser.add_argument("--one", choices=("ours", "plain"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        found = measure(options.data, options.kind) if options.one == "ours" else plain(options.data)
        print(json.dumps(found))
        return
    use_reporter(reporter_for(sys.stdout))
    with tempfile.TemporaryDirectory() as folder:
        data = options.data or synthetic_site(Path(folder) / "site", options.patients)
        speed(in_own_process("ours", data, options.kind))
        if options.hours:
            side_by_side(Path(folder), options.hours, options.repeats, options.real)


def speed(found: dict[str, float]) -> None:
    """Print the rate and whether it reaches the bar."""
    rate = found["hours"] * 3600 / found["cpu_s"]
    verdict = "reached" if rate >= BAR else "MISSED"
    print(
        f"{found['strips']:.0f} strips, {found['beats']:.0f} beats from {found['hours']:.1f} h of ECG in "
        f"{found['cpu_s']:.1f} s of CPU: {rate:,.0f} times real time per core "
        f"(bar {BAR:,.0f}: {verdict}); peak memory {found['peak_mb']:.0f} MB"
    )


def side_by_side(folder: Path, lengths: list[float], repeats: int, real: Path | None) -> None:
    """Print a table of both ways on records of several lengths."""
    print(
        f"\n{'record':>8} {'segments':>8} {'on disk':>8} {'strips':>6} {'ours':>8} {'plain':>9} {'ratio':>7} "
        f"{'ours':>8} {'plain':>9}"
    )
    print(f"{'':>8} {'':>8} {'':>8} {'':>6} {'CPU':>8} {'CPU':>9} {'median':>7} {'memory':>8} {'memory':>9}")
    for hours in lengths:
        root = folder / f"long-{hours:g}"
        segments, size = long_record(root, hours, real)
        pairs = [
            (in_own_process("ours", root, "mimic3"), in_own_process("plain", root, "mimic3"))
            for _ in range(repeats)
        ]
        ratio = statistics.median(slow["cpu_s"] / fast["cpu_s"] for fast, slow in pairs)
        ours, theirs = (statistics.median(pair[k]["cpu_s"] for pair in pairs) for k in (0, 1))
        memory, their_memory = (max(pair[k]["peak_mb"] for pair in pairs) for k in (0, 1))
        bar = RATIO_BARS.get(hours)
        verdict = "" if bar is None else f"  bar {bar:g}: {'reached' if ratio >= bar else 'MISSED'}"
        verdict += f"; memory {'below' if memory < MEMORY_BAR_MB else 'ABOVE'} {MEMORY_BAR_MB:g} MB"
        print(
            f"{hours:6g} h {segments:8d} {size / 1e6:5.0f} MB {pairs[0][0]['strips']:6.0f} {ours:6.2f} s "
            f"{theirs:7.2f} s {ratio:7.1f} {memory:5.0f} MB {their_memory:6.0f} MB{verdict}"
        )
        if pairs[0][0]["accepted"] < pairs[0][0]["strips"]:
            print(f"{'':>8} {pairs[0][0]['accepted']:.0f} of the strips were accepted")
        shutil.rmtree(root)


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
            "accepted": result.accepted_strips,
            "peak_mb": peak_mb(),
        }


def plain(data: Path) -> dict[str, float]:
    """Do what a script would: read the whole record, detect beats in lead II of each strip."""
    import wfdb
    from wfdb.processing import xqrs_detect

    path = data / "waveforms" / RECORD
    lines = (data / "clinical" / "LABEVENTS.csv").read_text().splitlines()[1:]
    times = [datetime.fromisoformat(line.split(",")[3]) for line in lines]
    before = time.process_time()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        record = wfdb.rdrecord(str(path))
        lead = record.p_signal[:, record.sig_name.index("II")]
        beats = 0
        for moment in times:
            end = round((moment - START).total_seconds() * RATE_HZ)
            strip = np.nan_to_num(lead[end - WINDOW_S * RATE_HZ : end])
            beats += len(xqrs_detect(strip, RATE_HZ, verbose=False))
    return {"cpu_s": time.process_time() - before, "strips": len(times), "beats": beats, "peak_mb": peak_mb()}


def peak_mb() -> float:
    """Return the largest memory of this process so far, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def in_own_process(which: str, data: Path, kind: str) -> dict[str, float]:
    """Measure in a fresh process, so that peak memory belongs to this data root alone."""
    command = [sys.executable, str(Path(__file__)), "--one", which, "--data", str(data), "--kind", kind]
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


def long_record(root: Path, hours: float, real: Path | None) -> tuple[int, int]:
    """Write one patient with one record of so many hours, segments repeated; return segments and bytes."""
    clinical, folder = root / "clinical", (root / "waveforms" / RECORD).parent
    clinical.mkdir(parents=True)
    folder.mkdir(parents=True)
    end = START + timedelta(hours=hours)
    tables = {
        "D_LABITEMS": "ITEMID,LABEL,FLUID\n50971,Potassium,Blood\n",
        "PATIENTS": f"SUBJECT_ID,GENDER,DOB\n20,F,{START - timedelta(days=20000)}\n",
        "ICUSTAYS": f"SUBJECT_ID,INTIME,OUTTIME\n20,{START},{end}\n",
        "LABEVENTS": "ROW_ID,SUBJECT_ID,ITEMID,CHARTTIME,VALUE,VALUENUM,VALUEUOM\n",
    }
    draws = max(1, round(hours / HOURS_PER_DRAW))
    for number in range(draws):
        moment = START + timedelta(hours=hours) * (number + 1) / (draws + 1)
        tables["LABEVENTS"] += f"{number},20,50971,{moment:%Y-%m-%d %H:%M:%S},4.0,4.0,mEq/L\n"
    for name, text in tables.items():
        (clinical / f"{name}.csv").write_text(text)
    parts = real_segments(real) if real else [synthetic_segment()]
    lines, size, position, leads = ["3000000_layout 0"], 0, 0, set[str]()
    total = round(hours * 3600 * RATE_HZ)
    while position < total:
        for header, samples in parts:
            name = f"3000000_{len(lines):04d}"
            length = int(header[0].split()[3])
            first = f"{name} {header[0].split()[1]} {RATE_HZ} {length}"
            signals = [f"{name}.dat {line.split(maxsplit=1)[1]}" for line in header[1:]]
            leads |= {line.split(maxsplit=8)[8] for line in signals}
            (folder / f"{name}.hea").write_text("\n".join([first, *signals]) + "\n")
            (folder / f"{name}.dat").write_bytes(samples)
            lines.append(f"{name} {length}")
            position, size = position + length, size + len(samples)
    name = RECORD.rpartition("/")[2]
    layout = [f"3000000_layout {len(leads)} {RATE_HZ} 0", *(f"~ 0 1/mV 8 0 0 0 0 {x}" for x in sorted(leads))]
    (folder / "3000000_layout.hea").write_text("\n".join(layout) + "\n")
    head = f"{name}/{len(lines)} {len(leads)} {RATE_HZ} {position} {START:%H:%M:%S}.000 {START:%d/%m/%Y}"
    (folder / f"{name}.hea").write_text("\n".join([head, *lines]) + "\n")
    (root / "waveforms" / "RECORDS-waveforms").write_text(f"{RECORD}\n")
    return len(lines) - 1, size


def real_segments(data: Path) -> list[tuple[list[str], bytes]]:
    """Read header lines and samples of some segments of a real record."""
    folder, names = REAL
    found = []
    for name in names:
        lines = (data / folder / f"{name}.hea").read_text().splitlines()
        body = [line.strip() for line in lines if line.strip() and not line.startswith("#")]
        found.append((body, (data / folder / f"{name}.dat").read_bytes()))
    return found


def synthetic_segment() -> tuple[list[str], bytes]:
    """Make ten minutes of lead II without real recordings."""
    n = 600 * RATE_HZ
    wave = np.zeros(RATE_HZ)
    for height, place, width in ((10, 20, 2.5), (90, 45, 1.4), (-20, 49, 1.5), (25, 80, 5.0)):
        wave += height * np.exp(-0.5 * ((np.arange(RATE_HZ) - place) / width) ** 2)
    noise = np.random.default_rng(0).normal(0, 1.5, n)
    samples = np.rint(np.tile(wave, n // RATE_HZ) + noise + 128).astype(np.uint8).tobytes()
    return [f"x 1 {RATE_HZ} {n}", "x.dat 80 100(0)/mV 8 0 0 0 0 II"], samples


if __name__ == "__main__":
    main()
