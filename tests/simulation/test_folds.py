import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.config import make_settings
from common.errors import SourceError
from simulation.folds import DS1, DS2, PACED, Counts, chosen_split, deal_sites, standard_split, two_folds

COHORT = make_settings("ventricular").cohort

patients = st.dictionaries(
    st.integers(100, 999).map(str),
    st.builds(Counts, positive=st.integers(0, 20), negative=st.integers(0, 30)),
    min_size=8,
    max_size=40,
)


def qualifies(counts: Counts) -> bool:
    return counts.positive >= 8 and counts.negative >= 8


@given(patients)
def test_every_patient_is_tested_once_by_a_model_that_never_saw_them(counts):
    a, b = two_folds(counts, COHORT)
    assert set(a.test) | set(b.test) == set(counts)
    assert not set(a.test) & set(b.test)
    assert (a.train, b.train) == (b.test, a.test)


@given(patients)
def test_the_folds_have_equally_many_personal_patients(counts):
    a, b = two_folds(counts, COHORT)
    per_fold = [sum(qualifies(counts[key]) for key in fold.test) for fold in (a, b)]
    assert 0 <= per_fold[0] - per_fold[1] <= 1


@given(patients, st.integers(1, 3))
def test_every_patient_belongs_to_exactly_one_site(counts, sites):
    hands = deal_sites(counts, two_folds(counts, COHORT), sites, COHORT)
    assert sorted(key for hand in hands for key in hand) == sorted(counts)
    sizes = [len(hand) for hand in hands]
    assert max(sizes) - min(sizes) <= 1


def test_the_standard_sets_are_those_of_the_literature():
    assert (len(DS1), len(DS2)) == (22, 22)
    assert not set(DS1) & set(DS2)
    assert not (set(DS1) | set(DS2)) & set(PACED)


def test_the_standard_split_says_which_records_are_missing():
    with pytest.raises(SourceError, match="missing: 100, 234"):
        standard_split([r for r in DS1 + DS2 if r not in ("100", "234")], {})


def test_one_person_is_never_on_two_sides():
    person = {record: "201" if record == "202" else record for record in DS1 + DS2}
    fold = standard_split(DS1 + DS2, person)
    assert "201" in fold.train
    assert "201" not in fold.test
    assert "202" not in fold.records
    assert len(fold.test) == 21


def test_a_record_that_is_not_there_is_named():
    with pytest.raises(SourceError, match="records 999 are not in the folder; present: 101, 106"):
        chosen_split(["101"], ["999"], ["101", "106"], {"101": "101", "106": "106"})


def test_more_sites_than_patients_is_refused():
    counts = {str(n): Counts(9, 9) for n in range(4)}
    with pytest.raises(SourceError, match="--sites"):
        deal_sites(counts, two_folds(counts, COHORT), 5, COHORT)
