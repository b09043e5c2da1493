"""The rest of the lab table: the chemistry panel beside potassium, blood gases, potassium of other fluids."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from simulation.cohort import clinical_parameters as table
from simulation.cohort.labs import SERUM, WHOLE_BLOOD, Draw

Kidney = Literal["healthy", "injured", "failed"]

# item: label, fluid, category, LOINC code; as in the table of the MIMIC-III demo
ITEMS: dict[int, tuple[str, str, str, str]] = {
    50808: ("Free Calcium", "Blood", "Blood Gas", "1994-3"),
    50809: ("Glucose", "Blood", "Blood Gas", "2339-0"),
    50813: ("Lactate", "Blood", "Blood Gas", "32693-4"),
    50820: ("pH", "Blood", "Blood Gas", "11558-4"),
    50822: ("Potassium, Whole Blood", "Blood", "Blood Gas", "6298-4"),
    50824: ("Sodium, Whole Blood", "Blood", "Blood Gas", "2947-0"),
    50833: ("Potassium", "Other Body Fluid", "Blood Gas", "2821-7"),
    50847: ("Potassium, Ascites", "Ascites", "Chemistry", "49789-1"),
    50868: ("Anion Gap", "Blood", "Chemistry", "1863-0"),
    50882: ("Bicarbonate", "Blood", "Chemistry", "1963-8"),
    50893: ("Calcium, Total", "Blood", "Chemistry", "2000-8"),
    50902: ("Chloride", "Blood", "Chemistry", "2075-0"),
    50912: ("Creatinine", "Blood", "Chemistry", "2160-0"),
    50931: ("Glucose", "Blood", "Chemistry", "2345-7"),
    50960: ("Magnesium", "Blood", "Chemistry", "2601-3"),
    50970: ("Phosphate", "Blood", "Chemistry", "2777-1"),
    50971: ("Potassium", "Blood", "Chemistry", "2823-3"),
    50983: ("Sodium", "Blood", "Chemistry", "2951-2"),
    51006: ("Urea Nitrogen", "Blood", "Chemistry", "3094-0"),
    51041: ("Potassium, Body Fluid", "Other Body Fluid", "Chemistry", "2821-7"),
    51057: ("Potassium, Pleural", "Pleural", "Chemistry", ""),
    51064: ("Potassium, Stool", "Stool", "Chemistry", "15202-5"),
    51097: ("Potassium, Urine", "Urine", "Chemistry", "2828-2"),
}
URINE, STOOL = 51097, 51064
_DECOYS = ((URINE, 0.6), (STOOL, 0.1), (50833, 0.08), (50847, 0.07), (51041, 0.08), (51057, 0.07))


@dataclass(frozen=True)
class OtherResult:
    """A result that is not blood potassium; it belongs to the draw at ``position`` of the draws given."""

    position: int
    item: int
    text: str
    unit: str
    abnormal: bool


class _Printed(NamedTuple):
    """How one item is reported, on how many draws, and its reference range (demo: unflagged values)."""

    unit: str
    decimals: int
    share: float
    low: float
    high: float


_CHEMISTRY = {
    50868: _Printed("mEq/L", 0, 0.92, 8.0, 20.0),
    50882: _Printed("mEq/L", 0, 0.93, 22.0, 32.0),
    50893: _Printed("mg/dL", 1, 0.81, 8.4, 10.2),
    50902: _Printed("mEq/L", 0, 0.93, 96.0, 108.0),
    50912: _Printed("mg/dL", 1, 0.90, 0.4, 1.2),
    50931: _Printed("mg/dL", 0, 0.92, 70.0, 105.0),
    50960: _Printed("mg/dL", 1, 0.88, 1.6, 2.6),
    50970: _Printed("mg/dL", 1, 0.81, 2.7, 4.5),
    50983: _Printed("mEq/L", 0, 0.94, 133.0, 145.0),
    51006: _Printed("mg/dL", 0, 0.90, 6.0, 20.0),
}
_GAS = {
    50808: _Printed("mmol/L", 2, 0.7, 1.12, 1.32),
    50809: _Printed("mg/dL", 0, 0.6, 70.0, 105.0),
    50813: _Printed("mmol/L", 1, 0.6, 0.5, 2.0),
    50820: _Printed("units", 2, 0.95, 7.35, 7.45),
    50824: _Printed("mEq/L", 0, 0.6, 135.0, 145.0),
}


class _Levels(NamedTuple):
    """Median (of log-normal) or mean values by kidney function. Assumptions around the demo's marginals."""

    creatinine: float
    urea: float
    bicarbonate: float
    gap: float
    phosphate: float


_LEVELS: dict[Kidney, _Levels] = {
    "healthy": _Levels(0.9, 20.0, 26.0, 13.0, 3.3),
    "injured": _Levels(2.8, 55.0, 21.5, 16.0, 4.7),
    "failed": _Levels(6.0, 50.0, 24.0, 16.0, 5.3),
}


