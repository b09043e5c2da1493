"""What a hostile or broken other end may send, and what must not slip out: a sentence, never a crash."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable
from typing import Any

import flwr.supercore.inflatable.inflatable_object as inflatable
import flwr.supercore.inflatable.inflatable_utils as inflating
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from common import protocol
from common.config import ModelSettings, TrainingSettings
from common.errors import ProtocolError
from common.protocol import Direction, RoundPlan, RunPlan
from common.weights import Weights

SHA = "ab" * 32
WEIGHTS = Weights(np.arange(6, dtype=np.float32), np.ones(2, np.float32))
RUN = RunPlan(name="main", seed=7, schema=SHA, preprocessing=SHA, model=ModelSettings())
ROUND = RoundPlan(**vars(RUN), round=3, train=True, training=TrainingSettings(learning_rate=0.02))
LEDGER = {"entries": 3, "head": SHA}
#: Longest a refusal may take, seconds; a bound against endless work, not a measurement.
BOUND_S = 5.0

Kind = tuple[str, Direction]


def valid(kind: Kind) -> RecordDict:
    """Return one message of a type and direction that is allowed."""
    hello = {"protocol": protocol.VERSION, "software": protocol.software()}
    site = {"site": "north", "task": "hyperkalemia", "preprocessing": SHA}
    metrics = {
        "flow.accepted": 12,
        "generic.histogram.positive": [1, 2, 3],
        "personal.selected.1.beat-f1.n": 5,
    }
    make: dict[Kind, Callable[[], RecordDict]] = {
        (protocol.HELLO, "request"): lambda: RecordDict({"config": ConfigRecord({**hello})}),
        (protocol.HELLO, "reply"): lambda: RecordDict({"config": ConfigRecord({**hello, **site})}),
        (protocol.ROUND, "request"): lambda: protocol.request(ROUND, WEIGHTS),
        (protocol.ROUND, "reply"): lambda: protocol.reply({"train-beats": 5, "seconds": 0.5}, WEIGHTS),
        (protocol.EVALUATE, "request"): lambda: protocol.request(ROUND, WEIGHTS),
        (protocol.EVALUATE, "reply"): lambda: protocol.reply({"validation-loss-total": 0.5}),
        (protocol.PERSONALIZE, "request"): lambda: protocol.request(RUN, WEIGHTS),
        (protocol.PERSONALIZE, "reply"): lambda: protocol.reply(metrics),
    }
    return make[kind]()


KINDS: list[Kind] = [(name, way) for name in protocol.ALLOWED for way in ("request", "reply")]


def refused(content: RecordDict, kind: Kind) -> str | None:
    """Return the sentence of a refusal, or None. Any other exception is a failure of the test."""
    began = time.monotonic()
    try:
        protocol.check(content, *kind)
    except ProtocolError as error:
        return str(error)
    finally:
        assert time.monotonic() - began < BOUND_S
    return None


# --- values that look like something --------------------------------------------------------------------

NAMES = ["Mrs Smith", "smith, john", "MARK-7781", "4711", "p000123-2101-05-17-11-03", "J. Doe\n", "müller"]
DATES = ["2101-05-17", "17.05.2101", "20010517", "2101-05-17T11:03:00", "May 17", "11:03", "1990"]
TRAPS = [
    "strips\n",
    "small\n",
    "north\n",
    "a" * 33,
    "nórth",
    "\u0661\u0662",
    "a\u0000b",
    "true",
    "1",
    "",
    " ",
    "\u202e",
]
ODD: list[Any] = [
    *NAMES,
    *DATES,
    *TRAPS,
    *(math.nan, math.inf, -math.inf, -1, -0.5, 1e300, 10**40, -(10**40)),
    *(True, False, b"bytes", b"", [], [1], [1.5], ["text"], [True], [b"x"], [math.nan]),
]


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_an_odd_value_in_any_place_is_refused_or_within_its_bounds(kind: Kind) -> None:
    for name, record in valid(kind).items():
        if isinstance(record, ArrayRecord):
            continue
        for key in record:
            for value in ODD:
                content = valid(kind)
                try:
                    content[name][key] = value
                except TypeError:
                    continue  # the engine's own record refuses it
                why = refused(content, kind)
                allowed = protocol.ALLOWED[kind[0]][kind[1]][name]
                bound = next(k for pattern, k in allowed.items() if re.fullmatch(pattern, key))
                assert (why is None) == (bound.refuses(value) is None)
                if isinstance(value, str):
                    # One lower-case word is what a name of a site or run looks like; nothing else is free.
                    free = key in ("site", "name") and re.fullmatch(r"[a-z][a-z0-9-]{0,31}", value)
                    assert why is not None or free
                elif isinstance(value, bytes) or (isinstance(value, float) and not math.isfinite(value)):
                    assert why is not None
                elif isinstance(value, bool):
                    assert why is not None or key == "train"
                elif isinstance(value, list):
                    assert why is not None or key.startswith("generic.histogram")


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
@pytest.mark.parametrize("text", [*NAMES, *DATES, *TRAPS, "x" * 10**6], ids=lambda text: repr(text)[:24])
def test_no_refusal_quotes_what_was_sent(kind: Kind, text: str) -> None:
    """Neither as a value, nor as a key, nor as the name of a record."""
    whole = valid(kind)
    for name in whole:
        if isinstance(whole[name], ConfigRecord):
            for key in whole[name]:
                content = valid(kind)
                content[name][key] = text
                assert len(text) < 4 or text not in (refused(content, kind) or "")
        if not isinstance(whole[name], ArrayRecord):
            content = valid(kind)
            content[name][text] = 1
            assert len(text) < 4 or text not in (refused(content, kind) or text)
    content = valid(kind)
    content[text] = MetricRecord({"x": 1})
    assert len(text) < 4 or text not in (refused(content, kind) or text)
    with pytest.raises(ProtocolError) as raised:
        protocol.check(valid(kind), text, kind[1])
    assert len(text) < 4 or text not in str(raised.value)


def test_a_number_beyond_what_a_float_holds_is_refused_in_a_sentence() -> None:
    """An integer may stand for a float; one of four hundred digits must not end in another exception."""
    for number in (10**400, -(10**400), 2**64):
        why = refused(RecordDict({"metrics": MetricRecord({"seconds": number})}), (protocol.ROUND, "reply"))
        assert why is not None
        assert "seconds" in why


# --- too much ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_thousands_of_keys_long_keys_and_long_lists_are_refused_soon(kind: Kind) -> None:
    for name, record in valid(kind).items():
        many: list[RecordDict] = []
        if isinstance(record, ArrayRecord):
            array = Array(np.zeros(1, np.float32))
            many.append(RecordDict({**valid(kind), name: ArrayRecord({f"{n}": array for n in range(5000)})}))
        else:
            make = type(record)
            many += [
                RecordDict({**valid(kind), name: make({f"key-{n}": n for n in range(100_000)})}),
                RecordDict({**valid(kind), name: make({**record, "a" * 10**7: 1})}),
                RecordDict({**valid(kind), name: make({**record, "-".join("a" * 10**5): 1})}),
                RecordDict({**valid(kind), name: make({**record, next(iter(record)): [1] * 10**6})}),
            ]
        for content in many:
            assert refused(content, kind)
    content = RecordDict({**valid(kind), **{f"record-{n}": MetricRecord() for n in range(20_000)}})
    assert refused(content, kind)


def test_a_million_counts_are_not_read_one_by_one() -> None:
    content = RecordDict({"metrics": MetricRecord({"generic.histogram.positive": [1] * 3 * 10**6})})
    assert refused(content, (protocol.PERSONALIZE, "reply"))


# --- the head of the ledger -------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS, ids="-".join)
def test_a_ledger_head_may_come_with_every_reply_and_with_no_request(kind: Kind) -> None:
    content = RecordDict({**valid(kind), "ledger": ConfigRecord({**LEDGER})})
    if kind[1] == "request":
        assert refused(content, kind)
        return
    assert refused(content, kind) is None
    assert protocol.ledger_head(content) == (3, SHA)
    assert protocol.ledger_head(valid(kind)) is None
    failed = RecordDict({**protocol.failure("bad_cohort"), "ledger": ConfigRecord({**LEDGER})})
    assert refused(failed, kind) is None
    assert protocol.failure_code(failed) == "bad_cohort"
    assert protocol.ledger_head(failed) == (3, SHA)


@pytest.mark.parametrize(
    "ledger",
    [
        {"entries": 3},
        {"head": SHA},
        {},
        LEDGER | {"site": "north"},
        LEDGER | {"entries": -1},
        LEDGER | {"entries": 3.0},
        LEDGER | {"entries": True},
        LEDGER | {"entries": 10**16},
        LEDGER | {"head": SHA.upper()},
        LEDGER | {"head": SHA + "\n"},
        LEDGER | {"head": SHA[1:]},
    ],
    ids=repr,
)
def test_a_ledger_head_is_a_count_and_a_digest(ledger: dict[str, Any]) -> None:
    content = RecordDict({**valid((protocol.EVALUATE, "reply")), "ledger": ConfigRecord({**ledger})})
    assert refused(content, (protocol.EVALUATE, "reply"))
    alone = RecordDict({"ledger": ConfigRecord({**LEDGER})})
    assert refused(alone, (protocol.EVALUATE, "reply"))


# --- fuzz: messages that are nearly right ------------------------------------------------------------------

TEXTS = st.one_of(st.text(max_size=40), st.sampled_from([*NAMES, *DATES, *TRAPS]))
SCALARS = st.one_of(st.integers(), st.floats(), st.booleans(), TEXTS, st.binary(max_size=40))
LISTS = st.one_of(*(st.lists(one, max_size=5) for one in (st.integers(), st.floats(), TEXTS, st.booleans())))
OWN_KEYS = sorted({key for kind in KINDS for record in valid(kind).values() for key in record})
KEYS = st.one_of(TEXTS, st.sampled_from(OWN_KEYS))
NAMED = st.one_of(st.sampled_from(protocol.RECORDS), st.text(max_size=8))


@st.composite
def arrays(draw: st.DrawFn) -> Array:
    """Draw an array that may lie about itself."""
    honest = Array(np.zeros(draw(st.integers(0, 4)), draw(st.sampled_from(["float32", "float64", "int8"]))))
    data = bytearray(honest.data)
    for _ in range(draw(st.integers(0, 3))):
        place = draw(st.integers(0, len(data) - 1))
        data[place] = draw(st.integers(0, 255))
    return Array(
        dtype=draw(st.sampled_from([honest.dtype, "float32", "object", "<f4", ""])),
        shape=draw(st.one_of(st.just(honest.shape), st.lists(st.integers(), max_size=3).map(tuple))),
        stype=draw(st.sampled_from(["numpy.ndarray", "pickle", ""])),
        data=draw(st.one_of(st.just(bytes(data)), st.just(honest.data), st.binary(max_size=200))),
    )


ARRAY_RECORDS = st.dictionaries(
    st.one_of(st.sampled_from(protocol.WEIGHT_KEYS), TEXTS), arrays(), max_size=3
).map(ArrayRecord)
CONFIGS = st.dictionaries(KEYS, st.one_of(SCALARS, LISTS), max_size=6).map(ConfigRecord)
METRICS = st.dictionaries(
    KEYS,
    st.one_of(
        st.integers(), st.floats(), *(st.lists(one, max_size=4) for one in (st.integers(), st.floats()))
    ),
    max_size=6,
).map(MetricRecord)
RECORDS = st.one_of(CONFIGS, METRICS, ARRAY_RECORDS)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(KINDS), content=st.dictionaries(NAMED, RECORDS, max_size=4).map(RecordDict))
def test_raw_records_are_refused_in_a_sentence_or_hold_listed_values_only(
    kind: Kind, content: RecordDict
) -> None:
    if refused(content, kind) is None:
        assert_listed(content, kind)


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(kind=st.sampled_from(KINDS), data=st.data())
def test_one_thing_wrong_in_a_right_message_is_refused_or_within_its_bounds(
    kind: Kind, data: st.DataObject
) -> None:
    content = valid(kind)
    name = data.draw(st.sampled_from(sorted(content)))
    how = data.draw(st.sampled_from(["value", "key", "record", "drop", "drop record", "other record"]))
    record = content[name]
    own = sorted(record)
    if how == "value" and not isinstance(record, ArrayRecord):
        drawn = (
            st.one_of(SCALARS, LISTS)
            if isinstance(record, ConfigRecord)
            else st.one_of(st.integers(), st.floats())
        )
        record[data.draw(st.sampled_from(own))] = data.draw(drawn)
    elif how in ("value", "key") and isinstance(record, ArrayRecord):
        record[data.draw(KEYS if how == "key" else st.sampled_from(own))] = data.draw(arrays())
    elif how == "key":
        record[data.draw(KEYS)] = data.draw(st.integers())
    elif how == "record":
        content[data.draw(NAMED)] = data.draw(RECORDS)
    elif how == "drop" and own:
        del record[data.draw(st.sampled_from(own))]
    elif how == "drop record":
        del content[name]
    else:
        content[name] = data.draw(RECORDS)
    if refused(content, kind) is None:
        assert_listed(content, kind)


def assert_listed(content: RecordDict, kind: Kind) -> None:
    """Check by other means than ``check`` that a message holds nothing but what is listed."""
    records = {"ledger": protocol.LEDGER} if kind[1] == "reply" else {}
    records |= protocol.FAILURE if "failure" in content else protocol.ALLOWED[kind[0]][kind[1]]
    for name, record in content.items():
        assert name in records
        if name == "weights":
            for key in ("trainable", "statistics"):
                vector = record[key].numpy()
                assert (vector.dtype, vector.shape) == (np.dtype("float32"), record[key].shape)
            assert len(record) == 2
            continue
        for key, value in record.items():
            (bound,) = [kind for pattern, kind in records[name].items() if re.fullmatch(pattern, key)]
            for item in value if isinstance(value, list) else [value]:
                assert type(item) in (bound.type, int) if bound.type is float else type(item) is bound.type
                if isinstance(item, str):
                    assert item.isascii()
                    assert item.isprintable()
                elif not isinstance(item, bool):
                    assert math.isfinite(item)
                    assert bound.low <= item <= bound.high


# --- fuzz: bytes as they come over the wire ----------------------------------------------------------------


def objects_of(content: RecordDict) -> dict[str, bytes]:
    """Return a message as the engine sends it: every object by its number."""
    with inflatable.no_object_id_recompute():
        return {name: one.deflate() for name, one in inflatable.get_all_nested_objects(content).items()}


WIRE = [(kind, content.object_id, objects_of(content)) for kind in KINDS for content in [valid(kind)]]


@pytest.mark.parametrize("sent", WIRE, ids=lambda sent: "-".join(sent[0]))
def test_a_message_survives_the_engines_serialization(sent: tuple[Kind, str, dict[str, bytes]]) -> None:
    kind, root, objects = sent
    assert refused(inflating.inflate_object_from_contents(root, dict(objects)), kind) is None


@settings(max_examples=600, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(sent=st.sampled_from(WIRE), data=st.data())
@example(sent=WIRE[0], data=None)
def test_bytes_changed_on_the_way_are_refused_by_the_engine_or_by_the_protocol(
    sent: tuple[Kind, str, dict[str, bytes]], data: st.DataObject | None
) -> None:
    kind, root, objects = sent
    changed = dict(objects)
    if data is not None:
        name = data.draw(st.sampled_from(sorted(objects)))
        piece = bytearray(objects[name])
        for _ in range(data.draw(st.integers(1, 3))):
            place = data.draw(st.integers(0, len(piece) - 1))
            how = data.draw(st.sampled_from(["flip", "cut", "insert"]))
            if how == "flip":
                piece[place] ^= data.draw(st.integers(1, 255))
            elif how == "cut" and len(piece) > 1:
                del piece[place : place + data.draw(st.integers(1, 4))]
            else:
                piece[place:place] = data.draw(st.binary(min_size=1, max_size=4))
            if not piece:
                return
        changed[name] = bytes(piece)
    try:
        content = inflating.inflate_object_from_contents(root, changed)
    except Exception:
        return  # the engine itself could not read it: no message arrived
    if isinstance(content, RecordDict) and refused(content, kind) is None:
        assert_listed(content, kind)
