"""The egress ledger: what it holds, what it survives, and that nothing can be done to it unseen."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from client.gate import audit
from client.gate.audit import examine, verify
from client.gate.entry import canonical, parsed
from client.gate.ledger import Head, Ledger, ledger_of, make_key, record
from common import protocol
from common.errors import LedgerError
from common.weights import Weights

WHEN = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
WEIGHTS = Weights(np.arange(6, dtype=np.float32), np.ones(2, np.float32))


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    make_key(tmp_path / "gate")
    return tmp_path / "gate"


def fill(gate: Path, entries: int, first: int = 0) -> list[Head]:
    """Write down that many replies and return the head after each."""
    ledger = ledger_of(gate)
    return [
        record(
            ledger,
            protocol.ROUND,
            7,
            protocol.reply({"train-beats": n, "train-loss-total": n / 7}, WEIGHTS if n % 2 else None),
            WHEN + timedelta(minutes=n),
            f"message-{n}",
        )
        for n in range(first, first + entries)
    ]


def lines(gate: Path) -> list[bytes]:
    path = gate / "ledger.jsonl"
    return path.read_bytes().splitlines(keepends=True) if path.exists() else []


# --- what an entry holds ----------------------------------------------------------------------------------


def test_an_entry_says_what_left_when_and_for_whom(gate: Path) -> None:
    content = protocol.reply({"train-beats": 5, "train-loss-total": 0.25}, WEIGHTS)
    head = record(ledger_of(gate), protocol.ROUND, 2**63 + 1, content, WHEN, "abc")
    (line,) = lines(gate)
    entry = json.loads(line)
    assert (entry["entry"], entry["time"], entry["run"]) == (1, "2026-03-01T12:00:00.000Z", 2**63 + 1)
    assert (entry["type"], entry["message"], entry["previous"]) == (protocol.ROUND, "abc", "0" * 64)
    assert entry["records"]["metrics"] == {
        "train-beats": {"type": "int", "bytes": 1, "sha256": sha256(b"5").hexdigest(), "value": 5},
        "train-loss-total": {
            "type": "float",
            "bytes": 4,
            "sha256": sha256(b"0.25").hexdigest(),
            "value": 0.25,
        },
    }
    assert entry["records"]["weights"]["trainable"] == {
        "type": "float32",
        "shape": [6],
        "bytes": 24,
        "sha256": sha256(WEIGHTS.trainable.tobytes()).hexdigest(),
    }
    assert entry["bytes"] == 1 + 4 + 24 + 8
    assert head == Head(1, sha256(line.rstrip(b"\n")).hexdigest(), len(line))


def test_lists_failures_and_what_should_never_leave_can_be_written_down(gate: Path) -> None:
    odd = RecordDict(
        {
            "metrics": MetricRecord({"histogram": [1, 2, 3], "nan": float("nan"), "empty": []}),
            "config": ConfigRecord({"text": "é", "bytes": b"\xff", "flag": True, "huge": 2**80}),
            "weights": ArrayRecord([np.zeros((2, 2))]),
        }
    )
    record(ledger_of(gate), "query.other", 1, odd, WHEN)
    record(ledger_of(gate), protocol.HELLO, 1, protocol.failure("bad_cohort"), WHEN)
    assert verify(gate) == []
    first, second = (json.loads(line)["records"] for line in lines(gate))
    assert first["metrics"]["histogram"]["value"] == [1, 2, 3]
    assert first["metrics"]["nan"]["value"] == "nan"
    assert "value" not in first["config"]["bytes"]
    assert first["weights"]["0"]["shape"] == [2, 2]
    assert second["failure"]["code"]["value"] == "bad_cohort"


def test_the_same_replies_give_the_same_chain_with_the_same_key_only(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        make_key(tmp_path / name)
    for name in ("ledger.key", "ledger.head"):
        shutil.copy(tmp_path / "a" / name, tmp_path / "b" / name)
    a, b, c = (fill(tmp_path / name, 3) for name in ("a", "b", "c"))
    assert a == b
    assert {head.digest for head in a}.isdisjoint(head.digest for head in c)


def test_an_entry_costs_the_same_however_long_the_ledger_is(gate: Path) -> None:
    """Appending reads the head and no entry: it works on a file whose entries are gone, sparse and huge."""
    (before,) = fill(gate, 1)
    ledger = ledger_of(gate)
    size = 4 * 2**40
    with (gate / "ledger.jsonl").open("r+b") as file:
        file.truncate(size)
    values = {"entries": 1, "digest": before.digest, "size": size}
    ledger.head_path.write_bytes(canonical({**values, "mac": ledger.sealed(values)}) + b"\n")
    assert fill(gate, 1)[0].entries == 2


# --- the key ----------------------------------------------------------------------------------------------


def test_the_key_is_random_its_owners_only_and_never_replaced(gate: Path) -> None:
    key = gate / "ledger.key"
    assert key.stat().st_mode & 0o777 == 0o600
    before = key.read_bytes()
    assert len(before) == 32
    make_key(gate)
    assert key.read_bytes() == before


def test_an_empty_key_is_made_again_as_long_as_nothing_was_written_with_it(gate: Path) -> None:
    key = gate / "ledger.key"
    key.write_bytes(b"")
    key.chmod(0o644)
    make_key(gate)
    assert len(key.read_bytes()) == 32
    assert key.stat().st_mode & 0o777 == 0o600
    assert {path.name for path in gate.iterdir()} == {"ledger.key", "ledger.head"}
    assert verify(gate) == []
    fill(gate, 1)
    key.write_bytes(b"")
    with pytest.raises(LedgerError, match="gone or empty"):
        make_key(gate)


def test_a_missing_open_or_short_key_is_refused_in_a_sentence(gate: Path) -> None:
    fill(gate, 1)
    before = (gate / "ledger.jsonl").read_bytes()
    key = gate / "ledger.key"
    for mode in (0o640, 0o604, 0o620, 0o666):
        key.chmod(mode)
        with pytest.raises(LedgerError, match=r"chmod 600"):
            ledger_of(gate)
    key.chmod(0o600)
    key.write_bytes(b"short")
    with pytest.raises(LedgerError, match="5 bytes"):
        ledger_of(gate)
    key.unlink()
    with pytest.raises(LedgerError, match="does not exist"):
        ledger_of(gate)
    with pytest.raises(LedgerError, match="restore the key"):
        make_key(gate)  # a new key beside old entries would make them unverifiable
    key.mkdir()
    key.chmod(0o700)
    with pytest.raises(LedgerError):
        ledger_of(gate)
    assert (gate / "ledger.jsonl").read_bytes() == before


# --- what it survives -------------------------------------------------------------------------------------


def test_a_process_that_dies_between_entry_and_head_leaves_a_ledger_that_verifies(gate: Path) -> None:
    fill(gate, 2)
    head = (gate / "ledger.head").read_bytes()
    fill(gate, 1, 2)
    (gate / "ledger.head").write_bytes(head)
    found = examine(ledger_of(gate))
    assert (found.entries, found.findings) == (3, [])
    assert len(found.notes) == 1
    assert "entry 3" in found.notes[0]
    assert fill(gate, 1, 3)[0].entries == 4
    found = examine(ledger_of(gate))
    assert (found.entries, found.findings, found.notes) == (4, [], [])


@pytest.mark.parametrize("keep", [1, 40, -1])
def test_a_torn_line_is_noted_then_removed_and_the_removal_is_itself_an_entry(gate: Path, keep: int) -> None:
    fill(gate, 2)
    whole, head = (gate / "ledger.jsonl").read_bytes(), (gate / "ledger.head").read_bytes()
    fill(gate, 1, 2)
    torn = (gate / "ledger.jsonl").read_bytes()[len(whole) :][:keep]
    (gate / "ledger.jsonl").write_bytes(whole + torn)
    (gate / "ledger.head").write_bytes(head)
    found = examine(ledger_of(gate))
    assert (found.entries, found.findings) == (2, [])
    assert "torn line" in found.notes[0]
    assert fill(gate, 1, 3)[0].entries == 4
    found = examine(ledger_of(gate))
    assert (found.entries, found.findings) == (4, [])
    assert f"entry 3: stands for a torn line of {len(torn)} bytes" in found.notes[0]
    assert json.loads(lines(gate)[2])["torn"]["sha256"] == sha256(torn).hexdigest()


KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from client.gate.ledger import ledger_of, record
from common import protocol
ledger = ledger_of(Path(sys.argv[1]))
print("ready", flush=True)
while True:
    record(ledger, protocol.ROUND, 1, protocol.reply({"seconds": 1.0}), datetime.now(UTC))
"""


