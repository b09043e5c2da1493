"""A small example of a plain folder, with made-up patients and signals: to look at, to copy, to try.

The signals are a handful of bell curves per heartbeat: enough to be found and filtered like an ECG, and
nothing to learn from. Synthetic hospitals are made by ``fedkalemia-sim``.
"""

from __future__ import annotations

import shutil
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from common.errors import ConfigurationError

RATE_HZ: Final = 125
# The 10 minutes before a draw, and a little on both sides.
SECONDS: Final = 660
GAIN: Final = 1000.0

# Height (mV), place after the R peak (s) and width (s) of the waves P, R, S and T.
WAVES: Final = ((0.12, -0.16, 0.022), (1.0, 0.0, 0.011), (-0.25, 0.03, 0.012), (0.3, 0.28, 0.045))
RR_S: Final = 0.8
RR_SD_S: Final = 0.02
NOISE_MV: Final = 0.01

README: Final = """\
A plain folder for fedkalemia
=============================

draws.csv        one line per blood potassium measurement, in any order
  patient        identifier, up to 64 characters; the name of the patient's folder in signals/
  time           when the blood was drawn, like 2150-01-31 08:12:00; no time zone
  potassium      number with a decimal point; a result beyond the range of the device as >10 or <1.5
  unit           mmol/L or mEq/L
  specimen       optional: serum, plasma or whole_blood; empty means serum
  hemolyzed      optional: yes or no; draws with yes are excluded
  flag           optional: the laboratory's own mark; stored, never used
  id             optional: the laboratory's number of the result

patients.csv     optional: one line per patient; every column but patient may be missing or empty
  patient        as in draws.csv
  sex            F or M
  age            years at the first draw; or
  birth_year     if there is no age
  ethnicity      free text; grouped for the report
  height_cm, weight_kg

stays.csv        optional: one line per hospital stay; a draw outside every stay is excluded, and so is a
                 recording that touches none, give or take 12 hours
  patient        as in draws.csv
  start, end     times as above; an empty end for a stay that goes on

signals/PATIENT/ recordings with lead II (named II or MLII), any number of files:
  *.hea          WFDB records with date and time in the header, with one or many segments
  *.edf          EDF or EDF+C, with its start date; also 'ECG II' as the name of the lead
  *.csv          lines '# start: 2150-01-31 08:00:00', '# rate_hz: 125' and '# unit: mV' (mV, uV or V), then
                 a line of column names, one of them II, then a line per sample; a field is empty where
                 nothing was recorded

All times are those of one clock, without time zone or summer time. Files are plain text in UTF-8 with commas
between columns. Do not open them in a spreadsheet program: it changes times and identifiers.

Check a folder:  fedkalemia-site check-data DIR
"""

DRAWS: Final = """\
patient,time,potassium,unit,specimen,hemolyzed,flag,id
example-1,2150-01-31 08:10:30,4.2,mmol/L,serum,no,,1001
example-2,2150-02-03 14:40:30,6.1,mmol/L,serum,no,H,1002
"""
PATIENTS: Final = """\
patient,sex,age,birth_year,ethnicity,height_cm,weight_kg
example-1,F,64,,White,165,70.5
example-2,M,,2081,Asian,172,81
"""
STAYS: Final = """\
patient,start,end
example-1,2150-01-30 22:15:00,2150-02-02 11:00:00
example-2,2150-02-03 09:00:00,
"""


def example_lead_ii(seconds: float, rate_hz: float = RATE_HZ, *, seed: int = 0) -> npt.NDArray[np.float64]:
    """Return a made-up lead II at about 75 beats a minute.

    Parameters
    ----------
    seconds : length.
    rate_hz : samples per second.
    seed : the same one gives the same signal.

    Returns
    -------
    float64 (round(seconds * rate_hz),), mV.
    """
    random = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    signal = random.normal(0.0, NOISE_MV, len(time))
    for r in np.cumsum(random.normal(RR_S, RR_SD_S, round(seconds / RR_S) + 2)):
        near = slice(max(0, round((r - RR_S / 2) * rate_hz)), max(0, round((r + RR_S / 2) * rate_hz)))
        for height, place, width in WAVES:
            signal[near] += height * np.exp(-0.5 * ((time[near] - r - place) / width) ** 2)
    return signal


def write_csv_signal(path: Path, start: datetime, signal_mv: npt.NDArray[np.float64], rate_hz: float) -> None:
    """Write a signal as a CSV file of the plain folder, in steps of a microvolt; NaN as an empty line."""
    lines = ["" if np.isnan(value) else f"{value:.3f}" for value in signal_mv]
    head = (f"# start: {start.isoformat(' ')}", f"# rate_hz: {rate_hz:g}", "# unit: mV", "II")
    path.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


def write_wfdb_signal(
    folder: Path, name: str, start: datetime, signal_mv: npt.NDArray[np.float64], rate_hz: float
) -> None:
    """Write a signal as a WFDB record with one segment, format 16, in steps of a microvolt."""
    stored = np.rint(signal_mv * GAIN).astype("<i2")
    stored.tofile(folder / f"{name}.dat")
    clock, day = start.time().isoformat("milliseconds"), f"{start:%d/%m/}{start.year:04d}"
    # resolution, ADC zero, first value, checksum, block size
    numbers = f"16 0 {stored[0] if len(stored) else 0} {int(stored.sum(dtype=np.int16))} 0"
    lines = (
        f"{name} 1 {rate_hz:g} {len(stored)} {clock} {day}",
        f"{name}.dat 16 {GAIN:g}(0)/mV {numbers} II",
    )
    (folder / f"{name}.hea").write_text("\n".join(lines) + "\n", encoding="utf-8")


def write_template(folder: Path) -> None:
    """Write the example; it is there as a whole or not at all.

    Raises
    ------
    ConfigurationError
        If the folder exists and holds something.
    """
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise ConfigurationError(f"{folder} exists; name a folder that is not there yet")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for name, text in (
            ("README.txt", README),
            ("draws.csv", DRAWS),
            ("patients.csv", PATIENTS),
            ("stays.csv", STAYS),
        ):
            (unfinished / name).write_text(text, encoding="utf-8")
        first, second = (unfinished / "signals" / key for key in ("example-1", "example-2"))
        for patient in (first, second):
            patient.mkdir(parents=True)
        morning, afternoon = datetime(2150, 1, 31, 8), datetime(2150, 2, 3, 14, 30)
        write_csv_signal(first / "monitor.csv", morning, example_lead_ii(SECONDS, seed=1), RATE_HZ)
        write_wfdb_signal(second, "monitor", afternoon, example_lead_ii(SECONDS, seed=2), RATE_HZ)
        unfinished.chmod(0o755)
        unfinished.rename(folder)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