def other_results(rng: np.random.Generator, draws: Sequence[Draw], kidney: Kidney) -> list[OtherResult]:
    """Everything else on the lab table that comes with a patient's draws.

    A patient has levels of their own, about which each draw varies. Creatinine, urea and phosphate rise and
    bicarbonate falls with potassium, more so when kidneys fail. Broken red cells leak potassium, phosphate
    and magnesium, and leave sodium alone.

    Parameters
    ----------
    rng : stream; how many numbers are drawn depends on the number of draws and their items only.
    draws : the potassium results.
    kidney : kidney function.
    """
    own = rng.normal(size=8)
    out: list[OtherResult] = []
    for position, draw in enumerate(draws):
        noise, kept, other = rng.normal(size=12), rng.random(len(_CHEMISTRY) + len(_GAS)), rng.random(3)
        values = _values(own, noise, draw, kidney)
        panels = {**(_CHEMISTRY if draw.item == SERUM else _GAS)}
        if draw.item == WHOLE_BLOOD:
            # Creatinine and urea are not measured by blood gas analyzers; the laboratory adds them.
            panels |= {item: _CHEMISTRY[item]._replace(share=0.4) for item in (50912, 51006)}
        for (item, printed), chance in zip(sorted(panels.items()), kept, strict=False):
            if chance < printed.share:
                text = f"{values[item]:.{printed.decimals}f}"
                abnormal = not printed.low <= float(text) <= printed.high
                out.append(OtherResult(position, item, text, printed.unit, abnormal))
        if other[0] < table.DECOY_SHARE:
            out.append(_decoy(position, other[1], other[2]))
    return out


def _values(
    own: np.ndarray[tuple[int], np.dtype[np.float64]],
    noise: np.ndarray[tuple[int], np.dtype[np.float64]],
    draw: Draw,
    kidney: Kidney,
) -> dict[int, float]:
    """Values of every item of one specimen; ``own`` and ``noise`` are standard normal numbers."""
    level = _LEVELS[kidney]
    excess = draw.potassium - table.USUAL_MEAN.value
    steep = {"healthy": 0.02, "injured": 0.10, "failed": 0.15}[kidney]
    leak = 0.0
    if draw.hemolysed and draw.value is not None:
        leak = max(draw.value - draw.potassium, 0.0)
    sodium = 139.0 + 4.5 * own[0] + 2.2 * noise[0]
    bicarbonate = level.bicarbonate + 3.6 * own[1] + 1.8 * noise[1] - 0.8 * max(excess, 0.0)
    gap = max(level.gap + 2.6 * own[2] + 1.6 * noise[2], 5.0)
    bicarbonate = float(np.clip(bicarbonate, 6.0, 44.0))
    # The laboratory counts potassium among the cations of the anion gap (demo: the means agree so).
    shown = 4.0 if draw.value is None else draw.value
    chloride = sodium + shown - bicarbonate - gap
    glucose = 122.0 * np.exp(0.24 * own[3] + 0.24 * noise[3])
    ph = np.clip(7.40 + 0.006 * (bicarbonate - 24.0) + 0.045 * noise[9], 6.85, 7.65)
    return {
        50868: round(sodium) + shown - round(chloride) - round(bicarbonate),
        50882: bicarbonate,
        50893: 8.45 + 0.55 * own[4] + 0.35 * noise[4] - 0.2 * (kidney != "healthy"),
        50902: chloride,
        50912: max(level.creatinine * np.exp(0.35 * own[5] + 0.10 * noise[5] + steep * excess), 0.2),
        50931: glucose,
        50960: max(2.05 + 0.22 * own[6] + 0.18 * noise[6] + 0.10 * leak, 0.8),
        50970: max(
            level.phosphate * np.exp(0.25 * own[7] + 0.15 * noise[7] + steep * excess) + 0.3 * leak, 0.6
        ),
        50983: sodium,
        51006: max(level.urea * np.exp(0.40 * own[5] + 0.12 * noise[8] + steep * excess), 3.0),
        50808: 1.13 + 0.06 * own[4] + 0.05 * noise[4],
        50809: glucose * (1.0 + 0.03 * noise[10]),
        50813: float(np.clip(1.9 * np.exp(0.6 * noise[11]), 0.4, 20.0)),
        50820: float(ph),
        50824: sodium - 1.5 + 1.0 * noise[10],
    }


def _decoy(position: int, which: float, level: float) -> OtherResult:
    """Potassium of another fluid: high in urine and stool, as in blood elsewhere."""
    items, shares = zip(*_DECOYS, strict=True)
    item = items[int(np.searchsorted(np.cumsum(shares), which * sum(shares)))]
    value = round(8.0 + 72.0 * level) if item in (URINE, STOOL) else round(3.2 + 2.2 * level, 1)
    return OtherResult(position, item, f"{value:g}", "mEq/L", abnormal=False)
