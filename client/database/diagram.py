"""The entity diagram and the table of columns, written from the tables themselves."""

from __future__ import annotations

import inspect

from sqlalchemy import JSON, BigInteger, Column, Integer, Table
from sqlalchemy.types import TypeEngine

from client.database.tables import Base, Number, Text, Timestamp


def diagram() -> str:
    """Return Markdown: a Mermaid diagram of all tables, and each table with its columns and their docs."""
    tables = list(Base.metadata.tables.values())  # in the order they are written
    docs = {
        str(mapper.class_.__tablename__): inspect.cleandoc(mapper.class_.__doc__ or "")
        for mapper in Base.registry.mappers
    }
    parts = ["```mermaid", "erDiagram", *_relations(tables), *_boxes(tables), "```"]
    for table in tables:
        parts += ["", f"## {table.name}", "", *docs[table.name].splitlines(), "", *_columns(table)]
    return "\n".join(parts) + "\n"


def type_name(kind: TypeEngine[object]) -> str:
    """Return a column's type as a reader writes it."""
    if isinstance(kind, Text):
        return f"text({getattr(kind.impl_instance, 'length', None)})"
    names = {Number: "number", Timestamp: "time", JSON: "json", BigInteger: "long", Integer: "integer"}
    return next(name for python, name in names.items() if isinstance(kind, python))


def _relations(tables: list[Table]) -> list[str]:
    """Return one line per foreign key: many rows (or at most one) here point at one row there (or none)."""
    lines = []
    for table in tables:
        for column in table.columns:
            for foreign in column.foreign_keys:
                one = "|o" if column.nullable else "||"
                many = "o|" if column.unique else "o{"
                lines.append(f'    {foreign.column.table.name} {one}--{many} {table.name} : "{column.name}"')
    return lines


def _boxes(tables: list[Table]) -> list[str]:
    lines = []
    for table in tables:
        lines.append(f"    {table.name} {{")
        for column in table.columns:
            name = type_name(column.type).split("(")[0]
            lines.append(f"        {name} {column.name}{_keys(column)}")
        lines.append("    }")
    return lines


def _keys(column: Column[object]) -> str:
    keys = [
        word
        for word, holds in (
            ("PK", column.primary_key),
            ("FK", bool(column.foreign_keys)),
            ("UK", bool(column.unique)),
        )
        if holds
    ]
    return " " + ", ".join(keys) if keys else ""


def _columns(table: Table) -> list[str]:
    lines = ["| column | type | may be null | meaning |", "| --- | --- | --- | --- |"]
    for column in table.columns:
        points = [f"→ `{foreign.target_fullname}`" for foreign in column.foreign_keys]
        meaning = ". ".join(text for text in (column.doc or "", *points) if text)
        null = "yes" if column.nullable else ""
        lines.append(f"| `{column.name}` | {type_name(column.type)} | {null} | {meaning} |")
    return lines
