import pytest
from pydantic import ValidationError

from common.config import make_settings, merge, parse_overrides
from common.errors import ConfigurationError
from common.task import TASKS, Label


@pytest.mark.parametrize(
    ("overrides", "hint"),
    [
        ({"training": {"lerning_rate": 0.1}}, "did you mean 'learning_rate'"),
        ({"sead": 3}, "did you mean 'seed'"),
        ({"personalisation": {}}, "did you mean 'personalization'"),
    ],
)
def test_an_unknown_key_names_the_nearest(overrides, hint):
    with pytest.raises(ConfigurationError, match=hint):
        make_settings(overrides=overrides)


def test_a_value_out_of_range_is_named_with_its_place():
    with pytest.raises(ConfigurationError, match=r"training\.learning_rate = -1"):
        make_settings(overrides={"training": {"learning_rate": -1}})


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"quality": {"min_agreement": 1.5}}, "less than or equal to 1; allowed: 0 to 1"),
        ({"training": {"learning_rate": 0}}, "greater than 0; allowed: above 0 and at most 1"),
        ({"strip": {"min_beats": 0}}, "greater than or equal to 1; allowed: at least 1"),
        ({"quality": {"max_rate_bpm": float("nan")}}, "finite number; allowed: at most 400"),
        ({"seed": -1}, "greater than or equal to 0; allowed: 0 to 4611686018427387904"),
    ],
)
def test_a_number_out_of_range_is_told_with_the_range(overrides, says):
    with pytest.raises(ConfigurationError, match=says):
        make_settings(overrides=overrides)


def test_unknown_tasks_and_presets_are_refused():
    with pytest.raises(ConfigurationError, match="did you mean 'hyperkalemia'"):
        make_settings("hyperkalaemia")
    with pytest.raises(ConfigurationError, match="did you mean 'quick'"):
        make_settings(preset="quik")


def test_settings_are_frozen():
    settings = make_settings()
    with pytest.raises(ValidationError):
        settings.seed = 1  # type: ignore[misc]


def test_every_preset_of_every_task_is_valid():
    for task in TASKS.values():
        for preset in task.presets:
            assert make_settings(task.name, preset).preset == preset


def test_the_users_values_win_over_the_preset_and_leave_its_other_values():
    settings = make_settings("hyperkalemia", "quick", {"model": {"width": 24}})
    assert settings.model.width == 24
    assert settings.model.depth == make_settings("hyperkalemia", "quick").model.depth


def test_labels_follow_the_paper():
    label = make_settings().label
    assert (label.negative_from, label.negative_to, label.positive_above) == (3.5, 5.0, 5.5)


def test_the_digest_is_of_the_values_not_of_their_order():
    a = make_settings(overrides={"seed": 3, "training": {"local_epochs": 2}})
    b = make_settings(overrides={"training": {"local_epochs": 2}, "seed": 3})
    assert a.digest() == b.digest()
    assert a.digest() != make_settings(overrides={"seed": 4, "training": {"local_epochs": 2}}).digest()


def test_preprocessing_is_what_must_agree_between_sites():
    base = make_settings()
    assert make_settings(overrides={"seed": 9}).preprocessing_digest() == base.preprocessing_digest()
    for section in ({"signal": {"low_hz": 0.6}}, {"label": {"positive_above": 6.0}}):
        assert make_settings(overrides=section).preprocessing_digest() != base.preprocessing_digest()


def test_overrides_from_a_command_line_are_typed():
    assert parse_overrides(["seed=3", "training.learning_rate=0.01", "model.stem=paper"]) == {
        "seed": 3,
        "training": {"learning_rate": 0.01},
        "model": {"stem": "paper"},
    }
    with pytest.raises(ConfigurationError, match=r"section\.key=value"):
        parse_overrides(["training.learning_rate"])


def test_merge_changes_neither_side():
    a, b = {"x": {"y": 1}}, {"x": {"z": 2}}
    assert merge(a, b) == {"x": {"y": 1, "z": 2}}
    assert (a, b) == ({"x": {"y": 1}}, {"x": {"z": 2}})


def test_each_task_has_words_for_its_labels():
    assert TASKS["hyperkalemia"].word(Label.GAP) == "borderline potassium"
    for label in (Label.POSITIVE, Label.NEGATIVE):
        assert "potassium" not in TASKS["ventricular"].word(label)


@pytest.mark.parametrize(
    ("overrides", "says"),
    [
        ({"label": {"merge_s": 60.0}}, "share the same ECG"),
        ({"label": {"negative_to": 6.0}}, "limits must ascend"),
        ({"cohort": {"split": [0.0, 1.0, 1.0]}}, "share above 0 for train"),
        ({"cohort": {"split": [6.0, -2.0, 2.0]}}, "none below 0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(overrides, says):
    with pytest.raises(ConfigurationError, match=says):
        make_settings(overrides=overrides)


@pytest.mark.parametrize(
    "window", ["2-4", "02:00", "24:00-04:00", "02:00-04:60", "02:00-04:30 ", "\u0660\u0662:00-04:30"]
)
def test_a_maintenance_window_is_written_one_way(window: str) -> None:
    with pytest.raises(ConfigurationError, match=r"policy\.maintenance.*write it like 02:00-04:30"):
        make_settings("hyperkalemia", "standard", {"policy": {"maintenance": window}})
    good = make_settings("hyperkalemia", "standard", {"policy": {"maintenance": "22:30-04:00"}})
    assert good.policy.maintenance == "22:30-04:00"
