"""No identifier leaves: a whole federation on marked sites, with every failure a handler can meet.

Searched are every message, every record of every logger at the lowest level, what the processes print, the
sites' own logs, the ledgers and the coordinator's folder. ``tests/support/markers.py`` marks and searches.
"""

from __future__ import annotations

import base64
import importlib.util
import json
import logging
import shutil
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import flwr.supercore.inflatable.inflatable_object as inflatable
import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from flwr.supercore.task_identity import TaskIdentity

from client.app import app as client_app
from client.gate.audit import examine
from client.gate.door import leave
from client.gate.ledger import Head, ledger_of, make_key
from client.site import Site, load_site
from common import protocol
from common.files import write_json
from common.logs import PlainReporter, use_reporter
from common.model import build_model
from common.protocol import RoundPlan, RunPlan
from common.seeding import torch_stream
from common.weights import pack, schema_of
from server.app import app as server_app
from simulation.grid import InProcessGrid, run_in_process

SITES = ("north", "south", "west")
SETTINGS = {"federation": {"rounds": 2}}


def support(name: str) -> ModuleType:
    """Load a module of the tests' support folder, once."""
    known = f"fedkalemia_test_{name}"
    if known not in sys.modules:
        path = Path(__file__).parents[1] / "support" / f"{name}.py"
        spec = importlib.util.spec_from_file_location(known, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


marking = support("markers")


@dataclass
class Heard:
    """All that was sent and logged."""

    pieces: list[tuple[str, bytes]] = field(default_factory=list)
    records: list[logging.LogRecord] = field(default_factory=list)

    def message(self, what: str, message: Message) -> None:
        """Keep a message as the engine would send it."""
        self.pieces.append((what, repr(message.metadata).encode()))
        if message.has_error():
            self.pieces.append((what, repr(message.error).encode()))
            return
        self.pieces.append((what, repr(message.content).encode()))
        with inflatable.no_object_id_recompute():
            for one in inflatable.get_all_nested_objects(message.content).values():
                self.pieces.append((what, one.deflate()))

    def logged(self) -> Iterator[tuple[str, bytes]]:
        """Yield every log record with its traceback."""
        form = logging.Formatter("%(name)s %(levelname)s %(message)s")
        for record in self.records:
            yield f"log {record.name} ({record.pathname}:{record.lineno})", form.format(record).encode()


@contextmanager
def everything_logged(heard: Heard) -> Iterator[None]:
    """Keep every record of every logger, as if somebody had turned all of them to the lowest level."""
    factory, root = logging.getLogRecordFactory(), logging.getLogger()

    def keep(*arguments: Any, **named: Any) -> logging.LogRecord:
        record = factory(*arguments, **named)
        heard.records.append(record)
        return record

    loggers = [root, logging.getLogger("flwr"), logging.getLogger("fedkalemia")]
    levels = [logger.level for logger in loggers]
    logging.setLogRecordFactory(keep)
    for logger in loggers:
        logger.setLevel(logging.DEBUG)
    quiet = logging.NullHandler()
    root.addHandler(quiet)
    try:
        yield
    finally:
        root.removeHandler(quiet)
        logging.setLogRecordFactory(factory)
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


class Gated(ClientApp):
    """The site's app behind its door, as the executor of a deployment has it."""

    def __init__(self, heard: Heard) -> None:
        super().__init__()
        self._heard = heard

    def __call__(self, message: Message, context: Context) -> Message:
        kind = message.metadata.message_type
        self._heard.message(f"request {kind}", message)
        folder = Path(str(context.node_config["site-folder"]))
        reply = client_app(message, context)
        if (folder / "site.toml").is_file() and (folder / "gate").is_dir():
            try:
                reply = leave(load_site(folder), message, reply)
            except Exception as error:  # a site.toml that cannot be read: the executor sends nothing then
                self._heard.pieces.append((f"error at the door of {kind}", repr(error).encode()))
        self._heard.message(f"reply {kind}", reply)
        return reply


@pytest.fixture(scope="module")
def sites(tiny_site_factory: Callable[..., Site], tmp_path_factory: pytest.TempPathFactory) -> list[Site]:
    folder = tmp_path_factory.mktemp("marked")
    made = [
        marking.make_marked_site(
            tiny_site_factory, folder / name, name, generic=5, personal=1, settings=SETTINGS
        )
        for name in SITES
    ]
    for site in made:
        make_key(site.gate_folder)
    return made


def federate(sites: list[Site], out: Path, heard: Heard) -> dict[str, Any]:
    write_json(out / "settings.json", sites[0].settings.model_dump(mode="json"))
    config = {"out": str(out), "settings": str(out / "settings.json")}
    nodes = [{"site-folder": str(site.folder)} for site in sites]
    with everything_logged(heard):
        run_in_process(server_app, Gated(heard), nodes, config)
    story: dict[str, Any] = json.loads((out / "server.json").read_text())
    return story


def nothing_found(heard: Heard, sites: list[Site], out: Path | None, capfd: Any) -> None:
    """Search everything for everything."""
    marks = marking.markers()
    hits = [hit for where, data in (*heard.pieces, *heard.logged()) for hit in marks.found(data, where)]
    printed = capfd.readouterr()
    hits += marks.found(printed.out, "standard output") + marks.found(printed.err, "standard error")
    own = [path for site in sites for path in (site.log, site.gate_folder)]
    hits += marks.in_files([*own, *([out] if out else [])])
    assert not hits, marking.left_in(hits)


# --- the search finds what it is for ------------------------------------------------------------------------


def test_the_search_finds_every_spelling(tmp_path: Path) -> None:
    marks, day = marking.markers(), datetime(2187, 6, 4)
    secrets = [
        "patient MARK-7781-north-001",
        "mark-7781",
        "{'source_row': 'MARKROW-17'}",
        "/data/p77/p077810-note-of-mrs-marker-3.hea",
        "2187-06-04T04:17:29",
        "04.06.2187",
        "06/04/2187",
        "21870604",
        "June 4, 2187",
        "4 Jun 2187",
        repr(day),
        str(int(datetime.fromisoformat("2187-06-04T04:17:29+00:00").timestamp())),
        b"MARK-7781".hex(),
        *(base64.b64encode(b"x" * n + b"MARK-7781-north-001").decode() for n in range(3)),
    ]
    for secret in secrets:
        assert marks.found(f"a line with {secret} in it"), secret
    (tmp_path / "MARK-7781.txt").write_text("")
    assert marks.in_files([tmp_path])
    for harmless in (
        "2026-11-22 20:25:00",
        "218706041",
        "ab21870604cd",
        "round 2187",
        "0.21870604",
        "remark",
    ):
        assert not marks.found(harmless), harmless


def test_the_sites_do_hold_what_is_searched_for(sites: list[Site]) -> None:
    assert marking.markers().in_files([sites[0].folder / "site.sqlite"])


# --- a federation that goes well ----------------------------------------------------------------------------


def test_a_whole_federation_leaves_no_trace_of_a_patient(
    sites: list[Site], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    heard = Heard()
    use_reporter(PlainReporter())
    try:
        story = federate(sites, tmp_path / "out", heard)
    finally:
        use_reporter(None)
    assert story["status"] == "finished"
    assert sorted(story["personalize"]) == list(SITES)
    for site in sites:
        heads = [Head(told["entries"], told["head"]) for told in story["ledgers"][site.name]]
        assert heads
        found = examine(ledger_of(site.gate_folder), heads)
        assert (found.findings, found.notes) == ([], [])
        assert found.entries >= 5  # hello, two rounds, an evaluation, a personalization
    kinds = {where for where, _ in heard.pieces}
    assert {f"{way} {kind}" for way in ("request", "reply") for kind in protocol.ALLOWED} <= kinds
    assert heard.records
    nothing_found(heard, sites, tmp_path / "out", capfd)


# --- every failure a handler can meet -----------------------------------------------------------------------


def sql(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "site.sqlite")
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def tables(folder: Path) -> list[str]:
    connection = sqlite3.connect(folder / "site.sqlite")
    found = connection.execute("select name from sqlite_master where type = 'table'").fetchall()
    connection.close()
    return [name for (name,) in found if name != "alembic_version"]


def refuse_rows(folder: Path) -> None:
    """Let the database refuse every new and changed row, with the row in its error."""
    for table in tables(folder):
        for what in ("insert", "update"):
            sql(
                folder,
                f"create trigger no_{what}_{table} before {what} on {table} "
                "begin select raise(abort, 'refused'); end",
            )


def edit(folder: Path, old: str, new: str) -> None:
    path = folder / "site.toml"
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def replace_models(folder: Path) -> None:
    for path in (folder / "models").rglob("*.safetensors"):
        path.write_bytes(b"MARK-7781" * 9)


DAMAGES: dict[str, Callable[[Path], object]] = {
    "no beats": lambda folder: (folder / "beats" / "beats.f32").unlink(),
    "beats cut": lambda folder: (folder / "beats" / "beats.f32").write_bytes(b"short"),
    "other beats": lambda folder: (folder / "beats" / "beats.json").write_text('{"format": 7781}'),
    "beats header is a text": lambda folder: (folder / "beats" / "beats.json").write_text("MARK-7781"),
    "beats beyond the file": lambda folder: sql(folder, "update strips set beat_offset = 99999999"),
    "beats without a place": lambda folder: sql(folder, "update strips set beat_offset = null"),
    "database gone": lambda folder: (folder / "site.sqlite").unlink(),
    "no database": lambda folder: (folder / "site.sqlite").write_bytes(b"MARK-7781 is no database" * 99),
    "database cut": lambda folder: (folder / "site.sqlite").write_bytes(
        (folder / "site.sqlite").read_bytes()[:30_000]
    ),
    "other schema": lambda folder: sql(folder, "update alembic_version set version_num = '7781'"),
    "table gone": lambda folder: sql(folder, "drop table strips"),
    "column gone": lambda folder: sql(folder, "alter table strips rename column n_beats to MARKROW"),
    "rows refused": refuse_rows,
    "dates are texts": lambda folder: sql(folder, "update strips set start = 'MARK-7781-' || id"),
    "a column is a text": lambda folder: sql(folder, "update cohort_members set n_positive = 'MARK-7781'"),
    "quality is a text": lambda folder: sql(folder, "update strips set quality = 'MARK-7781'"),
    "label is another": lambda folder: sql(
        folder, "pragma ignore_check_constraints = on", "update strips set label = 'MARKROW-1'"
    ),
    "no members": lambda folder: sql(folder, "delete from cohort_members"),
    "no site file": lambda folder: (folder / "site.toml").unlink(),
    "unknown key": lambda folder: edit(folder, "[site]", '[site]\nward = "MARK-7781"'),
    "bad value": lambda folder: edit(folder, "rounds = 2", 'rounds = "many"'),
    "no text": lambda folder: (folder / "site.toml").write_bytes(b"\xff MARK-7781"),
    "models not a folder": lambda folder: (
        shutil.rmtree(folder / "models", ignore_errors=True),
        (folder / "models").write_text("MARK-7781"),
    ),
    "models damaged": replace_models,
}

#: What no handler trips over; nothing may come of it all the same.
SURVIVED = ("quality is a text", "no members", "models damaged")


def requests(site: Site) -> list[tuple[str, RecordDict]]:
    network = build_model(site.settings.model, torch_stream("test"))
    weights, schema = pack(network), schema_of(network).digest
    run = RunPlan("main", 0, schema, site.settings.preprocessing_digest(), site.settings.model)
    rounds = RoundPlan(**vars(run), round=1, train=True, training=site.settings.training)
    last = RoundPlan(**vars(run), round=2, train=False, training=site.settings.training)
    hello = {"protocol": protocol.VERSION, "software": protocol.software()}
    return [
        (protocol.HELLO, RecordDict({"config": ConfigRecord({**hello})})),
        (protocol.ROUND, protocol.request(rounds, weights)),
        (protocol.EVALUATE, protocol.request(last, weights)),
        (protocol.PERSONALIZE, protocol.request(run, weights)),
        (protocol.PERSONALIZE, RecordDict({"config": ConfigRecord({"MARK-7781": "MARKROW-1"})})),
        ("query.mark", RecordDict()),
    ]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_failure_leaves_no_trace_of_a_patient(
    damage: str,
    sites: list[Site],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = load_site(Path(shutil.copytree(sites[0].folder, tmp_path / "north")))
    site.log.unlink(missing_ok=True)
    sent = requests(site)
    DAMAGES[damage](site.folder)
    heard = Heard()
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    context = Context(1, 2, {"site-folder": str(site.folder)}, RecordDict(), {})
    codes = []
    with everything_logged(heard):
        for kind, content in sent:
            reply = Gated(heard)(Message(content, 2, kind), context)
            codes.append(protocol.failure_code(reply.content))
    assert codes[-2:] == ["bad_message", "task_refused"] or damage in ("no site file",)
    assert any(codes[:4]) != (damage in SURVIVED)
    # What was asked holds a marker here, which is not this site's doing.
    heard.pieces = [(where, data) for where, data in heard.pieces if not where.startswith("request")]
    nothing_found(heard, [site], None, capfd)


@pytest.mark.usefixtures("capfd")
def test_a_message_that_no_handler_survives_leaves_its_error_at_home(
    sites: list[Site], tmp_path: Path
) -> None:
    """A node whose handler raises is answered by the engine with the text of the error."""
    heard = Heard()

    def fail(node: int, message: Message) -> None:
        raise ValueError("MARK-7781")

    write_json(tmp_path / "settings.json", sites[0].settings.model_dump(mode="json"))
    config = {"out": str(tmp_path / "out"), "settings": str(tmp_path / "settings.json")}
    nodes = [{"site-folder": str(site.folder)} for site in sites]
    with everything_logged(heard), pytest.raises(Exception, match="sites"):
        run_in_process(server_app, Gated(heard), nodes, config, before=fail)
    hits = [hit for where, data in heard.logged() for hit in marking.markers().found(data, where)]
    assert not hits + marking.markers().in_files([tmp_path / "out"])
    assert InProcessGrid is not None
