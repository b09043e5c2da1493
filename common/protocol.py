"""Every message and every key that may cross the wire.

A message is a Flower ``RecordDict``. For each message type, in each direction, this module lists the
records and keys that are allowed, with their types and bounds. What is not listed cannot be sent and is
refused on arrival; both sides call ``check``. No beat, patient row, identifier or free text has a key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

from common.config import ModelSettings, TrainingSettings, validated
from common.errors import ProtocolError
from common.procedures import BEAT_AUC, CONTROLS, HEADLINES, LEARNING, PAPER_METHODS, SIMPLER

if TYPE_CHECKING:  # saying hello must not cost the import of torch
    from common.weights import Weights

VERSION = 4

HELLO, ROUND, EVALUATE, PERSONALIZE = "query.hello", "train.round", "evaluate.round", "query.personalize"
Direction = Literal["request", "reply"]
Scalar = int | float | str | bool
Metrics = Mapping[str, int | float | list[int] | list[float]]

MAX_WEIGHTS = 100_000_000
MAX_METRIC_KEYS = 5_000
MAX_LIST = 4_096

SITE_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
RUN_NAME = re.compile(r"[a-z][a-z0-9-]{0,31}")
SHA256 = re.compile(r"[0-9a-f]{64}")
#: A version as Python packages write it; no room for words, nor for a date with its year.
SOFTWARE = re.compile(
    r"[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}((a|b|rc)[0-9]{1,3})?(\.post[0-9]{1,3})?(\.dev[0-9]{1,5})?(\+bundle)?"
)

# Codes a site may answer instead of a result, and the sentence the server shows for each. The text of
# the error itself stays in the site's log.
FAILURES: Mapping[str, str] = {
    "bad_configuration": "the site refused a setting; its log names the key",
    "bad_source": "the site cannot read its data",
    "bad_signal": "the site met a signal it cannot process",
    "bad_database": "the site's database is missing, unreachable or of another version",
    "bad_cohort": "the site has no frozen cohort of this run's name with both labels; it makes one with "
    "'fedkalemia-site cohort SITE --name RUN'",
    "bad_model": "the weights do not fit the site's model",
    "bad_message": "the site refused the message: a key, type or size is not in the protocol",
    "refused_by_policy": "the site's policy does not allow this",
    "bundle_refused": "the site runs only code it has approved, and this run's bundle is not on its list",
    "task_refused": "the site takes only this federation's messages, and this was another",
    "maintenance": "the site is in its maintenance window; ask again later",
    "bad_identity": "a key or certificate of the site is missing, unreadable or expired",
    "ledger_failed": "the site cannot write its ledger, and sends nothing without it",
    "storage_failed": "the site's disk is full or not writable",
    "other_preprocessing": "the site prepares its beats with other settings than this run",
    "interrupted": "the site was stopped by its operator",
    "site_error": "the site failed; its log has the full text",
    "federation_failed": "the site failed; its log has the full text",
}
# Codes the server itself finds; no site can send them.
SERVER_FAILURES: Mapping[str, str] = {
    "unreachable": "the message could not be handed to the site, or the site's process ended",
    "no_answer": "the site did not answer in time",
    "bad_reply": "the site's answer is not in the protocol",
    "bad_weights": "the site's weights have another size than the model, or values that are not finite",
    "other_version": "the site runs another version of this software",
    "name_taken": "another connected site already has this name",
    "name_refused": "the site calls itself by a name that was not registered with its key",
}


@dataclass(frozen=True)
class Kind:
    """Type and bounds of one value. ``pattern`` bounds text, ``low`` and ``high`` bound numbers."""

    type: type
    low: float = -math.inf
    high: float = math.inf
    pattern: re.Pattern[str] | None = None
    length: int = 0  # longest list; 0 means a scalar

    def refuses(self, value: object) -> str | None:
        """Say why a value does not fit, or None."""
        if self.length:
            if not isinstance(value, list) or len(value) > self.length:
                return f"must be a list of at most {self.length}"
            scalar = Kind(self.type, self.low, self.high)
            return next((why for item in value if (why := scalar.refuses(item))), None)
        if type(value) is not self.type and not (self.type is float and type(value) is int):
            return f"must be {self.type.__name__}, is {type(value).__name__}"
        if isinstance(value, str):
            fits = self.pattern is not None and self.pattern.fullmatch(value)
            return None if fits else "is not one of the allowed texts"
        if isinstance(value, int | float) and not isinstance(value, bool):
            if isinstance(value, float) and math.isnan(value):
                return "is not a number"
            if not self.low <= value <= self.high:
                return f"must lie in [{self.low:g}, {self.high:g}]"
        return None


def _count(high: float = 1e9) -> Kind:
    return Kind(int, 0, high)


_FLAG = Kind(bool)
_FINITE = Kind(float, -1e18, 1e18)
_SHA = Kind(str, pattern=SHA256)

_MODEL: dict[str, Kind] = {
    "model-depth": Kind(int, 18, 50),
    "model-width": Kind(int, 4, 128),
    "model-stem": Kind(str, pattern=re.compile("small|paper")),
    "schema": _SHA,
}
_RUN: dict[str, Kind] = {
    "name": Kind(str, pattern=RUN_NAME),
    "seed": Kind(int, 0, 2**62),
    "preprocessing": _SHA,
}
_ROUND: dict[str, Kind] = (
    _MODEL
    | _RUN
    | {
        "round": _count(1001),
        "learning-rate": Kind(float, 0, 1),
        "local-epochs": Kind(int, 1, 50),
        "batch-size": Kind(int, 2, 4096),
        "beats-per-strip": _count(100_000),
        "weight-decay": Kind(float, 0, 1),
        "balance": Kind(str, pattern=re.compile("strips|natural")),
        "train": _FLAG,
    }
)

_METHODS = "generic|threshold|closed_form|fine_tuned|selected"
_FIGURES = (
    "beat-auc|beat-f1|beat-sensitivity|beat-specificity|beat-positive-predictivity|beat-accuracy|"
    "strip-accuracy|strip-sensitivity|strip-specificity|strip-auc"
)
_MOMENTS = "n|total|total-sq"
# What is run beside the primary result is told by fewer figures: that of the task, and the beat AUC.
_SIMPLER, _CONTROLS = "|".join(SIMPLER), "|".join(CONTROLS)
_HEADLINE = "|".join(HEADLINES.values())
_JUDGED = f"{_HEADLINE}|{BEAT_AUC}"
# Every group, outcome and reason by name: a key must not be able to spell anything else.
_GROUPS = "train|validation|test|personal"
_OUTCOMES = "personal|not_interleaved|too_few_strips|one_label|trained_generic"
#: Why a draw has no label, and why a strip was not accepted, in the order of the journey.
DRAW_REASONS = (
    "implausible_value", "no_numeric_value", "wrong_unit", "hemolyzed", "hemolysis_suspected", "not_in_stay",
    "whole_blood_twin", "conflicting_draws", "merged_into", "low_potassium",
)  # fmt: skip
STRIP_REASONS = (
    "no_waveform", "no_clinical_overlap", "unreadable_segment", "lead_ii_absent", "too_little_signal",
    "flat_line", "clipped", "too_few_beats", "amplitude_out_of_range", "heart_rate_out_of_range",
    "detectors_disagree", "beats_unlike", "atrial_fibrillation",
)  # fmt: skip
_REASONS = "|".join((*DRAW_REASONS, *STRIP_REASONS))
# Steps of inclusion, and who the patients are (Table 1): counts and moments, so that sites add up.
_STEPS = "files|draws|labelled|accepted"
_LABELS = "positive|negative|gap"
_BEATS = "accepted|edge|step|amplitude|unlike"
_SEXES = "female|male|unknown"
_ORIGINS = "white|african-american|hispanic|asian|american-indian|other|unknown"
_PERSON = f"age|height|weight|heart-rate|potassium-({_LABELS})"
# The answers to train.round and evaluate.round: sums over beats and over patients.
_ROUND_REPLY: dict[str, Kind] = {
    r"train-(patients|strips|beats)": _count(),
    r"train-loss-total": Kind(float, 0, 1e18),
    r"update-norm": Kind(float, 0, 1e12),
    r"validation-(patients|beats)": _count(),
    r"validation-loss-total": Kind(float, 0, 1e18),
    r"seconds": Kind(float, 0, 1e9),
}
# The answer to query.personalize: counts and sums only, suppressed below the site's smallest cell.
_PERSONALIZE_REPLY: dict[str, Kind] = {
    rf"cohort\.({_GROUPS})\.(patients|strips|positive|negative|gap)": _count(),
    rf"flow\.(labelled|accepted|{_REASONS})": _count(),
    rf"flow\.patients\.({_STEPS})": _count(),
    rf"flow\.by-label\.(labelled|accepted)\.({_LABELS})": _count(),
    r"flow\.suspected-kept": _count(),
    rf"flow\.beats\.({_BEATS})": _count(1e12),
    r"table-one\.(generic|personal)\.patients": _count(),
    rf"table-one\.(generic|personal)\.label\.({_LABELS})": _count(),
    rf"table-one\.(generic|personal)\.sex\.({_SEXES})": _count(),
    rf"table-one\.(generic|personal)\.ethnicity\.({_ORIGINS})": _count(),
    rf"table-one\.(generic|personal)\.({_PERSON})\.({_MOMENTS})": _FINITE,
    rf"table-one\.(generic|personal)\.({_PERSON})\.missing": _count(),
    rf"outcome\.({_OUTCOMES})": _count(),
    r"generic\.(beat|strip)\.(tp|fp|tn|fn)": _count(1e12),
    r"generic\.histogram\.(positive|negative)": Kind(int, 0, 1e12, length=MAX_LIST),
    r"generic\.patients": _count(),
    rf"generic\.patient\.({_FIGURES})\.({_MOMENTS})": _FINITE,
    rf"personal\.({_METHODS})\.[0-9]{{1,2}}\.({_FIGURES})\.({_MOMENTS})": _FINITE,
    rf"last\.({_METHODS})\.({_FIGURES})\.({_MOMENTS})": _FINITE,
    rf"difference\.({_METHODS})-({_METHODS})\.({_FIGURES})\.({_MOMENTS})": _FINITE,
    rf"last\.({_SIMPLER})\.({_JUDGED})\.({_MOMENTS})": _FINITE,
    rf"difference\.selected-({_SIMPLER})\.({_HEADLINE})\.({_MOMENTS})": _FINITE,
    rf"paper\.({'|'.join(PAPER_METHODS)})\.({_JUDGED})\.({_MOMENTS})": _FINITE,
    rf"control\.({_CONTROLS})\.gain\.({_HEADLINE})\.({_MOMENTS})": _FINITE,
    rf"control\.({_CONTROLS})\.({'|'.join(LEARNING)})\.{BEAT_AUC}\.({_MOMENTS})": _FINITE,
    rf"selected\.({_METHODS})": _count(),
    r"worse-than-generic": _count(),
    r"guard\.(decisions|hits)": _count(),
    r"suppressed": _count(),
    r"seconds": Kind(float, 0, 1e9),
}

# message type -> direction -> record -> key pattern -> kind
ALLOWED: Mapping[str, Mapping[Direction, Mapping[str, Mapping[str, Kind]]]] = {
    HELLO: {
        "request": {
            "config": {"protocol": _count(1000), "software": Kind(str, pattern=SOFTWARE)},
        },
        "reply": {
            "config": {
                "site": Kind(str, pattern=SITE_NAME),
                "protocol": _count(1000),
                "software": Kind(str, pattern=SOFTWARE),
                "task": Kind(str, pattern=re.compile("hyperkalemia|ventricular")),
                "preprocessing": _SHA,
            },
        },
    },
    ROUND: {
        "request": {"config": _ROUND, "weights": {}},
        "reply": {"weights": {}, "metrics": _ROUND_REPLY},
    },
    EVALUATE: {
        "request": {"config": _ROUND, "weights": {}},
        "reply": {"metrics": _ROUND_REPLY},
    },
    PERSONALIZE: {
        "request": {"config": _MODEL | _RUN, "weights": {}},
        "reply": {"metrics": _PERSONALIZE_REPLY},
    },
}
FAILURE = {"failure": {"code": Kind(str, pattern=re.compile("|".join(FAILURES)))}}
# What the gate of a site adds to every reply: how many entries its ledger has, and the last one's digest.
LEDGER = {"entries": _count(1e15), "head": _SHA}
WEIGHT_KEYS = ("trainable", "statistics")
RECORDS = ("config", "failure", "ledger", "metrics", "weights")


def check(content: RecordDict, message_type: str, direction: Direction) -> None:
    """Check that a message holds nothing but what the protocol lists.

    Parameters
    ----------
    content : whatever arrived, or is about to leave.
    message_type, direction : what it claims to be.

    Raises
    ------
    ProtocolError
        Naming listed records and keys only. A value, or a key of somebody else's, is never quoted: either
        may be an identifier, and the sentence ends in a log.
    """
    if message_type not in ALLOWED:
        raise ProtocolError("this message type is not in the protocol")
    where = f"{message_type} {direction}"
    failed = direction == "reply" and set(content) <= {"failure", "ledger"} and "failure" in content
    records = FAILURE if failed else ALLOWED[message_type][direction]
    if direction == "reply":
        records = {**records, "ledger": LEDGER}
    for name, record in content.items():
        if name not in records:
            what = f"a record {name!r}" if name in RECORDS else "a record of another name"
            raise ProtocolError(f"{where}: {what} is not allowed; allowed are {', '.join(sorted(records))}")
        if name == "weights":
            _check_weights(record, where)
        else:
            _check_values(record, records[name], f"{where}, record {name!r}", name)
    # A site that only evaluated has no weights to answer; without a gate there is no ledger.
    optional = {"weights", "ledger"} if direction == "reply" else set()
    if missing := set(records) - set(content) - optional:
        raise ProtocolError(f"{where}: records {sorted(missing)} are missing")


def _check_values(record: object, allowed: Mapping[str, Kind], where: str, name: str) -> None:
    expected = MetricRecord if name == "metrics" else ConfigRecord
    if not isinstance(record, expected):
        raise ProtocolError(f"{where} must be a {expected.__name__}")
    if len(record) > MAX_METRIC_KEYS:
        raise ProtocolError(f"{where} holds {len(record)} keys; at most {MAX_METRIC_KEYS} are allowed")
    for number, (key, value) in enumerate(record.items(), start=1):
        kind = next((kind for pattern, kind in allowed.items() if re.fullmatch(pattern, key)), None)
        if kind is None:
            raise ProtocolError(f"{where}: its key number {number} is not in the protocol")
        if why := kind.refuses(value):
            raise ProtocolError(f"{where}: {key} {why}")
    if name != "metrics" and (missing := set(allowed) - set(record)):
        raise ProtocolError(f"{where}: keys {sorted(missing)} are missing")


def _check_weights(record: object, where: str) -> None:
    if not isinstance(record, ArrayRecord) or len(record) != 2 or set(record) != set(WEIGHT_KEYS):
        raise ProtocolError(f"{where}: weights must be the two arrays {WEIGHT_KEYS}")
    for key, array in record.items():
        size = array.shape[0] if len(array.shape) == 1 else None
        if array.dtype != "float32" or type(size) is not int or not 0 <= size <= MAX_WEIGHTS:
            raise ProtocolError(f"{where}: weights {key!r} must be one float32 vector")
        # What is declared must also be what is there: numpy would allocate whatever the inner header says.
        if array.stype != "numpy.ndarray" or (numbers := vector_bytes(array.data)) is None:
            raise ProtocolError(f"{where}: the bytes of weights {key!r} are not a vector")
        if len(numbers) != 4 * size:
            raise ProtocolError(f"{where}: the bytes of weights {key!r} are not the vector they declare")


# A vector in NumPy's file format, version 1.0, as NumPy writes it. The header is Python text; it is matched
# and never parsed, because what NumPy's own parser raises on a forged one is anybody's guess.
_NPY = re.compile(
    rb"\x93NUMPY\x01\x00..\{'descr': '<f4', 'fortran_order': False, 'shape': \(([0-9]{1,10}),\), \} *\n",
    re.DOTALL,
)
_NPY_HEADER_MAX = 512


def vector_bytes(data: bytes) -> memoryview | None:
    """Return the numbers of a float32 vector in NumPy's file format, little-endian, without its header.

    None if the bytes are anything but one whole vector. Nothing is copied.
    """
    header = _NPY.match(data[:_NPY_HEADER_MAX])
    if header is None or int.from_bytes(data[8:10], "little") != header.end() - 10:
        return None
    numbers = memoryview(data)[header.end() :]
    return numbers if len(numbers) == 4 * int(header[1]) else None


def weights_record(weights: Weights) -> ArrayRecord:
    """Wrap the two flat vectors in a Flower record."""
    return ArrayRecord({key: Array(np.ascontiguousarray(getattr(weights, key))) for key in WEIGHT_KEYS})


def read_weights(content: RecordDict) -> Weights:
    """Unwrap the two flat vectors; size and finite values are checked where the schema is known."""
    from common.weights import Weights

    record = content.array_records["weights"]
    return Weights(*(np.asarray(record[key].numpy(), dtype=np.float32) for key in WEIGHT_KEYS))


@dataclass(frozen=True)
class RunPlan:
    """Which run a message belongs to and which model it carries.

    ``name`` selects the site's frozen cohort of that name; ``preprocessing`` is the digest of the
    settings that turn files into beats and results, which must be the site's own.
    """

    name: str
    seed: int
    schema: str
    preprocessing: str
    model: ModelSettings

    def to_config(self) -> dict[str, Scalar]:
        """Return the flat form that travels."""
        return {
            "name": self.name,
            "seed": self.seed,
            "schema": self.schema,
            "preprocessing": self.preprocessing,
            "model-depth": self.model.depth,
            "model-width": self.model.width,
            "model-stem": self.model.stem,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the flat form; bounds were checked by ``check``."""
        return cls(**_plan_fields(config))


