"""Write the reference pages whose content is in the code. ``make reference`` runs this.

A test compares the pages with what this writes, so they cannot go stale.
"""

from __future__ import annotations

import types
from pathlib import Path
from typing import Any, Union, get_args, get_origin

from client.data.exclusion import BEAT_REJECTION_TEXT, EXCLUSION_TEXT
from client.data.problems import PROBLEMS
from client.database.diagram import diagram
from common.config import make_settings
from common.errors import FedkalemiaError
from common.protocol import ALLOWED, FAILURES, LEDGER, Kind
from common.task import TASKS
from simulation.listing import settings_rows
from simulation.summary import (
    ControlFigures,
    Estimate,
    GenericFigures,
    PatientFigures,
    PersonalFigures,
    RunSummary,
    SiteSummary,
)

REFERENCE = Path(__file__).parent / "reference"


def pages() -> dict[str, str]:
    """Return file name -> content of every generated page."""
    return {
        "settings.md": settings_page(),
        "summary.md": summary_page(),
        "protocol.md": protocol_page(),
        "database.md": database_page(),
        "exclusions.md": exclusions_page(),
        **error_pages(),
    }


def settings_page() -> str:
    """List every setting, its default and meaning, and what each preset changes."""
    text = (
        "# Settings\n\nDefaults of the hyperkalemia task's `standard` preset. Change one with "
        "`--set section.key=value`, or in the `[settings]` section of a `site.toml`. An unknown key is an "
        "error that names the nearest known one.\n\n"
    )
    defaults = settings_rows(make_settings())
    text += table(("setting", "default", "meaning"), [(f"`{n}`", f"`{v}`", m) for n, v, m in defaults])
    text += "\n## Presets\n\nOnly what differs from the defaults above.\n"
    for task in TASKS.values():
        for preset in task.presets:
            rows = settings_rows(make_settings(task.name, preset))
            changed = [
                (f"`{name}`", f"`{value}`")
                for (name, value, _), (_, default, _) in zip(rows, defaults, strict=True)
                if value != default and name not in ("task", "preset")
            ]
            text += f"\n### {task.name}, `{preset}`\n\n"
            text += table(("setting", "value"), changed) if changed else "The defaults.\n"
    return text


def summary_page() -> str:
    """Describe the keys of summary.json."""
    text = (
        "# summary.json\n\nEvery run writes `summary.json` beside its pages. Figures are shares between 0 "
        "and 1; `null` stands for a number that does not exist, such as an AUC with one label only. Beat "
        "level and strip level are always named.\n"
    )
    models = (
        RunSummary, SiteSummary, GenericFigures, PersonalFigures, ControlFigures, Estimate, PatientFigures,
    )  # fmt: skip
    for model in models:
        text += f"\n## {model.__name__}\n\n{model.__doc__}\n\n"
        rows = [
            (f"`{name}`", f"`{type_name(info.annotation)}`", info.description or "")
            for name, info in model.model_fields.items()
        ]
        text += table(("key", "type", "meaning"), rows)
    return text


def protocol_page() -> str:
    """List every key of every message."""
    text = (
        "# What may cross the wire\n\nBoth sides check every message against this list; what is not listed "
        "cannot be sent and is refused on arrival. Keys are patterns. No beat, patient row, identifier, "
        "date or free text has a key. Weights are model parameters; they can still reveal training data "
        "(see the [threat model](../explanation/threat-model.md)).\n"
    )
    for message_type, directions in ALLOWED.items():
        for direction, records in directions.items():
            text += f"\n## {message_type}, {direction}\n\n"
            rows = []
            for record, keys in records.items():
                if record == "weights":
                    rows.append(("`weights`", "`trainable`, `statistics`", "float32 vectors"))
                rows += [(f"`{record}`", f"`{escape(key)}`", kind_name(kind)) for key, kind in keys.items()]
            text += table(("record", "key", "type and bounds"), rows)
    text += (
        "\n## With every reply of a deployment\n\nThe gate of a site adds the head of its "
        "[ledger](../explanation/egress-ledger.md). No request may carry it.\n\n"
    )
    rows = [("`ledger`", f"`{escape(key)}`", kind_name(kind)) for key, kind in LEDGER.items()]
    text += table(("record", "key", "type and bounds"), rows)
    text += (
        "\n## Failures\n\nInstead of any reply a site may answer one code. In a deployment the head of its "
        "ledger comes with it, as with every reply, and nothing else.\n\n"
    )
    return text + table(("code", "what the coordinator shows"), [(f"`{c}`", s) for c, s in FAILURES.items()])


