"""Profiles and sizes of sites: what is built in, what a user's own file may say, and what is refused."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from common.errors import ConfigurationError
from simulation.cohort.profile import (
    PROFILES,
    CohortSizes,
    SiteProfile,
    check_site,
    load_profile,
    profile_text,
)

OWN = 'name = "own"\n'


def own(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "own.toml"
    path.write_text(OWN + text)
    return path


def refusal(tmp_path: Path, text: str) -> str:
    path = own(tmp_path, text)
    with pytest.raises(ConfigurationError) as refused:
        load_profile(path)
    said = str(refused.value)
    assert said.startswith(str(path))
    return said.removeprefix(str(path)).lstrip(":, ")


def test_five_sites_come_with_the_package_and_no_two_have_the_same_monitors():
    assert list(PROFILES) == ["north", "harbor", "valley", "river", "island"]
    assert all(profile.description for profile in PROFILES.values())
    monitors = {(p.monitor.rate_hz, p.monitor.turning_point, p.monitor.bits) for p in PROFILES.values()}
    assert monitors == {
        (125.0, True, 8),
        (250.0, False, 16),
        (500.0, False, 16),
        (249.89, False, 16),
        (125.0, False, 8),
    }
    assert {p.monitor.mains_hz for p in PROFILES.values()} == {50, 60}
    assert {p.laboratory.unit for p in PROFILES.values()} == {"mEq/L", "mmol/L"}


@pytest.mark.parametrize("name", list(PROFILES))
def test_a_printed_profile_copied_to_a_file_is_the_same_profile(tmp_path, name):
    path = tmp_path / "copy.toml"
    path.write_text(profile_text(name))
    assert load_profile(path) == PROFILES[name]


def test_a_file_needs_only_what_differs(tmp_path):
    found = load_profile(own(tmp_path, "[monitor]\nrate_hz = 250\n[patients]\nage_mean = 50\n"))
    assert (found.name, found.monitor.rate_hz, found.patients.age_mean) == ("own", 250.0, 50.0)
    assert found.laboratory == SiteProfile(name="x").laboratory


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("colour = 1\n", "unknown key 'colour'"),
        ("[monitor]\nrate = 125\n", "unknown key 'monitor.rate'; did you mean 'rate_hz'?"),
        (
            "[patients]\npaced_share = -0.1\n",
            "paced_share = -0.1: input should be greater than or equal to 0; allowed: 0 to 1",
        ),
        (
            "[patients]\nfemale_share = 1.2\n",
            "female_share = 1.2: input should be less than or equal to 1; allowed: 0 to 1",
        ),
        ('[patients]\nage_mean = "old"\n', "patients.age_mean = 'old'"),
        ("[laboratory]\ndraw_interval_h = -3\n", "laboratory.draw_interval_h = -3"),
        ("[laboratory]\nclock_offset_min = 500\n", "less than or equal to 180; allowed: -180 to 180"),
        ('[laboratory]\nunit = "mg/dL"\n', "input should be 'mEq/L' or 'mmol/L'"),
        ("[monitor]\nrate_hz = 100\n", "monitor: rate_hz = 100; allowed: 125, 249.89, 250, 500"),
        ("[monitor]\nrate_hz = -250\n", "monitor: rate_hz = -250; allowed: 125, 249.89, 250, 500"),
        ("[monitor]\nmains_hz = 55\n", "monitor.mains_hz = 55: input should be 50 or 60"),
        ("[monitor]\nbits = 12\n", "monitor.bits = 12: input should be 8 or 16"),
        ("[monitor]\ngains = []\n", "monitor: gains = []; allowed: at least one gain"),
        ("[monitor]\ngains = [2000]\n", "gains: 2000; allowed with 8 bits: 5 to 500 units per mV"),
        (
            "[monitor]\nnoise = nan\n",
            "noise = nan: input should be a finite number; allowed: 0 to 10",
        ),
        # A shorter part of a stay is never recorded.
        ("[monitor]\nrecorded_share = 0.05\n", "equal to 0.1; allowed: 0.1 to 1"),
    ],
)
def test_a_wrong_value_of_a_users_file_is_named_with_what_is_allowed(tmp_path, text, says):
    assert says in refusal(tmp_path, text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (
            "[patients]\ninjury_share = 0.7\ndialysis_share = 0.4\nlong_dialysis_share = 0\n",
            "injury_share 0.7 + dialysis_share 0.4 + long_dialysis_share 0 = 1.1 is more than all patients; "
            "allowed: at most 1",
        ),
        (
            "[monitor]\nband_hz = [0.5, 70.0]\n",
            "band_hz = [0.5, 70]; allowed: 0 < lower < upper < 62.5, half the sampled rate",
        ),
        ("[monitor]\nband_hz = [40.0, 0.5]\n", "allowed: 0 < lower < upper"),
        (
            "[monitor]\nturning_point = true\nrate_hz = 250\n",
            "turning_point reduces 500 Hz to 125 Hz, but rate_hz = 250; set it to 125",
        ),
    ],
)
def test_values_that_contradict_each_other_are_refused(tmp_path, text, says):
    assert says in refusal(tmp_path, text)


@pytest.mark.parametrize("name", ["North", "2nd", "a b", "../x", "", "x" * 33, "north_1"])
def test_a_name_becomes_a_folder_and_a_site_name_and_is_checked(name):
    with pytest.raises(ValueError, match="name"):
        SiteProfile(name=name)


def test_an_unknown_profile_names_the_nearest_and_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigurationError, match="unknown profile 'habour'; did you mean 'harbor'"):
        load_profile("habour")
    with pytest.raises(ConfigurationError, match=r"none\.toml does not exist"):
        load_profile(tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("name = ")
    with pytest.raises(ConfigurationError, match=r"bad\.toml is not valid TOML"):
        load_profile(tmp_path / "bad.toml")


def site(text: str) -> SiteProfile:
    return SiteProfile.model_validate(tomllib.loads(OWN + text))


@pytest.mark.parametrize(
    ("text", "sizes", "says"),
    [
        (
            "[monitor]\nlead_ii_missing = 1.0\n",
            {"personal_patients": 2},
            "site own: monitor.lead_ii_missing = 1 leaves no lead II, which 2 personal patients need; set it "
            "below 1, or ask for 0 personal patients",
        ),
        (
            "[monitor]\nnoisy_share = 1.0\n",
            {"personal_patients": 2},
            "monitor.noisy_share = 1 leaves no readable ECG",
        ),
        ("", {"personal_patients": 11}, "site own: 11 personal patients of 10 patients; allowed: 0 to 10"),
        (
            "[patients]\ninjury_share = 0\ndialysis_share = 0\n",
            {"positive_share": 0.5},
            "positive_share = 0.5, but injury_share and dialysis_share are both 0",
        ),
    ],
)
def test_a_site_that_cannot_be_what_is_asked_for_is_refused(text, sizes, says):
    with pytest.raises(ConfigurationError) as refused:
        check_site(site(text), CohortSizes(patients=10, **sizes))
    assert says in str(refused.value)


def test_what_is_only_pointless_is_allowed():
    check_site(site("[monitor]\nlead_ii_missing = 1.0\n"), CohortSizes(patients=10, personal_patients=0))
    check_site(site("[patients]\ninjury_share = 0\ndialysis_share = 0\n"), CohortSizes(positive_share=0.0))


def test_personal_patients_are_the_profiles_share_unless_counted():
    profile = site("[patients]\nlong_dialysis_share = 0.05\n")
    assert CohortSizes(patients=100).personal_of(profile) == 5
    assert CohortSizes(patients=100, personal_patients=0).personal_of(profile) == 0
    assert CohortSizes(patients=100, personal_patients=9).personal_of(profile) == 9


@pytest.mark.parametrize(
    "values",
    [{"patients": 0}, {"patients": 99_980}, {"positive_share": 1.01}, {"window_hours": 0.0}, {"window": 1}],
)
def test_impossible_sizes_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        CohortSizes(**values)
