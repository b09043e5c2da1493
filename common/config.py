"""One tree of frozen settings, read once and passed down.

Defaults are the choices of the specification; a task's preset and the user's own values are laid over
them, in that order. An unknown key is an error that names the nearest known one.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from common.errors import ConfigurationError
from common.task import TASKS, Task

Model = TypeVar("Model", bound=BaseModel)
#: A daily window of time, such as 22:30-04:00.
WINDOW = re.compile(r"([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]")


class Section(BaseModel):
    """A frozen group of settings that refuses unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class SignalSettings(Section):
    """How a lead II signal is brought to one form (SCIENCE: FIR, zero phase, 125 Hz)."""

    rate_hz: float = Field(125.0, ge=125.0, le=125.0, description="Sampling rate of every beat, Hz")
    low_hz: float = Field(0.5, gt=0.0, le=1.0, description="Lower corner of the band-pass filter, Hz")
    high_hz: float = Field(40.0, ge=20.0, le=60.0, description="Upper corner of the band-pass filter, Hz")
    filter_s: float = Field(4.0, ge=2.0, le=8.0, description="Length of the FIR filter, seconds")
    max_bridge_s: float = Field(0.5, ge=0.0, le=2.0, description="Longest gap that is interpolated, seconds")


class StripSettings(Section):
    """What makes a strip."""

    window_s: float = Field(600.0, ge=10.0, le=3600.0, description="Window before the specimen time, s")
    min_signal_s: float = Field(300.0, ge=0.0, description="Lead II needed inside the window, s")
    min_beats: int = Field(100, ge=1, description="Accepted beats needed")


class QualitySettings(Section):
    """Automatic quality and rhythm rules in place of the paper's manual inspection."""

    reject: bool = Field(True, description="Reject strips and beats by quality and rhythm")
    min_agreement: float = Field(0.9, ge=0, le=1, description="Least agreement of two R-peak detectors")
    agreement_s: float = Field(60.0, ge=10.0, description="Length of the excerpt both detectors see, s")
    min_beat_correlation: float = Field(0.9, ge=-1, le=1, description="Least correlation with median beat")
    min_accepted_share: float = Field(0.5, ge=0, le=1, description="Least share of beats accepted")
    max_sample_entropy: float = Field(-1.0, description="Atrial fibrillation above this CosEn")
    min_rate_bpm: float = Field(30.0, ge=0, description="Lowest median heart rate")
    max_rate_bpm: float = Field(180.0, le=400, description="Highest median heart rate")
    max_flat_s: float = Field(2.0, gt=0, description="Longest constant run counted as signal, s")
    max_clipped_share: float = Field(0.01, ge=0, le=1, description="Largest share of clipped samples")
    min_amplitude_mv: float = Field(
        0.1, ge=0, description="Smallest QRS peak-to-peak amplitude of a beat and of a strip's median, mV"
    )
    max_amplitude_mv: float = Field(
        5.0, gt=0, description="Largest QRS peak-to-peak amplitude of a beat and of a strip's median, mV"
    )
    max_step_mv: float = Field(0.5, gt=0, description="Largest jump of the base line inside a beat, mV")


class LabelSettings(Section):
    """From a potassium value to a label (Chiu 2022, Patient Population)."""

    positive_above: float = Field(5.5, description="Positive: strictly above, mEq/L")
    negative_from: float = Field(3.5, description="Negative: from, mEq/L")
    negative_to: float = Field(5.0, description="Negative: up to and including, mEq/L")
    plausible_from: float = Field(1.5, description="Lower values are quarantined, mEq/L")
    plausible_to: float = Field(12.0, description="Higher values are quarantined, mEq/L")
    merge_s: float = Field(1800.0, ge=0, description="Draws closer than this are one measurement, s")
    whole_blood: bool = Field(True, description="Take whole-blood (blood gas) potassium too")
    suspected_hemolysis: Literal["keep", "exclude"] = Field(
        "keep", description="Draws a rule suspects of hemolysis; those the laboratory reports are excluded"
    )

    @model_validator(mode="after")
    def _ascending(self) -> Self:
        limits = (self.plausible_from, self.negative_from, self.negative_to, self.positive_above)
        if list(limits) != sorted(limits) or self.plausible_to <= self.positive_above:
            raise ValueError(
                "limits must ascend: plausible_from, negative_from, negative_to, positive_above, plausible_to"
            )
        return self


