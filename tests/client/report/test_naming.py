"""How pages call patients: the site's own identifiers, or pseudonyms nobody can undo without the key."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import pytest

from client.report.naming import KEY_FILE, Naming, pseudonym, read_key
from common.errors import StorageError

FIRST = datetime(2150, 3, 1, 9, 30)


def test_the_key_is_made_once_and_read_by_its_owner_only(tmp_path: Path) -> None:
    key = read_key(tmp_path / KEY_FILE)
    assert len(key) == 32
    assert read_key(tmp_path / KEY_FILE) == key
    assert (tmp_path / KEY_FILE).stat().st_mode & 0o077 == 0
    assert read_key(tmp_path / "other.key") != key


def test_a_damaged_key_is_named_with_what_to_do(tmp_path: Path) -> None:
    (tmp_path / KEY_FILE).write_text("00" * 31)
    with pytest.raises(StorageError, match=r"64 hexadecimal digits.*put back the file"):
        read_key(tmp_path / KEY_FILE)


def test_pseudonyms_differ_by_patient_and_by_key_and_stay() -> None:
    one, two = b"1" * 32, b"2" * 32
    names = {pseudonym(one, str(number)) for number in range(2000)}
    assert len(names) == 2000
    assert pseudonym(one, "7") == pseudonym(one, "7") != pseudonym(two, "7")
    assert all(len(name) == 10 and name.startswith("P-") for name in names)


@pytest.mark.parametrize(
    ("hours", "own", "pseudonymous"),
    [
        (0, "2150-03-01 09:30", "day 0, 00:00"),
        (27.5, "2150-03-02 13:00", "day 1, 03:30"),
        (-1, "2150-03-01 08:30", "−day 0, 01:00"),
    ],
)
def test_times_are_dates_or_count_from_the_first(hours: float, own: str, pseudonymous: str) -> None:
    when = FIRST + timedelta(hours=hours)
    assert Naming(False, {}).moment(when, FIRST) == own
    assert Naming(True, {}).moment(when, FIRST) == pseudonymous


def test_ages_are_years_or_decades_and_the_oldest_are_one_group() -> None:
    own, other = Naming(False, {}), Naming(True, {})
    assert (own.age(64.4), other.age(64.4)) == ("64", "60 to 69")
    assert own.age(91.4) == other.age(91.4) == "90 or older"
    assert own.age(None) is None


def test_a_list_is_in_the_order_of_names_and_numbers_by_value() -> None:
    names = Naming(False, {1: "10", 2: "9", 3: "a"})
    assert sorted((1, 2, 3), key=names.order) == [2, 1, 3]


def test_the_name_of_a_page_never_holds_an_identifier() -> None:
    assert Naming(False, {3: "p0815"}).page(3) == "3.html"
    assert Naming(True, {3: "P-AAAA"}).page(3) == "P-AAAA.html"