def test_killed_at_any_moment_the_ledger_verifies_and_goes_on(gate: Path) -> None:
    for more, delay_s in enumerate((0.0, 0.013, 0.031, 0.05)):
        before = examine(ledger_of(gate)).entries
        process = subprocess.Popen([sys.executable, "-c", KILLED, str(gate)], stdout=subprocess.PIPE)
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        until = time.monotonic() + 60
        while len(lines(gate)) <= before + more:
            assert time.monotonic() < until, "the process writes nothing"
        time.sleep(delay_s)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
        process.stdout.close()
        assert verify(gate) == []
        written = examine(ledger_of(gate)).entries
        assert written > before
        assert fill(gate, 1)[0].entries >= written + 1
        assert verify(gate) == []


FULL = """
import resource, sys
from pathlib import Path
from client.gate.ledger import ledger_of, record
from common import protocol
from common.errors import LedgerError
from datetime import UTC, datetime
ledger = ledger_of(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    record(ledger, protocol.ROUND, 1, protocol.reply({"seconds": 1.0}), datetime.now(UTC))
except LedgerError as error:
    print(error)
"""


@pytest.mark.parametrize("more", [-600, 0, 1, 100])
def test_a_full_disk_is_a_sentence_and_leaves_the_ledger_as_it_was(gate: Path, more: int) -> None:
    fill(gate, 3)
    before = {path.name: path.read_bytes() for path in gate.iterdir()}
    size = str(len(before["ledger.jsonl"]) + more)
    command = [sys.executable, "-c", FULL, str(gate), size]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    assert "nothing leaves this site" in done.stdout
    assert {path.name: path.read_bytes() for path in gate.iterdir()} == before
    assert fill(gate, 1)[0].entries == 4


