"""Methods: sentences that follow the settings, and every setting with what it means."""

from __future__ import annotations

import re

import pytest

from client.report.evidence import Generic
from client.report.methods import MARK, methods_text, settings_table
from client.report.reading_votes import ScoredStrips
from common.config import Section, Settings, TrainingSettings, make_settings


def generic(round_: int, rounds: int, decayed: bool = False) -> Generic:
    return Generic("main", None, [], None, round_, rounds, decayed, 12)


def text(settings: Settings, one: Generic | None = None, scored: ScoredStrips | None = None) -> str:
    told = methods_text(settings, [one] if one else [], scored or ScoredStrips())
    return " ".join(sentence for _, sentence in told).replace("\u202f", " ")


def count_settings(section: Section) -> int:
    values = [getattr(section, name) for name in type(section).model_fields]
    return sum(count_settings(one) if isinstance(one, Section) else 1 for one in values)


def test_every_setting_is_listed_with_its_meaning() -> None:
    settings = make_settings()
    table = settings_table(settings, ScoredStrips())
    listed = [row for number, row in enumerate(table.rows) if number not in table.strong]
    assert len(listed) == count_settings(settings)
    assert all(row[3] for row in listed)
    assert not table.marked


def test_what_differs_from_the_default_is_marked_and_nothing_else() -> None:
    changes = {"personalization": {"gap_s": 7200.0}, "quality": {"max_sample_entropy": -1.25}, "seed": 7}
    table = settings_table(make_settings(overrides=changes), ScoredStrips())
    assert [table.rows[number] for number in table.marked] == [
        [f"  seed {MARK}", "7", "0", "Seed of every random stream"],
        [f"  max_sample_entropy {MARK}", "−1.25", "−1", "Atrial fibrillation above this CosEn"],
        [
            f"  gap_s {MARK}", "7200 (2\u202fh)", "21600 (6\u202fh)",
            "Time between the last training and first test strip",
        ],
    ]  # fmt: skip


def test_small_numbers_are_written_out_and_words_are_words() -> None:
    rows = {row[0].strip(): row[1] for row in settings_table(make_settings(), ScoredStrips()).rows}
    assert rows["paper_learning_rate"] == "0.00005"
    assert rows["split"] == "6 : 2 : 2"
    assert (rows["whole_blood"], rows["maintenance"]) == ("yes", "none")
    assert rows["protocols"] == "prospective, paper"


@pytest.mark.parametrize(
    ("section", "changes", "sentence"),
    [
        ("label", {"positive_above": 6.0}, "potassium above 6.0 mEq/L; negative: 3.5 to 5.0 mEq/L"),
        ("label", {"whole_blood": False}, "Only serum results count"),
        ("label", {"suspected_hemolysis": "exclude"}, "those a rule suspects are left out as well"),
        ("quality", {"reject": False}, "No strip and no beat is left out for its quality or rhythm"),
        ("cohort", {"split": (8.0, 0.0, 2.0)}, "(80 % training, 20 % test)"),
        ("personalization", {"freeze_through": "stage3"}, "layers up to the third stage stay as they are"),
        ("personalization", {"freeze_through": "none"}, "every layer is trained"),
        ("personalization", {"start": "continue"}, "each round from the model of the round before"),
        ("personalization", {"gap_s": 5400.0}, "lies before it by at least 1.5 h"),
        ("personalization", {"guard_pairs": 1}, "before 1 such pair."),
        ("personalization", {"protocols": ("prospective",)}, "Not run with these settings: the protocol of"),
    ],
)
def test_the_sentences_follow_the_settings(section: str, changes: dict[str, object], sentence: str) -> None:
    assert sentence not in text(make_settings())
    assert sentence in text(make_settings(overrides={section: changes}))


def test_training_is_what_the_coordinator_asked_for() -> None:
    """The site's own file says 1 pass; the federation ran 3 passes at natural balance."""
    asked = ScoredStrips({"main": TrainingSettings(local_epochs=3, balance="natural")})
    told = text(make_settings(), generic(4, 9), asked)
    assert "3 passes over up to 60 beats of every strip, labels weighing as often as they occur" in told
    rows = {row[0]: row[1] for row in settings_table(make_settings(), asked).rows}
    assert rows[f"  local_epochs {MARK}"] == "3"


@pytest.mark.parametrize(
    ("one", "how"),
    [
        (generic(4, 9), "round 4 of 9, chosen by the loss on validation patients"),
        (generic(9, 9, decayed=True), "round 9 of 9, the last of a decaying learning rate"),
        (generic(9, 9), "round 9 of 9."),
    ],
)
def test_how_the_generic_model_was_chosen(one: Generic, how: str) -> None:
    assert how in text(make_settings(), one)


def test_a_task_of_beats_has_no_word_about_potassium() -> None:
    settings = make_settings("ventricular")
    cells = " ".join(cell for row in settings_table(settings, ScoredStrips()).rows for cell in row)
    assert not re.search(
        "potassium|kalemia|meq|blood|draw", (cells + text(settings)).lower().replace("drawn", "")
    )