def database_page() -> str:
    """Describe the site database."""
    return (
        "# Site database\n\nOne database per site: a SQLite file by default, PostgreSQL by URL "
        "(`FEDKALEMIA_DATABASE_URL`, or `site.database_url_file` in `site.toml`). Nothing in it leaves the "
        "building. Written from the table definitions.\n\n" + diagram().rstrip() + "\n"
    )


def exclusions_page() -> str:
    """List every reason why a draw or a strip is not used."""
    text = (
        "# Exclusion reasons\n\nEvery draw ends as a strip or with one of these reasons, and every reason "
        "is counted in the site report.\n\n"
    )
    text += table(("reason", "meaning"), [(f"`{c}`", t) for c, t in EXCLUSION_TEXT.items()])
    text += (
        "\n## Beats\n\nA beat of an accepted strip may be left out; every strip counts its own by reason.\n\n"
    )
    return text + table(("reason", "meaning"), [(f"`{c}`", t) for c, t in BEAT_REJECTION_TEXT.items()])


def error_pages() -> dict[str, str]:
    """Explain every error code on a page of its own, with a page that lists them."""
    pages, files, commands = {}, [], []
    for problem, told in PROBLEMS.items():
        files.append((f"[`{problem}`]({problem}.md)", told.what))
        pages[f"errors/{problem}.md"] = (
            f"# `{problem}`\n\n{told.what}\n\n## How it comes about\n\n{told.why}\n\n"
            f"## What to do\n\n{told.do}\n"
        )
    for kind in sorted(error_classes(), key=lambda one: one.code):
        what = " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        sentence = FAILURES.get(kind.code, "")
        commands.append((f"[`{kind.code}`]({kind.code}.md)", what))
        pages[f"errors/{kind.code}.md"] = (
            f"# `{kind.code}`\n\n{what}\n\nA command that meets it ends with exit code 2 and one sentence "
            "that says what is wrong, where, what is allowed and what to do next. Nothing is half-written: "
            "the same command goes on once the cause is gone.\n"
            + (
                f"\nAll that leaves the site is the code; the coordinator shows: *{sentence}*.\n"
                if sentence
                else ""
            )
        )
    pages["errors/index.md"] = (
        "# Errors\n\nA command that cannot go on ends with exit code 2 and one sentence. Where the files of "
        "a hospital are the cause, the sentence names file, line, what was found and what was expected, and "
        "ends with a code in brackets.\n\n## In a hospital's files\n\n"
        + table(("code", "meaning"), files)
        + "\n## Kinds of errors\n\nThese codes are what a coordinator is told of a site's failure; the "
        "sentence stays at the site.\n\n" + table(("code", "meaning"), commands)
    )
    return pages


def error_classes() -> set[type[FedkalemiaError]]:
    """Return every kind of error that has a code of its own."""
    found: set[type[FedkalemiaError]] = set()
    todo: list[type[FedkalemiaError]] = [FedkalemiaError]
    while todo:
        kind = todo.pop()
        todo += kind.__subclasses__()
        if "code" in vars(kind):
            found.add(kind)
    return found


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """Return a Markdown table."""
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def escape(text: str) -> str:
    """Keep a pattern's bars from ending a table cell."""
    return text.replace("|", r"\|")


def kind_name(kind: Kind) -> str:
    """Return a type with its bounds."""
    if kind.pattern is not None:
        return f"text, `{escape(kind.pattern.pattern)}`"
    name = kind.type.__name__ + (f", list of at most {kind.length}" if kind.length else "")
    return name if kind.type is bool else f"{name}, {kind.low:g} to {kind.high:g}"


def type_name(annotation: Any) -> str:
    """Return a type as a reader writes it."""
    if get_origin(annotation) in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else type_name(a) for a in get_args(annotation))
    if get_args(annotation):
        inner = ", ".join(type_name(argument) for argument in get_args(annotation))
        return f"{get_origin(annotation).__name__}[{inner}]"
    return str(getattr(annotation, "__name__", annotation))


if __name__ == "__main__":
    (REFERENCE / "errors").mkdir(exist_ok=True)
    for name, content in pages().items():
        (REFERENCE / name).write_text(content)
