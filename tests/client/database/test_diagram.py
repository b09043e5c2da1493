"""The documented schema is the schema."""

from __future__ import annotations

from pathlib import Path

import pytest

from client.database.diagram import diagram
from client.database.tables import Base

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "database.md"


def test_the_reference_page_is_up_to_date() -> None:
    assert diagram().strip() in PAGE.read_text(), "stale page: run 'make reference'"


@pytest.mark.parametrize("table", Base.metadata.sorted_tables, ids=lambda table: str(table.name))
def test_every_table_and_column_is_described(table: object) -> None:
    name, columns = table.name, table.columns  # type: ignore[attr-defined]
    section = diagram().split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
    for column in columns:
        assert f"| `{column.name}` |" in section


def test_every_foreign_key_is_a_line_between_two_tables() -> None:
    lines = [line.split() for line in diagram().splitlines() if "--" in line and ' : "' in line]
    drawn = {(line[0], line[2]) for line in lines}
    keys = [key for table in Base.metadata.tables.values() for key in table.foreign_keys]
    assert drawn == {(key.column.table.name, key.parent.table.name) for key in keys}
    assert len(lines) == len(keys)