@dataclass(frozen=True)
class RoundPlan(RunPlan):
    """What the server asks of a site in one federated round. Round 0 is before any training."""

    round: int
    train: bool
    training: TrainingSettings = field(default_factory=TrainingSettings)

    def to_config(self) -> dict[str, Scalar]:
        """Return the flat form that travels."""
        training = self.training
        return super().to_config() | {
            "round": self.round,
            "train": self.train,
            "learning-rate": training.learning_rate,
            "local-epochs": training.local_epochs,
            "batch-size": training.batch_size,
            "beats-per-strip": training.beats_per_strip,
            "weight-decay": training.weight_decay,
            "balance": training.balance,
        }

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Read the flat form; bounds were checked by ``check``."""
        names = ("learning-rate", "local-epochs", "batch-size", "beats-per-strip", "weight-decay", "balance")
        values = {name.replace("-", "_"): config[name] for name in names}
        training = validated(TrainingSettings, values, "training settings in the message")
        return cls(**_plan_fields(config), round=config["round"], train=config["train"], training=training)


def _plan_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    model = validated(
        ModelSettings,
        {"depth": config["model-depth"], "width": config["model-width"], "stem": config["model-stem"]},
        "model settings in the message",
    )
    names = ("name", "seed", "schema", "preprocessing")
    return {name: config[name] for name in names} | {"model": model}


@dataclass(frozen=True)
class RoundReply:
    """A site's answer to a federated round: new weights (None if it did not train) and sums."""

    weights: Weights | None
    metrics: Metrics


