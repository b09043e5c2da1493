"""The table of what the models look at: shares of one whole, and no change shown where there is none."""

from __future__ import annotations

import re
from copy import deepcopy

import numpy as np

from client.learning.explain import LabelledBeats, PatientExplanation, explain_both
from client.report.looking import attention_table
from common.config import ModelSettings
from common.model import build_model
from common.page.numbers import MISSING
from common.seeding import stream, torch_stream
from common.task import HYPERKALEMIA


def seen(changed: str, method: str, factor: float) -> PatientExplanation:
    """Explain two networks of which one array differs by a factor."""
    before = build_model(ModelSettings(width=4), torch_stream("looking")).eval()
    before.head.bias.data.fill_(0.1)
    after = deepcopy(before)
    after.get_parameter(changed).data.mul_(factor)
    beats = stream("looking").normal(0, 0.3, (12, 120)).astype(np.float32)
    data = LabelledBeats(beats, np.arange(12) % 3 == 0, np.full(12, 0.8))
    return explain_both(before, after, data, method, ("looking",), max_beats=6)


def test_before_and_after_are_shares_of_one_whole_beside_what_chance_gives() -> None:
    table = attention_table(seen("head.weight", "closed_form", -1.0), HYPERKALEMIA)
    assert table.head == ("", "P", "QRS", "ST-T", "elsewhere")
    assert [row[0] for row in table.rows] == [
        "hyperkalemia, if spread evenly", "  stage 2", "  stage 3", "  stage 4",
        "normokalemia, if spread evenly", "  stage 2", "  stage 3", "  stage 4",
    ]  # fmt: skip
    for number, row in enumerate(table.rows):
        values = np.array([[int(n) for n in re.findall(r"\d+", cell)] for cell in row[1:]])
        assert values.shape[1] == (1 if number in table.strong else 2)
        np.testing.assert_allclose(values.sum(0), 100, atol=2)  # rounded
    assert table.rows[0][1:] == ["19\u202f%", "13\u202f%", "43\u202f%", "25\u202f%"]


def test_a_threshold_shows_no_change() -> None:
    table = attention_table(seen("head.bias", "threshold", 2.0), HYPERKALEMIA)
    assert not any("→" in cell for row in table.rows for cell in row)
    assert "selected" not in table.caption


def test_a_model_without_evidence_has_dashes() -> None:
    table = attention_table(seen("head.weight", "closed_form", 0.0), HYPERKALEMIA)
    assert all(cell.endswith(f"→ {MISSING}") for cell in table.rows[1][1:])