class CohortSettings(Section):
    """Who is in the cohort, and in which split."""

    min_positive: int = Field(8, ge=1, description="Positive strips a personal patient needs")
    min_negative: int = Field(8, ge=1, description="Negative strips a personal patient needs")
    split: tuple[float, float, float] = Field((6.0, 2.0, 2.0), description="train : validation : test")
    classes: Literal["both", "disjoint"] = Field(
        "both", description="Train and validation: both: all strips of a patient; disjoint: one label of each"
    )
    balance: Literal["none", "strips"] = Field(
        "none", description="strips: as many positive as negative strips in train, and in validation"
    )

    @model_validator(mode="after")
    def _some_share(self) -> Self:
        if min(self.split) < 0 or self.split[0] <= 0:
            raise ValueError("split needs a share above 0 for train and none below 0")
        return self


class ModelSettings(Section):
    """The pre-activation 1D ResNet."""

    depth: Literal[18, 34, 50] = Field(18, description="Number of layers; 50 uses bottleneck blocks")
    width: int = Field(16, ge=4, le=128, description="Channels of the first stage; the paper's is 64")
    stem: Literal["small", "paper"] = Field("small", description="paper: 7-tap stride 2 and pooling")


class TrainingSettings(Section):
    """Local training of the generic model."""

    beats_per_strip: int = Field(60, ge=0, description="Beats drawn from a strip per epoch; 0 for all")
    learning_rate: float = Field(3e-4, gt=0, le=1.0, description="Adam learning rate at round 1")
    weight_decay: float = Field(0.0, ge=0, le=1.0, description="Decoupled weight decay")
    batch_size: int = Field(128, ge=2, le=4096, description="Beats per optimizer step")
    local_epochs: int = Field(1, ge=1, le=50, description="Epochs at a site per federated round")
    balance: Literal["strips", "natural"] = Field(
        "strips", description="strips: both labels weigh the same; natural: as they occur"
    )


class FederationSettings(Section):
    """The round loop at the server."""

    rounds: int = Field(20, ge=1, le=1000, description="Federated rounds")
    min_sites: int = Field(2, ge=1, description="Sites that must answer")
    fraction: float = Field(1.0, gt=0, le=1, description="Share of the sites that train in a round")
    schedule: Literal["auto", "plateau", "cosine"] = Field(
        "auto", description="auto: plateau with enough validation patients, cosine decay otherwise"
    )
    min_validation_patients: int = Field(10, ge=1, description="Fewer: last weights of a decaying schedule")
    plateau_rounds: int = Field(3, ge=1, description="Rounds without improvement before the rate is halved")
    plateau_factor: float = Field(0.5, gt=0, lt=1, description="Factor on the learning rate")
    stop_rounds: int = Field(0, ge=0, description="Stop after so many rounds without improvement; 0 never")
    join_timeout_s: float = Field(120.0, gt=0, description="Wait for sites to connect, s")
    round_timeout_s: float = Field(3600.0, gt=0, description="Wait for a round's replies, s")
    personalize_timeout_s: float = Field(36000.0, gt=0, description="Wait for personalization, s")


