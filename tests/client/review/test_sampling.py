"""Which strips a sheet shows."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import pytest
from sqlalchemy.orm import Session, sessionmaker

from client.database.runs import start_run
from client.database.tables import Patient, Strip
from client.review.sampling import draw_sample, shuffle, take_evenly
from common.config import make_settings
from common.errors import ConfigurationError

T0 = datetime(2150, 3, 1)


def store(factory: sessionmaker[Session], strips: list[tuple[int, str, str | None]]) -> None:
    """Store strips given as patient, label and exclusion."""
    with factory() as session:
        run = start_run(session, "ingest", make_settings())
        session.add_all(Patient(id=n, source_key=f"p{n}") for n in sorted({n for n, _, _ in strips}))
        session.flush()
        for number, (patient, label, exclusion) in enumerate(strips):
            begin = T0 + timedelta(hours=number)
            session.add(
                Strip(
                    patient_id=patient,
                    run_id=run.id,
                    label=label,
                    start=begin,
                    end=begin + timedelta(minutes=10),
                    exclusion=exclusion,
                    n_beats=0 if exclusion else 100,
                )
            )
        session.commit()


def labels_of(factory: sessionmaker[Session], strips: list[int]) -> Counter[str]:
    with factory() as session:
        return Counter(session.get_one(Strip, strip).label for strip in strips)


def patients_of(factory: sessionmaker[Session], strips: list[int]) -> Counter[int]:
    with factory() as session:
        return Counter(session.get_one(Strip, strip).patient_id for strip in strips)


def test_every_reason_gives_as_many_strips_and_labels_share_them(session_factory: sessionmaker[Session]):
    rows = [(n % 40, "negative", None) for n in range(300)]
    rows += [(n % 40, "positive", None) for n in range(50)] + [(n % 40, "gap", None) for n in range(2)]
    rows += [(n % 40, "negative", "flat_line") for n in range(5)]
    store(session_factory, rows)
    with session_factory() as session:
        sample = draw_sample(session, seed=1, per_reason=12)
    assert labels_of(session_factory, list(sample.strips["accepted"])) == {
        "positive": 5, "negative": 5, "gap": 2,
    }  # fmt: skip
    assert len(sample.strips["flat_line"]) == 5
    assert dict(sample.available) == {"accepted": 352, "flat_line": 5}


def test_equal_seeds_give_equal_samples_and_others_do_not(session_factory: sessionmaker[Session]):
    store(session_factory, [(n % 60, "negative", None) for n in range(200)])
    with session_factory() as session:
        first, again, other = (draw_sample(session, seed, 12).strips["accepted"] for seed in (1, 1, 2))
    assert first == again
    assert set(first) != set(other)


def test_a_new_reason_does_not_change_the_sample_of_another(session_factory: sessionmaker[Session]):
    store(session_factory, [(n % 60, "negative", None) for n in range(200)])
    with session_factory() as session:
        before = draw_sample(session, 1, 12).strips["accepted"]
        strip = session.get_one(Strip, min(set(range(1, 201)) - set(before)))
        begin = T0 - timedelta(days=1)
        session.add(
            Strip(
                patient_id=strip.patient_id, run_id=strip.run_id, label="gap", start=begin,
                end=begin + timedelta(minutes=10), exclusion="clipped",
            )
        )  # fmt: skip
        session.commit()
        assert draw_sample(session, 1, 12).strips["accepted"] == before


def test_another_patient_comes_before_a_second_strip_of_the_same(session_factory: sessionmaker[Session]):
    # One patient has nearly all strips, eleven have one each.
    rows = [(1, "negative", None)] * 200 + [(n, "negative", None) for n in range(2, 13)]
    store(session_factory, rows)
    with session_factory() as session:
        drawn = list(draw_sample(session, 1, 12).strips["accepted"])
    assert patients_of(session_factory, drawn) == dict.fromkeys(range(1, 13), 1)


def test_strips_are_drawn_at_random_over_the_whole_site(session_factory: sessionmaker[Session]):
    store(session_factory, [(n, "negative", None) for n in range(100)])
    with session_factory() as session:
        drawn = Counter(s for seed in range(200) for s in draw_sample(session, seed, 10).strips["accepted"])
    # 200 samples of a tenth: each strip is expected 20 times, standard deviation 4.2.
    assert len(drawn) == 100
    assert max(drawn.values()) < 20 + 5 * 4.2
    assert min(drawn.values()) > 1


def test_strips_without_a_signal_are_shown_only_if_asked_for(session_factory: sessionmaker[Session]):
    store(session_factory, [(1, "negative", None), (2, "negative", "no_waveform")])
    with session_factory() as session:
        assert list(draw_sample(session, 1, 12).strips) == ["accepted"]
        assert draw_sample(session, 1, 12).left_out == {"no_waveform": 1}
        assert list(draw_sample(session, 1, 12, ["no_waveform"]).strips) == ["no_waveform"]


@pytest.mark.parametrize(
    ("reason", "told"),
    [("flatline", "did you mean 'flat_line'"), ("clipped", "reasons of its strips: accepted")],
)
def test_a_reason_that_cannot_be_shown_is_refused(
    session_factory: sessionmaker[Session], reason: str, told: str
):
    store(session_factory, [(1, "negative", None)])
    with session_factory() as session, pytest.raises(ConfigurationError, match=told):
        draw_sample(session, 1, 12, [reason])


def test_labels_take_turns_until_one_runs_out():
    drawn = take_evenly({"positive": [1], "negative": [2, 3, 4, 5], "gap": [6, 7]}, 5)
    assert drawn == [1, 2, 3, 6, 7]
    assert take_evenly({"positive": [1], "negative": [2]}, 12) == [1, 2]
    assert take_evenly({}, 12) == []


def test_a_blind_order_is_that_of_the_seed_and_not_that_of_the_reasons():
    strips = list(range(100, 130))
    assert sorted(shuffle(strips, 1)) == strips
    assert shuffle(strips, 1) == shuffle(strips[::-1], 1)
    assert shuffle(strips, 1) not in (strips, strips[::-1], shuffle(strips, 2))