def test_a_head_that_cannot_be_written_takes_its_entry_back(
    gate: Path,
) -> None:
    fill(gate, 2)
    before = {path.name: path.read_bytes() for path in gate.iterdir()}
    # Standard streams and the file of entries are open; there is no handle left for the head.
    limit = "resource.RLIMIT_NOFILE, (4, resource.getrlimit(resource.RLIMIT_NOFILE)[1])"
    code = FULL.replace("resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY)", limit)
    command = [sys.executable, "-c", code, str(gate)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert "nothing leaves this site" in done.stdout, done.stderr
    assert {path.name: path.read_bytes() for path in gate.iterdir()} == before


def _write(gate: str, count: int) -> None:
    fill(Path(gate), count)


def test_two_processes_never_interleave(gate: Path) -> None:
    context = multiprocessing.get_context("fork")  # with the imports done: all begin at once
    workers = [context.Process(target=_write, args=(str(gate), 30)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(120)
        assert worker.exitcode == 0
    found = examine(ledger_of(gate))
    assert (found.entries, found.findings) == (90, [])


@pytest.mark.parametrize(
    "damage",
    [
        lambda gate: (gate / "ledger.head").unlink(),
        lambda gate: (gate / "ledger.head").write_bytes(b"{}\n"),
        lambda gate: (gate / "ledger.jsonl").write_bytes(b"".join(lines(gate)[:-1])),
        lambda gate: (gate / "ledger.jsonl").unlink(),
        lambda gate: (gate / "ledger.jsonl").write_bytes(b"".join(lines(gate) + lines(gate)[-2:])),
    ],
    ids=["no head", "other head", "cut", "gone", "longer"],
)
def test_nothing_is_added_to_a_damaged_ledger(gate: Path, damage: Callable[[Path], None]) -> None:
    fill(gate, 3)
    damage(gate)
    before = {path.name: path.read_bytes() for path in gate.iterdir() if path.stat().st_size}
    with pytest.raises(LedgerError, match="nothing leaves"):
        fill(gate, 1)
    assert {path.name: path.read_bytes() for path in gate.iterdir() if path.stat().st_size} == before


# --- what is found ----------------------------------------------------------------------------------------

ENTRIES = 6


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Head]]:
    folder = tmp_path_factory.mktemp("written") / "gate"
    make_key(folder)
    return folder, fill(folder, ENTRIES)


def changed(written: Path, content: bytes, head: bytes | None = None) -> list[str]:
    """Return what is found when the file of entries is another."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(written, folder, dirs_exist_ok=True)
        (Path(folder) / "ledger.jsonl").write_bytes(content)
        if head is not None:
            (Path(folder) / "ledger.head").write_bytes(head)
        return [str(finding) for finding in verify(Path(folder))]


def test_a_clean_ledger_reports_nothing_with_all_anchors(written: tuple[Path, list[Head]]) -> None:
    folder, heads = written
    for anchors in ([], heads, heads[2:3]):
        found = examine(ledger_of(folder), anchors)
        assert (found.findings, found.notes) == ([], [])
        assert (found.entries, found.digest) == (ENTRIES, heads[-1].digest)


@settings(max_examples=30, deadline=None)
@given(entries=st.integers(0, 5), data=st.data())
def test_whatever_was_written_verifies(entries: int, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        gate = Path(name)
        make_key(gate)
        ledger = ledger_of(gate)
        for _ in range(entries):
            metrics = data.draw(
                st.dictionaries(st.text(max_size=9), st.one_of(st.integers(-(2**63), 2**63), st.floats()))
            )
            record(
                ledger,
                data.draw(st.text(max_size=9)),
                1,
                RecordDict({"metrics": MetricRecord(metrics)}),
                WHEN,
            )
        found = examine(ledger)
        assert (found.entries, found.findings, found.notes) == (entries, [], [])


@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_one_other_byte_anywhere_is_found_and_its_entry_named(
    written: tuple[Path, list[Head]], data: st.DataObject
) -> None:
    folder, _ = written
    whole = bytearray((folder / "ledger.jsonl").read_bytes())
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(1, 255))
    entry = whole[:place].count(b"\n") + 1
    whole[place] ^= other
    found = changed(folder, bytes(whole))
    assert found
    assert any(f"{entry}" in line for line in found)


@settings(max_examples=200, deadline=None)
@given(data=st.data())
def test_entries_removed_repeated_moved_or_cut_are_found(
    written: tuple[Path, list[Head]], data: st.DataObject
) -> None:
    folder, _ = written
    own = lines(folder)
    a, b = (data.draw(st.integers(0, ENTRIES - 1)) for _ in range(2))
    how = data.draw(st.sampled_from(["remove", "repeat", "move", "swap", "cut", "blank", "cut inside"]))
    if how == "remove":
        new = own[:a] + own[max(a, b) + 1 :]
    elif how == "repeat":
        new = [*own[:a], own[b], *own[a:]]
    elif how == "move":
        new = [*own[:a], *own[a + 1 :]]
        new.insert(b, own[a])
    elif how == "swap":
        new = list(own)
        new[a], new[b] = new[b], new[a]
    elif how == "cut":
        new = own[:a]
    elif how == "blank":
        new = [*own[:a], b"\n", *own[a:]]
    else:
        new = [b"".join(own)[: data.draw(st.integers(0, sum(map(len, own)) - 1))]]
    if b"".join(new) == b"".join(own):
        return
    assert changed(folder, b"".join(new))


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_a_head_that_is_not_the_gates_is_found(written: tuple[Path, list[Head]], data: st.DataObject) -> None:
    folder, _ = written
    whole = (folder / "ledger.jsonl").read_bytes()
    head = bytearray((folder / "ledger.head").read_bytes())
    place = data.draw(st.integers(0, len(head) - 2))
    head[place] ^= data.draw(st.integers(1, 255))
    assert any(line.startswith("head") for line in changed(folder, whole, bytes(head)))
    assert changed(folder, whole, bytes(head[:place]))


@settings(max_examples=40, deadline=None)
@given(place=st.integers(0, ENTRIES - 1), everything=st.booleans())
def test_a_value_changed_and_signed_with_another_key_is_found(
    written: tuple[Path, list[Head]], place: int, everything: bool
) -> None:
    folder, heads = written
    thief = Ledger(folder, b"x" * 32)
    own = lines(folder)
    previous, new = (heads[place - 1].digest if place else "0" * 64), own[:place]
    for n in range(place, ENTRIES):
        entry = parsed(own[n].rstrip(b"\n"))
        assert entry is not None
        if n > place and not everything:
            new.append(own[n])
            continue
        if n == place:
            entry["records"]["metrics"]["train-beats"]["value"] = 99
        entry["previous"] = previous
        line = canonical({**entry, "mac": thief.sealed(entry)})
        previous = sha256(line).hexdigest()
        new.append(line + b"\n")
    size = sum(map(len, new))
    values = {"entries": ENTRIES, "digest": previous, "size": size}
    head = canonical({**values, "mac": thief.sealed(values)}) + b"\n"
    for own_head in (None, head):
        found = changed(folder, b"".join(new), own_head)
        assert any(str(place + 1) in line for line in found)


def test_findings_name_their_entries(written: tuple[Path, list[Head]]) -> None:
    folder, _ = written
    own = lines(folder)
    lie = own[2].replace(b'"value":2', b'"value":3')
    assert lie != own[2]
    assert changed(folder, b"".join([*own[:2], lie, *own[3:]])) == [f"entry 3: {audit.CHANGED}"]
    assert changed(folder, b"".join(own[:1] + own[3:])) == ["entries 2 to 3: missing here: removed, or moved"]
    assert changed(folder, b"".join(own[:4])) == ["entries 5 to 6: missing: the end was cut"]
    (repeated,) = changed(folder, b"".join([*own[:3], own[1], *own[3:]]))
    assert repeated.startswith("entry 2: repeated, or moved: it stands behind entry 3")
    (inserted,) = changed(folder, b"".join([*own[:3], b"{}\n", *own[3:]]))
    assert inserted.startswith("entry 4: before it a line was inserted")
    assert changed(folder, b"") == ["entries 1 to 6: missing: the end was cut"]


# --- anchors ----------------------------------------------------------------------------------------------


def test_a_ledger_rolled_back_with_its_head_is_found_by_an_anchor_only(gate: Path) -> None:
    fill(gate, 3)
    old = {path.name: path.read_bytes() for path in gate.iterdir()}
    later = fill(gate, 2, 3)
    for name, content in old.items():
        (gate / name).write_bytes(content)
    assert verify(gate) == []
    (cut,) = verify(gate, [later[-1]])
    assert str(cut).startswith("entries 4 to 5: missing")
    again = fill(gate, 2, 10)  # and went on as if nothing had been
    assert verify(gate) == []
    anew = verify(gate, later)
    assert [finding.first for finding in anew] == [4]
    assert anew[0].last == 5
    assert "told" in str(anew[0])
    assert verify(gate, again) == []


@pytest.mark.parametrize("entries", [0, 2])
def test_a_ledger_and_head_thrown_away_are_found_without_an_anchor(gate: Path, entries: int) -> None:
    assert verify(gate) == []  # before the first entry the head alone is there
    heads = fill(gate, entries)
    for name in ("ledger.jsonl", "ledger.head"):
        (gate / name).unlink(missing_ok=True)
    (gone,) = verify(gate)
    assert str(gone).startswith("head: missing")
    if entries:
        assert [str(finding).split(":")[0] for finding in verify(gate, heads)] == ["head", "entries 1 to 2"]
    with pytest.raises(LedgerError, match=r"nothing leaves.*move ledger.key away"):
        fill(gate, 1)
    make_key(gate)  # the key is there: nothing is made anew
    assert [str(finding) for finding in verify(gate)] == [str(gone)]


def test_without_key_and_entries_a_ledger_is_begun_only_if_its_head_counts_none(gate: Path) -> None:
    (gate / "ledger.key").unlink()
    make_key(gate)
    assert verify(gate) == []
    fill(gate, 1)
    for name in ("ledger.key", "ledger.jsonl"):
        (gate / name).unlink()
    with pytest.raises(LedgerError, match="restore the key"):
        make_key(gate)
    (gate / "ledger.head").unlink()
    make_key(gate)  # as the sentence says: all of it moved away
    assert fill(gate, 1)[0].entries == 1
    assert verify(gate) == []


def test_a_ledger_that_is_being_written_can_be_verified(gate: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(gate)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n"
        for _ in range(20):
            assert verify(gate) == []
    finally:
        process.kill()
        process.wait(30)
        process.stdout.close()


def test_verifying_writes_nothing(written: tuple[Path, list[Head]]) -> None:
    folder, _ = written
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    assert verify(folder) == []
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before