class PersonalizationSettings(Section):
    """Fitting the generic model to one patient."""

    protocols: tuple[Literal["prospective", "paper"], ...] = Field(
        ("prospective", "paper"), min_length=1, description="Which are run; prospective always"
    )
    depth: Literal["quick", "full"] = Field(
        "full", description="quick: without the slowest baselines and controls; the report names them"
    )
    rounds: int = Field(5, ge=1, le=20, description="Personalization rounds at most")
    test_share: float = Field(0.25, gt=0, lt=1, description="Share of a label's strips kept for the test")
    min_test: int = Field(2, ge=1, description="Least test strips of each label")
    gap_s: float = Field(6 * 3600.0, ge=0, description="Time between the last training and first test strip")
    freeze_through: Literal["none", "stem", "stage1", "stage2", "stage3", "stage4"] = Field(
        "stage2", description="Last frozen stage"
    )
    beats_per_strip: int = Field(0, ge=0, description="Beats used of a strip, evenly spread; 0 for all")
    epochs: int = Field(5, ge=1, le=100, description="Epochs per personalization round")
    learning_rate: float = Field(1e-3, gt=0, le=1, description="Adam learning rate")
    batch_size: int = Field(64, ge=2, le=4096, description="Beats per optimizer step")
    start: Literal["restart", "continue"] = Field(
        "restart", description="A round begins from the generic model, or goes on from the round before"
    )
    statistics: Literal["frozen", "trained"] = Field(
        "frozen", description="Batch-norm statistics of the trained stages"
    )
    paper_start: Literal["restart", "continue"] = Field("continue", description="start, protocol paper")
    paper_statistics: Literal["frozen", "trained"] = Field(
        "trained", description="statistics, protocol paper"
    )
    paper_learning_rate: float = Field(5e-5, gt=0, le=1, description="The published learning rate")
    paper_batch_size: int = Field(1024, ge=2, le=4096, description="The published batch")
    head: Literal["new", "kept"] = Field("new", description="new: fresh random head, as in the paper")
    balance: Literal["labels", "natural"] = Field("labels", description="Weight of the two labels")
    penalty: float = Field(0.1, gt=0, description="Closed-form head: pull toward the generic head")
    feature_penalty: float = Field(0.1, gt=0, description="Baselines on features: pull toward no slope")
    guard_margin: float = Field(0.05, ge=0, description="Summed log loss a complex model must win by")
    guard_pairs: int = Field(2, ge=1, description="Scored pairs before anything but generic is selected")

    @field_validator("protocols")
    @classmethod
    def _with_the_primary_one(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if "prospective" not in value or len(set(value)) < len(value):
            raise ValueError("name each protocol once; prospective answers the question and is always run")
        return value


class PolicySettings(Section):
    """What a site allows, whatever the server asks."""

    min_training_patients: int = Field(20, ge=1, description="Below, the site only evaluates")
    min_validation_patients: int = Field(5, ge=1, description="Below, no validation numbers leave")
    min_cell: int = Field(5, ge=1, description="Distinct patients below which a number is suppressed")
    max_local_epochs: int = Field(10, ge=1, description="Most local epochs a server may ask for")
    max_rounds: int = Field(1000, ge=1, description="Most answers with weights for one frozen cohort")
    min_batch_size: int = Field(16, ge=2, description="Smaller batches a server asks for are raised to this")
    max_update_norm: float = Field(
        10.0, gt=0, description="Largest L2 norm of a trained update; a larger one is scaled down to it"
    )
    personalize: bool = Field(True, description="Personalization may be asked for by the server")
    maintenance: str = Field(
        "", description="Daily window, local time, in which the site only says hello: 02:00-04:30"
    )

    @field_validator("maintenance")
    @classmethod
    def _is_window(cls, value: str) -> str:
        if value and not WINDOW.fullmatch(value):
            raise ValueError(f"{value!r} is no window; write it like 02:00-04:30, or leave it empty for none")
        return value


class Settings(Section):
    """Everything that decides a result. Equal settings, data and seed give equal bytes."""

    task: Literal["hyperkalemia", "ventricular"] = "hyperkalemia"
    preset: str = "standard"
    seed: int = Field(0, ge=0, le=2**62, description="Seed of every random stream")
    threads: int = Field(1, ge=1, le=256, description="Threads of one site's computation")
    signal: SignalSettings = SignalSettings()
    strip: StripSettings = StripSettings()
    quality: QualitySettings = QualitySettings()
    label: LabelSettings = LabelSettings()
    cohort: CohortSettings = CohortSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    federation: FederationSettings = FederationSettings()
    personalization: PersonalizationSettings = PersonalizationSettings()
    policy: PolicySettings = PolicySettings()

    @model_validator(mode="after")
    def _no_shared_signal(self) -> Self:
        if self.task == "hyperkalemia" and self.label.merge_s < self.strip.window_s:
            raise ValueError(
                "label.merge_s must not be below strip.window_s, or two strips would share the same ECG"
            )
        return self

    @property
    def words(self) -> Task:
        """The task's words."""
        return TASKS[self.task]

    def digest(self) -> str:
        """SHA-256 of the canonical JSON form."""
        return _digest(self.model_dump(mode="json"))

    def preprocessing_digest(self) -> str:
        """SHA-256 of what must agree between sites for their numbers to mean the same."""
        names = {"task", "signal", "strip", "quality", "label", "cohort", "personalization"}
        return _digest(self.model_dump(mode="json", include=names))


def _digest(values: object) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def make_settings(
    task: str = "hyperkalemia",
    preset: str = "standard",
    overrides: Mapping[str, Any] | None = None,
    where: str = "settings",
) -> Settings:
    """Lay a preset and the user's own values over the defaults.

    Parameters
    ----------
    task, preset : names; see ``common.task``.
    overrides : nested mapping, such as ``{"training": {"local_epochs": 2}, "seed": 3}``.
    where : where they come from, for error texts.

    Raises
    ------
    ConfigurationError
        For an unknown task, preset or key (with the nearest known one), or a value out of range.
    """
    if task not in TASKS:
        raise ConfigurationError(f"{where}: unknown task {task!r}{nearest(task, list(TASKS))}")
    presets = TASKS[task].presets
    if preset not in presets:
        raise ConfigurationError(
            f"{where}: task {task} has no preset {preset!r}{nearest(preset, list(presets))}"
        )
    values = merge({"task": task, "preset": preset}, presets[preset])
    return validated(Settings, merge(values, overrides or {}), where)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Lay one nested mapping over another; neither is changed."""
    out = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(out.get(name), Mapping)
        out[name] = merge(out[name], value) if both else value
    return out


def validated(model: type[Model], values: Mapping[str, Any], where: str) -> Model:
    """Build a settings model, turning the first validation failure into one clear sentence."""
    try:
        return model.model_validate(dict(values))
    except ValidationError as error:
        raise ConfigurationError(_sentence(model, error, where)) from None


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    ConfigurationError
        If the file is missing or not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigurationError(f"{path} does not exist") from None
    except OSError as error:
        raise ConfigurationError(
            f"{path} cannot be read: {error.strerror}; give this user the right to read it"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"{path} is not valid TOML: {error}") from None


def parse_overrides(items: Sequence[str]) -> dict[str, Any]:
    """Turn ``section.key=value`` texts from a command line into a nested mapping.

    Values are read as TOML (``3``, ``0.1``, ``true``, ``"text"``); anything else is taken as text.
    """
    out: dict[str, Any] = {}
    for item in items:
        name, equals, text = (part.strip() for part in item.partition("="))
        if not equals or not name:
            raise ConfigurationError(f"--set takes section.key=value, got {item!r}")
        try:
            value = tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            value = text
        for part in reversed(name.split(".")):
            value = {part: value}
        out = merge(out, value)
    return out


def nearest(word: str, known: Sequence[str]) -> str:
    """Return a hint that ends an error sentence: the nearest known word, and all of them."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    return f"{hint} allowed: {', '.join(sorted(known))}"


def _sentence(model: type[BaseModel], error: ValidationError, where: str) -> str:
    first = error.errors()[0]
    path = [str(part) for part in first["loc"]]
    name = ".".join(path)
    if first["type"] == "value_error":  # raised by a rule above; its input is a whole section
        return f"{where}{', ' + name if name else ''}: {first['msg'].removeprefix('Value error, ')}"
    if first["type"] != "extra_forbidden":
        allowed = _allowed(model, path) if first["type"] in _OUT_OF_RANGE else ""
        said = first["msg"][:1].lower() + first["msg"][1:]
        return f"{where}: {name} = {first.get('input')!r}: {said}{allowed}"
    section = _section_of(model, path)
    return f"{where}: unknown key {name!r}{nearest(path[-1], list(section.model_fields))}"


_OUT_OF_RANGE = {"greater_than", "greater_than_equal", "less_than", "less_than_equal", "finite_number"}


def _section_of(model: type[BaseModel], path: Sequence[str]) -> Any:
    section: Any = model
    for part in path[:-1]:
        section = section.model_fields[part].annotation
    return section


def _allowed(model: type[BaseModel], path: Sequence[str]) -> str:
    """Return the range of a number as the end of a sentence: ``; allowed: 0 to 1``."""
    field = _section_of(model, path).model_fields[path[-1]]
    limits = {
        word: f"{value:g}" if isinstance(value, float) else f"{value}"
        for rule in field.metadata
        for word in ("ge", "gt", "le", "lt")
        if (value := getattr(rule, word, None)) is not None
    }
    if limits.keys() == {"ge", "le"}:
        return f"; allowed: {limits['ge']} to {limits['le']}"
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    parts = [f"{words[word]} {limit}" for word, limit in limits.items()]
    return f"; allowed: {' and '.join(parts)}" if parts else ""
