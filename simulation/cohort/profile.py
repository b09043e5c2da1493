"""What makes one synthetic hospital differ from the next: profiles in TOML, and the size of a site."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from common.config import Section, nearest, read_toml, validated
from common.errors import ConfigurationError

TURNING_POINT_HZ = 500.0  # the rate before a 4:1 turning-point reduction to 125 Hz
RATES_HZ = (125.0, 249.89, 250.0, 500.0)
LayoutName = Literal["mimic3", "mimic4", "vitaldb"]
#: What the monitors of hospitals with a layout are like; of it, what no site of that layout may change.
LAYOUT_MONITORS: Mapping[LayoutName, Mapping[str, Any]] = {
    "mimic3": {},
    "mimic4": {"rate_hz": 249.89, "turning_point": False, "bits": 16, "gains": (200,)},
    "vitaldb": {"rate_hz": 500.0, "turning_point": False, "bits": 16, "gains": (500,)},
}
#: How the tables of such a hospital are written.
LAYOUT_TABLES: Mapping[LayoutName, Mapping[str, Any]] = {
    "mimic3": {},
    "mimic4": {"upper_case": False, "compressed": True},
    "vitaldb": {},
}
FIXED_BY_LAYOUT = ("rate_hz", "bits")
MOST_PATIENTS = 99_979  # the matched waveforms have folders for SUBJECT_ID 20 to 99998


class CaseMix(Section):
    """Who is treated at a site."""

    age_mean: float = Field(63.0, ge=18.0, le=90.0, description="Mean age, years")
    age_sd: float = Field(15.0, ge=0.0, le=30.0, description="Standard deviation of age, years")
    female_share: float = Field(0.43, ge=0.0, le=1.0, description="Share of women")
    white_share: float = Field(0.68, ge=0.0, le=1.0, description="Share of white patients")
    black_share: float = Field(0.11, ge=0.0, le=1.0, description="Share of black patients")
    injury_share: float = Field(
        0.06, ge=0.0, le=1.0, description="Patients with acute kidney injury and rising potassium"
    )
    dialysis_share: float = Field(
        0.03, ge=0.0, le=1.0, description="Patients with end-stage renal disease on dialysis, ordinary stay"
    )
    long_dialysis_share: float = Field(
        0.02, ge=0.0, le=1.0, description="Patients dialysed for weeks in the unit: many draws of both labels"
    )
    fibrillation_share: float = Field(
        0.08, ge=0.0, le=1.0, description="Patients with episodes of atrial fibrillation, or always in it"
    )
    paced_share: float = Field(0.02, ge=0.0, le=1.0, description="Patients with a pacemaker that paces")
    height_missing: float = Field(0.3, ge=0.0, le=1.0, description="Patients without a charted height")
    weight_missing: float = Field(0.1, ge=0.0, le=1.0, description="Patients without a charted weight")

    @model_validator(mode="after")
    def _shares_of_one_whole(self) -> Self:
        for names in (
            ("white_share", "black_share"),
            ("injury_share", "dialysis_share", "long_dialysis_share"),
            ("fibrillation_share", "paced_share"),
        ):
            total = sum(getattr(self, name) for name in names)
            if total > 1.0 + 1e-9:
                parts = " + ".join(f"{name} {getattr(self, name):g}" for name in names)
                raise ValueError(f"{parts} = {total:g} is more than all patients; allowed: at most 1")
        return self


class Laboratory(Section):
    """How a site draws blood and what its laboratory reports."""

    draw_interval_h: float = Field(8.6, ge=1.0, le=48.0, description="Median hours between draws")
    assay_offset: float = Field(0.0, ge=-0.5, le=0.5, description="Bias of the potassium assay, mEq/L")
    assay_sd: float = Field(0.10, ge=0.0, le=0.5, description="Random error of the assay, mEq/L")
    hemolysed_share: float = Field(0.03, ge=0.0, le=0.5, description="Hemolysed specimens, reported as usual")
    hemolysed_text_share: float = Field(
        0.002, ge=0.0, le=0.5, description="Specimens reported as HEMOLYZED, without a number"
    )
    whole_blood_share: float = Field(0.1, ge=0.0, le=1.0, description="Serum draws with a blood-gas twin")
    whole_blood_only: bool = Field(False, description="All potassium from blood gas analyzers, no serum")
    duplicate_share: float = Field(0.005, ge=0.0, le=0.5, description="Results that are on the table twice")
    no_admission_share: float = Field(0.04, ge=0.0, le=1.0, description="Draws in the stay without HADM_ID")
    clock_offset_min: int = Field(
        0, ge=-180, le=180, description="Minutes the laboratory's clock is ahead of the monitors"
    )
    unit: Literal["mEq/L", "mmol/L"] = Field("mEq/L", description="Unit as printed")


class Monitor(Section):
    """The bedside monitors of a site and what they store."""

    rate_hz: float = Field(125.0, description="Stored sampling rate, Hz")
    turning_point: bool = Field(
        False, description="Sampled at 500 Hz and reduced to 125 Hz by keeping turning points"
    )
    band_hz: tuple[float, float] = Field((0.5, 40.0), description="Pass band of the monitor, Hz")
    mains_hz: Literal[50, 60] = Field(60, description="Mains frequency, Hz")
    bits: Literal[8, 16] = Field(8, description="8: WFDB format 80; 16: WFDB format 16")
    gains: tuple[int, ...] = Field((127, 107, 83, 55), description="Gains, units per mV")
    noise: float = Field(1.0, ge=0.0, le=10.0, description="Factor on muscle noise and wander")
    noisy_share: float = Field(0.05, ge=0.0, le=1.0, description="Windows ruined by movement")
    lead_ii_missing: float = Field(
        0.04, ge=0.0, le=1.0, description="Share of monitored hours without lead II"
    )
    recorded_share: float = Field(
        0.6, ge=0.1, le=1.0, description="Share of an ordinary stay during which the monitor is recorded"
    )
    dates_off_share: float = Field(
        0.02, ge=0.0, le=1.0, description="Patients whose waveform dates do not fit the clinical stay"
    )

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.rate_hz not in RATES_HZ:
            allowed = ", ".join(f"{rate:g}" for rate in RATES_HZ)
            raise ValueError(f"rate_hz = {self.rate_hz:g}; allowed: {allowed}")
        low, high = self.band_hz
        half = self.acquired_hz / 2
        if not 0.0 < low < high < half:
            raise ValueError(
                f"band_hz = [{low:g}, {high:g}]; allowed: 0 < lower < upper < {half:g}, half the sampled rate"
            )
        if self.turning_point and self.rate_hz != 125.0:
            raise ValueError(
                f"turning_point reduces 500 Hz to 125 Hz, but rate_hz = {self.rate_hz:g}; set it to 125"
            )
        most = 500 if self.bits == 8 else 5000
        if not self.gains:
            raise ValueError("gains = []; allowed: at least one gain")
        for gain in self.gains:
            if not 5 <= gain <= most:
                raise ValueError(f"gains: {gain}; allowed with {self.bits} bits: 5 to {most} units per mV")
        return self

    @property
    def acquired_hz(self) -> float:
        """Sampling rate before the reduction, Hz."""
        return TURNING_POINT_HZ if self.turning_point else self.rate_hz


class FileStyle(Section):
    """How the files are written."""

    layout: LayoutName = Field("mimic3", description="Layout of tables and waveforms")
    upper_case: bool = Field(True, description="Headers and names in upper case (full release), else lower")
    compressed: bool = Field(True, description="Tables as .csv.gz, else .csv")


class SiteProfile(Section):
    """One synthetic hospital. Unknown keys are errors."""

    name: str = Field(
        pattern=r"^[a-z][a-z0-9-]{0,31}$",
        description="Name of the site: lower-case letters, digits and hyphens",
    )
    description: str = Field("", description="One sentence for people")
    location: str = Field(
        "micu", pattern=r"^[a-z0-9]{2,12}$", description="Care unit, as in the waveform headers"
    )
    patients: CaseMix = CaseMix()
    laboratory: Laboratory = Laboratory()
    monitor: Monitor = Monitor()
    files: FileStyle = FileStyle()

    @model_validator(mode="after")
    def _fits_its_layout(self) -> Self:
        for key, value in LAYOUT_MONITORS[self.files.layout].items():
            found = getattr(self.monitor, key)
            if key in FIXED_BY_LAYOUT and found != value:
                raise ValueError(
                    f"files.layout = {self.files.layout!r} stores monitor.{key} = {value:g}, not {found:g}; "
                    "change one of them"
                )
        return self


class CohortSizes(Section):
    """How much of a site is written."""

    patients: int = Field(60, ge=1, le=MOST_PATIENTS, description="Patients in all")
    personal_patients: int | None = Field(
        None, ge=0, description="Of them, dialysed for weeks; None for the profile's share"
    )
    positive_share: float | None = Field(
        None,
        ge=0.0,
        le=1.0,
        description="Share of the others with a hyperkalemic episode, as in a case-control study; "
        "None for the profile's own case mix",
    )
    personal_strips: int = Field(
        11, ge=1, le=100, description="Usable strips of each label after which a long dialysis stay may end"
    )
    most_draws: int | None = Field(
        None, ge=1, description="Most draws in a row with ECG per ordinary patient; None for all"
    )
    window_hours: float = Field(0.5, ge=0.02, le=24.0, description="ECG written before a draw, hours")
    minutes_after: float = Field(0.5, ge=0.0, le=60.0, description="ECG written after a draw, minutes")
    continuous: bool = Field(False, description="Write all monitored hours, not only those around draws")

    def personal_of(self, profile: SiteProfile) -> int:
        """Return how many patients of a site are dialysed for weeks."""
        if self.personal_patients is not None:
            return self.personal_patients
        return round(self.patients * profile.patients.long_dialysis_share)


def check_site(profile: SiteProfile, sizes: CohortSizes) -> None:
    """Refuse a site that cannot be what is asked for, before anything is written.

    Raises
    ------
    ConfigurationError
        With the value and what is allowed.
    """
    personal = sizes.personal_of(profile)
    if personal > sizes.patients:
        raise ConfigurationError(
            f"site {profile.name}: {personal} personal patients of {sizes.patients} patients; allowed: 0 to "
            f"{sizes.patients}"
        )
    for section, key, left in _NEEDED:
        value = getattr(getattr(profile, section), key)
        if personal and value >= 1.0:
            raise ConfigurationError(
                f"site {profile.name}: {section}.{key} = {value:g} leaves no {left}, which {personal} "
                "personal patients need; set it below 1, or ask for 0 personal patients"
            )
    mix = profile.patients
    if sizes.positive_share and mix.injury_share + mix.dialysis_share <= 0.0:
        raise ConfigurationError(
            f"site {profile.name}: positive_share = {sizes.positive_share:g}, but injury_share and "
            "dialysis_share are both 0, so that nobody can have a hyperkalemic episode; set one of them "
            "above 0"
        )


#: Shares that leave nothing to personalize on when they are 1.
_NEEDED = (
    ("monitor", "lead_ii_missing", "lead II"),
    ("monitor", "noisy_share", "readable ECG"),
)


def load_profile(name: str | Path) -> SiteProfile:
    """Return a built-in profile by name, or read one from a TOML file.

    Raises
    ------
    ConfigurationError
        If neither exists, or a key is unknown or outside its range.
    """
    path = Path(name)
    if path.suffix == ".toml":
        return validated(SiteProfile, read_toml(path), str(path))
    if str(name) not in PROFILES:
        hint = nearest(str(name), list(PROFILES))
        raise ConfigurationError(f"unknown profile {str(name)!r}{hint}, or the path of a .toml file")
    return PROFILES[str(name)]


def profile_text(name: str) -> str:
    """Return a built-in profile as TOML, to copy and edit."""
    load_profile(name)
    (path,) = _FOLDER.glob(f"[0-9]-{name}.toml")
    return path.read_text(encoding="utf-8")


_FOLDER = Path(__file__).parent / "profiles"


def _built_in() -> Mapping[str, SiteProfile]:
    """Read the profiles that come with the package, in the order in which sites take them."""
    found = [load_profile(path) for path in sorted(_FOLDER.glob("*.toml"))]
    return {profile.name: profile for profile in found}


PROFILES = _built_in()
