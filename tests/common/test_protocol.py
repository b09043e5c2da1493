"""What may cross the wire, and that nothing else can."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client.data.exclusion import Exclusion
from client.database.queries import GROUPS
from client.learning.planning import Outcome
from common import protocol
from common.config import ModelSettings, TrainingSettings
from common.errors import FedkalemiaError, ProtocolError
from common.protocol import RoundPlan, RunPlan
from common.task import Label
from common.weights import Weights

SHA = "ab" * 32
WEIGHTS = Weights(np.arange(6, dtype=np.float32), np.ones(2, np.float32))
RUN = RunPlan(name="main", seed=7, schema=SHA, preprocessing=SHA, model=ModelSettings())
ROUND = RoundPlan(**vars(RUN), round=3, train=True, training=TrainingSettings(learning_rate=0.02))


def valid() -> dict[tuple[str, protocol.Direction], RecordDict]:
    """One valid message of every type and direction."""
    hello = {"protocol": protocol.VERSION, "software": protocol.software()}
    site = {"site": "north", "task": "hyperkalemia", "preprocessing": SHA}
    return {
        (protocol.HELLO, "request"): RecordDict({"config": ConfigRecord({**hello})}),
        (protocol.HELLO, "reply"): RecordDict({"config": ConfigRecord({**hello, **site})}),
        (protocol.ROUND, "request"): protocol.request(ROUND, WEIGHTS),
        (protocol.ROUND, "reply"): protocol.reply({"train-beats": 5, "train-loss-total": 0.5}, WEIGHTS),
        (protocol.EVALUATE, "request"): protocol.request(ROUND, WEIGHTS),
        (protocol.EVALUATE, "reply"): protocol.reply({"validation-patients": 5}),
        (protocol.PERSONALIZE, "request"): protocol.request(RUN, WEIGHTS),
        (protocol.PERSONALIZE, "reply"): protocol.reply({"generic.histogram.positive": [1, 2, 3]}),
    }


KINDS = list(valid())


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_project_sends_is_allowed(kind: tuple[str, protocol.Direction]) -> None:
    protocol.check(valid()[kind], *kind)


@pytest.mark.parametrize("kind", KINDS)
def test_any_further_key_or_record_is_refused(kind: tuple[str, protocol.Direction]) -> None:
    for name, record in valid()[kind].items():
        content = valid()[kind]
        if isinstance(record, ArrayRecord):
            record = ArrayRecord({**record, "beats": Array(np.zeros(3, np.float32))})
        else:
            record = type(record)({**record, "patient": 17})
        content[name] = record
        with pytest.raises(ProtocolError):
            protocol.check(content, *kind)
    for extra in (ConfigRecord({"x": 1}), MetricRecord({"x": 1}), ArrayRecord()):
        content = valid()[kind]
        content["extra"] = extra
        with pytest.raises(ProtocolError, match="record of another name"):
            protocol.check(content, *kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_key_of_a_request_is_refused(kind: tuple[str, protocol.Direction]) -> None:
    for name, record in valid()[kind].items():
        if isinstance(record, ConfigRecord):
            for key in record:
                content = valid()[kind]
                content[name] = ConfigRecord({k: v for k, v in record.items() if k != key})
                with pytest.raises(ProtocolError, match=key):
                    protocol.check(content, *kind)


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_message_is_refused(kind: tuple[str, protocol.Direction]) -> None:
    with pytest.raises(ProtocolError, match="missing"):
        protocol.check(RecordDict(), *kind)


def test_a_message_type_of_another_protocol_is_refused() -> None:
    with pytest.raises(ProtocolError, match="message type"):
        protocol.check(RecordDict(), "query.patients", "reply")


@pytest.mark.parametrize(
    "value", [math.nan, math.inf, -math.inf, 1e30, "text", True, [1.0], [1], b"bytes"], ids=repr
)
def test_a_loss_is_one_finite_number(value: Any) -> None:
    content = RecordDict({"metrics": ConfigRecord({"train-loss-total": value})})
    with pytest.raises(ProtocolError):
        protocol.check(content, protocol.ROUND, "reply")
    if isinstance(value, float):
        content = RecordDict({"metrics": MetricRecord({"train-loss-total": value})})
        with pytest.raises(ProtocolError):
            protocol.check(content, protocol.ROUND, "reply")


@pytest.mark.parametrize("key", ["train-beats", "validation-patients"])
def test_counts_are_whole_and_not_negative(key: str) -> None:
    for value in (-1, 0.5, 10**12):
        content = RecordDict({"metrics": MetricRecord({key: value})})
        with pytest.raises(ProtocolError, match=key):
            protocol.check(content, protocol.ROUND, "reply")


def test_a_histogram_is_bounded_and_of_counts() -> None:
    for values in ([1] * (protocol.MAX_LIST + 1), [-1], [0.5]):
        content = RecordDict({"metrics": MetricRecord({"generic.histogram.positive": values})})
        with pytest.raises(ProtocolError):
            protocol.check(content, protocol.PERSONALIZE, "reply")


def test_keys_without_end_are_refused() -> None:
    many = {f"flow.{'abcdefghij'[n % 10]}{'x' * (n // 10 % 30)}_{'y' * (n % 29)}": 1 for n in range(9000)}
    record = MetricRecord({f"outcome.{n}": 1 for n in range(protocol.MAX_METRIC_KEYS + 1)} | many)
    with pytest.raises(ProtocolError, match="at most"):
        protocol.check(RecordDict({"metrics": record}), protocol.PERSONALIZE, "reply")


# --- weights ----------------------------------------------------------------------------------------------


def with_array(array: Array) -> RecordDict:
    record = ArrayRecord({"trainable": array, "statistics": Array(np.ones(2, np.float32))})
    return RecordDict({"metrics": MetricRecord({}), "weights": record})


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(4, np.float64),
        np.zeros((2, 2), np.float32),
        np.zeros(4, np.int32),
        np.zeros((), np.float32),
        np.asfortranarray(np.zeros((3, 3), np.float32)),
    ],
    ids=["double", "matrix", "integers", "scalar", "fortran"],
)
def test_weights_are_two_float32_vectors(array: Any) -> None:
    with pytest.raises(ProtocolError, match="float32 vector"):
        protocol.check(with_array(Array(array)), protocol.ROUND, "reply")


def test_bytes_that_are_not_the_declared_vector_are_refused_before_they_are_read() -> None:
    honest = Array(np.zeros(4, np.float32))
    huge = honest.data.replace(b"(4,), }" + b" " * 9, b"(4000000000,), }")
    assert len(huge) == len(honest.data)
    assert huge != honest.data
    for data in (
        b"",
        b"\x93NUMPY",
        honest.data[:-1],
        honest.data + b"more",
        Array(np.zeros(5, np.float32)).data,
        Array(np.zeros(4, np.float64)).data,
        huge,
        b"\x93NUMPY\x01\x00" + b"\xff\xff" + b"(" * 65535,
    ):
        lying = Array(dtype="float32", shape=(4,), stype="numpy.ndarray", data=data)
        with pytest.raises(ProtocolError, match="trainable"):
            protocol.check(with_array(lying), protocol.ROUND, "reply")
    pickled = Array(dtype="float32", shape=(4,), stype="pickle", data=honest.data)
    with pytest.raises(ProtocolError, match="trainable"):
        protocol.check(with_array(pickled), protocol.ROUND, "reply")


def test_a_declared_size_beyond_the_limit_is_refused() -> None:
    size = protocol.MAX_WEIGHTS + 1
    lying = Array(dtype="float32", shape=(size,), stype="numpy.ndarray", data=b"")
    with pytest.raises(ProtocolError, match="trainable"):
        protocol.check(with_array(lying), protocol.ROUND, "reply")


def test_weights_come_back_bit_for_bit() -> None:
    back = protocol.read_weights(protocol.request(RUN, WEIGHTS))
    assert back.digest() == WEIGHTS.digest()


def test_evaluation_and_personalization_cannot_answer_weights() -> None:
    for message_type in (protocol.EVALUATE, protocol.PERSONALIZE):
        content = protocol.reply({"seconds": 1.0}, WEIGHTS)
        with pytest.raises(ProtocolError, match="weights"):
            protocol.check(content, message_type, "reply")


# --- plans and failures -----------------------------------------------------------------------------------


def test_a_plan_arrives_as_it_left() -> None:
    assert RunPlan.from_config(protocol.request(RUN, WEIGHTS).config_records["config"]) == RUN
    assert RoundPlan.from_config(protocol.request(ROUND, WEIGHTS).config_records["config"]) == ROUND


def test_a_figure_that_is_not_a_number_is_left_out() -> None:
    content = protocol.reply({"last.generic.strip-auc.total": math.nan, "suppressed": 0})
    assert dict(content.metric_records["metrics"]) == {"suppressed": 0}


@pytest.mark.parametrize("message_type", list(protocol.ALLOWED))
def test_a_failure_is_a_code_and_nothing_else(message_type: str) -> None:
    for code in protocol.FAILURES:
        protocol.check(protocol.failure(code), message_type, "reply")
    content = protocol.failure("a text with a name in it")
    assert protocol.failure_code(content) == "site_error"
    for record in (
        {"code": "Mrs Smith"},
        {"code": "bad_cohort\n"},
        {"code": "no_answer"},
        {"code": "bad_cohort", "why": "x"},
    ):
        with pytest.raises(ProtocolError):
            protocol.check(RecordDict({"failure": ConfigRecord(record)}), message_type, "reply")
    both = RecordDict({**valid()[message_type, "reply"], **protocol.failure("bad_cohort")})
    with pytest.raises(ProtocolError):
        protocol.check(both, message_type, "reply")


def test_every_error_of_the_project_has_a_sentence() -> None:
    def all_kinds(kind: type[FedkalemiaError]) -> set[type[FedkalemiaError]]:
        return {kind}.union(*(all_kinds(below) for below in kind.__subclasses__()))

    for kind in all_kinds(FedkalemiaError):
        assert kind.code in protocol.FAILURES
    assert not set(protocol.FAILURES) & set(protocol.SERVER_FAILURES)


def test_every_name_a_site_counts_by_is_listed_and_no_other() -> None:
    listed = protocol.ALLOWED[protocol.PERSONALIZE]["reply"]["metrics"]

    def allowed(key: str) -> bool:
        return any(re.fullmatch(pattern, key) for pattern in listed)

    for name in [*(f"flow.{reason}" for reason in Exclusion), "flow.labelled", "flow.accepted"]:
        assert allowed(name)
    # Not counted by the server: that of controls alone, and that of nobody in the cohort.
    untold = (Outcome.NOT_COMPUTABLE, Outcome.AFTER_COHORT)
    for outcome in Outcome:
        assert allowed(f"outcome.{outcome}") is (outcome not in untold)
    for group in GROUPS:
        assert all(allowed(f"cohort.{group}.{what}") for what in ("patients", *map(str, Label)))
    for name in ("flow.smith", "outcome.mrs_smith", "cohort.ward_nine.patients"):
        assert not allowed(name)


def test_the_text_of_a_refusal_holds_no_value() -> None:
    secret = "Mrs-Smith"
    content = valid()[protocol.HELLO, "reply"]
    content.config_records["config"]["site"] = secret
    with pytest.raises(ProtocolError) as raised:
        protocol.check(content, protocol.HELLO, "reply")
    assert secret not in str(raised.value)


def test_saying_hello_does_not_import_torch() -> None:
    code = "import sys, client.app, json; print(json.dumps('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) is False


# --- fuzz -------------------------------------------------------------------------------------------------

SCALARS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.booleans(), st.text(max_size=8), st.binary(max_size=4)
)
VALUES = st.one_of(SCALARS, st.lists(st.integers(-5, 5), max_size=4), st.lists(st.floats(), max_size=3))
NUMBERS = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.floats(), st.lists(st.integers(-5, 5), min_size=1, max_size=4)
)
KEYS = st.one_of(
    st.text(max_size=12),
    st.sampled_from(["site", "seed", "round", "train", "code", "train-beats", "flow.clipped", "seconds"]),
)
ARRAYS = st.builds(
    lambda shape, dtype: Array(np.zeros(shape, dtype)),
    st.lists(st.integers(0, 3), max_size=3).map(tuple),
    st.sampled_from(["float32", "float64", "int8"]),
)
RECORDS = st.one_of(
    st.dictionaries(KEYS, VALUES, max_size=5).map(ConfigRecord),
    st.dictionaries(KEYS, NUMBERS, max_size=5).map(MetricRecord),
    st.dictionaries(st.sampled_from(["trainable", "statistics", "x"]), ARRAYS, max_size=3).map(ArrayRecord),
)
CONTENTS = st.dictionaries(
    st.one_of(st.sampled_from(["config", "metrics", "weights", "failure"]), st.text(max_size=8)),
    RECORDS,
    max_size=4,
).map(RecordDict)


def walk(content: RecordDict) -> set[str]:
    return {key for record in content.values() for key in record}


@settings(max_examples=300, deadline=None)
@given(content=CONTENTS, kind=st.sampled_from(KINDS))
def test_whatever_arrives_is_refused_in_a_sentence_or_holds_only_listed_keys(
    content: RecordDict, kind: tuple[str, protocol.Direction]
) -> None:
    try:
        protocol.check(content, *kind)
    except ProtocolError:
        return
    message_type, direction = kind
    assert direction == "reply"  # a valid request needs every key, which chance does not hit
    allowed = [*protocol.WEIGHT_KEYS, "code"]
    for record in protocol.ALLOWED[message_type][direction].values():
        allowed += list(record)
    assert all(any(re.fullmatch(pattern, key) for pattern in allowed) for key in walk(content))


@settings(max_examples=200, deadline=None)
@given(kind=st.sampled_from(KINDS), key=KEYS, value=VALUES, data=st.data())
def test_one_changed_value_is_refused_or_within_its_bounds(
    kind: tuple[str, protocol.Direction], key: str, value: Any, data: st.DataObject
) -> None:
    content = valid()[kind]
    named = [name for name, record in content.items() if isinstance(record, ConfigRecord)]
    if not named:
        return
    record = content.config_records[named[0]]
    key = data.draw(st.sampled_from([*record, key]))
    record[key] = value
    try:
        protocol.check(content, *kind)
    except ProtocolError:
        return
    bound = protocol.ALLOWED[kind[0]][kind[1]][named[0]][key]
    assert bound.refuses(value) is None