def request(plan: RunPlan, weights: Weights) -> RecordDict:
    """Build the content of a round, evaluate or personalize request."""
    return RecordDict({"config": ConfigRecord({**plan.to_config()}), "weights": weights_record(weights)})


def reply(metrics: Metrics, weights: Weights | None = None) -> RecordDict:
    """Build the content of an answer. Figures that are not numbers are left out, not sent."""
    sent = {k: v for k, v in metrics.items() if not (isinstance(v, float) and math.isnan(v))}
    records: dict[str, Any] = {"metrics": MetricRecord(sent)}
    if weights is not None:
        records["weights"] = weights_record(weights)
    return RecordDict(records)


def sums(content: RecordDict) -> dict[str, float]:
    """Return the single numbers of an answer; lists, where a message allows any, are left aside."""
    return {k: v for k, v in content.metric_records["metrics"].items() if isinstance(v, int | float)}


def failure(code: str) -> RecordDict:
    """Build the content of a failed answer: a code, nothing else."""
    return RecordDict({"failure": ConfigRecord({"code": code if code in FAILURES else "site_error"})})


def sentence(code: str) -> str:
    """Return the fixed sentence that a failure code stands for."""
    return SERVER_FAILURES.get(code) or FAILURES.get(code, FAILURES["site_error"])


def ledger_head(content: RecordDict) -> tuple[int, str] | None:
    """Return the number of entries and the head of the site's ledger that a reply carries, or None."""
    if "ledger" not in content:
        return None
    record = content.config_records["ledger"]
    return int(str(record["entries"])), str(record["head"])


@cache
def software() -> str:
    """Return the version of this software, which all sites of a run must share."""
    try:
        return version("fedkalemia")
    except PackageNotFoundError:  # run from a bundle, without the package installed
        return "0.0.0+bundle"


def failure_code(content: RecordDict) -> str | None:
    """Return the code of a failed answer, or None."""
    return str(content["failure"]["code"]) if "failure" in content else None
