"""The site's check-up: what is wrong is red and says what to do; what cannot be seen is said, not failed."""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from typer.testing import CliRunner

from client.cli import app
from client.database.forgotten import mark_finished, set_tombstone
from client.database.session import open_database, sessions
from client.gate.connection import coordinator
from client.gate.doctor import enough, examine, policy
from client.gate.folders import make_folders
from client.gate.ledger import ledger_of, record
from client.site import Site
from common import protocol
from common.config import PolicySettings
from common.doctor import Check
from common.errors import ConfigurationError
from common.logs import PlainReporter, use_reporter

NOW = datetime.now(UTC)


# --- a federation's authority and a server, as small as can be -------------------------------------------


def certificate(
    name: str,
    signer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None,
    *,
    days: float = 365,
    address: str = "127.0.0.1",
) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Make an authority's certificate (no signer), or a server's."""
    import ipaddress

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer, private = (signer[0].subject, signer[1]) if signer else (subject, key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=400))
        .not_valid_after(NOW + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=signer is None, path_length=None), critical=True)
    )
    if signer:
        names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
        builder = builder.add_extension(names, critical=False)
    return builder.sign(private, hashes.SHA256()), key


def pem(made: x509.Certificate) -> bytes:
    return made.public_bytes(serialization.Encoding.PEM)


@contextmanager
def server(
    folder: Path,
    made: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    *,
    status: int = 200,
    ahead_s: float = 0.0,
    dated: bool = True,
) -> Iterator[str]:
    """Answer /health over TLS; ``ahead_s`` is how far its clock is ahead."""

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/health" else 404)
            self.end_headers()

        def date_time_string(self, timestamp: float | None = None) -> str:
            return format_datetime(datetime.now(UTC) + timedelta(seconds=ahead_s), usegmt=True)

        def send_header(self, keyword: str, value: str) -> None:
            if dated or keyword != "Date":
                super().send_header(keyword, value)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Quiet(ThreadingHTTPServer):
        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that refuses the certificate breaks off, which is what is tested

    key = made[1].private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    (folder / "server.pem").write_bytes(pem(made[0]) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem")
    http = Quiet(("127.0.0.1", 0), Health)
    http.socket = context.wrap_socket(http.socket, server_side=True)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"127.0.0.1:{http.server_address[1]}"
    finally:
        http.shutdown()
        thread.join(10)
        http.server_close()


@pytest.fixture(scope="module")
def authority() -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    return certificate("authority", None)


@pytest.fixture
def trusted(authority: tuple[x509.Certificate, object], tmp_path: Path) -> Path:
    path = tmp_path / "ca.crt"
    path.write_bytes(pem(authority[0]))
    return path


@pytest.fixture
def site(tiny_site_factory: Callable[..., Site], tmp_path: Path) -> Site:
    return tiny_site_factory(tmp_path / "north", "north")


def named(checks: list[Check]) -> dict[str, Check]:
    return {check.name: check for check in checks}


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


# --- a site that is in order ------------------------------------------------------------------------------


def test_a_site_in_order_has_nothing_red(
    site: Site, authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], trusted: Path, tmp_path: Path
) -> None:
    with server(tmp_path, certificate("server", authority)) as address, socket.socket() as runtime:
        runtime.bind(("127.0.0.1", 0))
        runtime.listen()
        listen = f"127.0.0.1:{runtime.getsockname()[1]}"
        make_folders(site.folder, name="north", server=address, listen=listen, authority=trusted)
        (site.gate_folder / "heartbeat").touch()
        record(ledger_of(site.gate_folder), protocol.HELLO, 1, protocol.failure("maintenance"), NOW)
        checks = examine(site.folder)
    found = named(checks)
    assert [str(check) for check in checks if check.state == "failed"] == []
    for name in ("data root", "database", "beat store", "cohort", "ledger", "executor", "node", "node key"):
        assert found[name].state == "ok", found[name]
    for name in ("authority", "coordinator", "server certificate", "clock", "versions", "site folder"):
        assert found[name].state == "ok", found[name]
    assert "schema version" in found["database"].text
    assert "1 entry" in found["ledger"].text
    assert "flwr" in found["versions"].text
    assert "127.0.0.1" in found["server certificate"].text
    assert not list(site.folder.glob(".doctor*"))


def test_every_red_line_says_what_to_do_whatever_is_broken(site: Site, tmp_path: Path) -> None:
    make_folders(
        site.folder, name="north", server=f"127.0.0.1:{free_port()}", listen=f"127.0.0.1:{free_port()}"
    )
    breaks: list[tuple[str, Callable[[], object]]] = [
        ("coordinator", lambda: None),
        ("node", lambda: None),
        ("authority", lambda: None),
        ("executor", lambda: None),
        ("ledger", lambda: (site.gate_folder / "ledger.key").chmod(0o644)),
        ("gate secret", lambda: (site.gate_folder / "executor.secret").unlink()),
        ("node secret", lambda: (site.node / "executor.secret").chmod(0o640)),
        ("node key", lambda: (site.node / "node.key").write_bytes(b"no key")),
        ("beat store", lambda: (site.beats / "beats.f32").write_bytes(b"")),
        ("database", lambda: (site.folder / "site.sqlite").unlink()),
        ("data root", lambda: edit(site, 'folder = "."', 'folder = "nowhere"')),
        ("site", lambda: edit(site, "[site]", "[site]\nwrad = 3")),
    ]
    for name, damage in breaks:
        damage()
        checks = examine(site.folder)
        assert any(check.name == name and check.state == "failed" for check in checks), (name, checks)
        assert all(check.advice for check in checks if check.state in ("failed", "warning"))


def edit(site: Site, old: str, new: str) -> None:
    path = site.folder / "site.toml"
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


def test_what_cannot_be_seen_from_here_is_not_failed(site: Site, tmp_path: Path) -> None:
    """A site folder without its node, and a node folder alone."""
    found = named(examine(site.folder))
    for name in ("node key", "authority", "coordinator", "clock", "ledger", "executor"):
        assert found[name].state == "not checked"
    make_folders(
        site.folder, name="north", server=f"127.0.0.1:{free_port()}", listen=f"127.0.0.1:{free_port()}"
    )
    alone = tmp_path / "alone"
    site.node.rename(alone)
    found = named(examine(alone))
    for name in ("data root", "database", "ledger", "policy"):
        assert found[name].state == "not checked"
    assert found["node key"].state == "ok"
    with pytest.raises(ConfigurationError, match="neither"):
        examine(tmp_path)


def test_a_ledger_that_was_tampered_with_is_red(site: Site) -> None:
    make_folders(site.folder, name="north")
    record(ledger_of(site.gate_folder), protocol.HELLO, 1, protocol.failure("maintenance"), NOW)
    path = site.gate_folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b"maintenance", b"site_error "))
    check = named(examine(site.folder))["ledger"]
    assert check.state == "failed"
    assert "entry 1" in check.text


def test_a_secret_that_differs_between_node_and_gate_is_red(site: Site) -> None:
    make_folders(site.folder, name="north")
    (site.gate_folder / "executor.secret").write_bytes(b"another")
    assert any(c.name == "node secret" and c.state == "failed" for c in examine(site.folder))


def test_an_executor_that_was_not_seen_for_a_minute_is_red(site: Site) -> None:
    make_folders(site.folder, name="north")
    beat = site.gate_folder / "heartbeat"
    beat.touch()
    assert named(examine(site.folder))["executor"].state == "ok"
    before = time.time() - 60
    os.utime(beat, (before, before))
    assert named(examine(site.folder))["executor"].state == "failed"


# --- patients' data on disk ------------------------------------------------------------------------------


def mimic4_root(root: Path) -> Path:
    """Write as much of a MIMIC-IV folder as a short look sees."""
    (root / "hosp").mkdir(parents=True)
    (root / "hosp" / "labevents.csv").write_text("labevent_id,subject_id,specimen_id,itemid,charttime\n")
    (root / "waves" / "p100" / "p10014354").mkdir(parents=True)
    return root


def test_a_data_root_of_another_layout_is_told_with_the_lines_to_change(site: Site, tmp_path: Path) -> None:
    root = mimic4_root(tmp_path / "hospital")
    edit(site, 'folder = "."', f'folder = "{root}"')
    check = named(examine(site.folder))["layout"]
    assert check.state == "warning"
    assert check.text.startswith("the data root looks like mimic4 (hosp/labevents.csv, waves/p100)")
    assert check.text.endswith("site.toml says mimic3, clinical 'clinical', waveforms 'waveforms'")
    assert check.advice.endswith('[source] of site.toml: kind = "mimic4", clinical = ".", waveforms = "."')
    edit(site, 'kind = "mimic3"', 'kind = "mimic4"\nclinical = "."\nwaveforms = "."')
    check = named(examine(site.folder))["layout"]
    assert (check.state, "synthetic files only" in check.text) == ("ok", True)


def test_a_data_root_one_level_too_low_is_told_with_the_folder_above(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "hospital"
    (root / "clinical").mkdir(parents=True)
    (root / "clinical" / "LABEVENTS.csv").write_text("ROW_ID,SUBJECT_ID,ITEMID,CHARTTIME\n")
    (root / "waveforms" / "p00" / "p000020").mkdir(parents=True)
    edit(site, 'folder = "."', f'folder = "{root / "clinical"}"')
    check = named(examine(site.folder))["layout"]
    assert (check.state, check.advice.endswith(f'site.toml: folder = "{root}"')) == ("warning", True)
    edit(site, f'folder = "{root / "clinical"}"', f'folder = "{root}"')
    check = named(examine(site.folder))["layout"]
    assert (check.state, "synthetic" in check.text) == ("ok", False)


def test_annotated_records_need_another_task_too(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "mitdb"
    root.mkdir()
    for name in ("100.hea", "100.atr"):
        (root / name).touch()
    edit(site, 'folder = "."', f'folder = "{root}"')
    advice = named(examine(site.folder))["layout"].advice
    assert 'kind = "mitbih"' in advice
    assert advice.endswith('in section [settings]: task = "ventricular"')


def test_half_a_layout_is_told_with_what_is_missing(site: Site, tmp_path: Path) -> None:
    root = tmp_path / "hospital"
    (root / "clinical").mkdir(parents=True)
    (root / "clinical" / "LABEVENTS.csv").write_text("ROW_ID,SUBJECT_ID,ITEMID,CHARTTIME\n")
    edit(site, 'folder = "."', f'folder = "{root}"')
    check = named(examine(site.folder))["layout"]
    assert "without its waveforms" in check.text
    assert "source.waveforms" in check.advice


def test_an_unknown_folder_is_a_warning_and_a_missing_one_only_its_own_failure(site: Site) -> None:
    check = named(examine(site.folder))["layout"]  # the tiny site's data root is its own folder
    assert check.state == "warning"
    assert "none of the layouts; site.toml says mimic3" in check.text
    edit(site, 'folder = "."', 'folder = "nowhere"')
    assert "layout" not in named(examine(site.folder))


def test_files_that_others_may_read_are_told_with_the_command_that_closes_them(site: Site) -> None:
    model = site.models / "main" / "run-3-0123456789ab" / "patient-1-fine_tuned.safetensors"
    sheet = site.folder / "review" / "review.html"
    page, key = site.report.parent / "patients" / "7.html", site.folder / "pseudonyms.key"
    counts = site.report.parent / "inclusion.html"
    for path in (model, sheet, page, key, counts, site.models / "generic-main-0123456789ab.safetensors"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        path.chmod(0o600)
    assert named(examine(site.folder))["private files"].state == "ok"
    (site.models / "generic-main-0123456789ab.safetensors").chmod(0o644)  # nobody's in particular
    counts.chmod(0o644)
    assert named(examine(site.folder))["private files"].state == "ok"
    for path in (model, sheet, page, key, site.beats / "beats.f32", site.folder / "site.sqlite"):
        path.chmod(0o604)
        check = named(examine(site.folder))["private files"]
        assert check.state == "warning"
        assert str(path) in check.text
        closing = check.advice.removeprefix("run: ")
        assert subprocess.run(closing.split(), check=False).returncode == 0
        assert named(examine(site.folder))["private files"].state == "ok"
        assert path.stat().st_mode & 0o777 == 0o600


def test_a_patient_half_forgotten_is_told(site: Site) -> None:
    assert "forgotten" not in named(examine(site.folder))
    engine = open_database(site.database_url)
    with sessions(engine)() as session:
        set_tombstone(session, site.name, "10006", {}, [(0, 1)])
        session.commit()
    check = named(examine(site.folder))["forgotten"]
    assert (check.state, check.advice) == ("warning", "run the same 'fedkalemia-site forget' again")
    with sessions(engine)() as session:
        mark_finished(session)
        session.commit()
    engine.dispose()
    assert "forgotten" not in named(examine(site.folder))


# --- the coordinator as seen on the wire ------------------------------------------------------------------


def test_the_servers_certificate_is_judged_as_it_is_on_the_wire(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], trusted: Path, tmp_path: Path
) -> None:
    other = certificate("other", None)
    cases = [
        (certificate("server", authority), "ok", "days left"),
        (certificate("server", authority, days=29), "warning", "days left"),
        (certificate("server", authority, days=-1), "failed", "has expired"),
        (certificate("server", other), "failed", "another authority"),
        (certificate("server", authority, address="192.0.2.9"), "failed", "192.0.2.9"),
    ]
    for made, state, text in cases:
        with server(tmp_path, made) as address:
            check = named(coordinator(address, trusted, datetime.now(UTC)))["server certificate"]
        assert (check.state, text in check.text) == (state, True), check


def test_a_server_that_is_ill_silent_or_speaks_no_tls_is_told_apart(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey], trusted: Path, tmp_path: Path
) -> None:
    with server(tmp_path, certificate("server", authority), status=502) as address:
        assert "502" in named(coordinator(address, trusted, NOW))["coordinator"].text
    found = named(coordinator(f"127.0.0.1:{free_port()}", trusted, NOW))
    assert "nothing listens on" in found["coordinator"].text
    assert found["clock"].state == "not checked"
    assert (
        "cannot be reached" in named(coordinator("no.such.host.invalid:1", trusted, NOW))["coordinator"].text
    )
    plain = ThreadingHTTPServer(("127.0.0.1", 0), BaseHTTPRequestHandler)
    plain.handle_error = lambda *_: None  # type: ignore[method-assign]
    thread = threading.Thread(target=plain.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        address = f"127.0.0.1:{plain.server_address[1]}"
        check = named(coordinator(address, trusted, NOW))["coordinator"]
        assert (check.state, "no TLS" in check.text) == ("failed", True), check
    finally:
        plain.shutdown()
        thread.join(10)
        plain.server_close()
    for wrong in ("", "nowhere", "host:port", "host:99999"):
        assert named(coordinator(wrong, trusted, NOW))["coordinator"].state == "failed"
    missing = named(coordinator("127.0.0.1:1", tmp_path / "none.crt", NOW))["coordinator"]
    assert "none.crt" in missing.text


@pytest.mark.parametrize(
    ("server_ahead_s", "state"), [(0, "ok"), (-20, "failed"), (60, "warning"), (400, "failed")]
)
def test_a_clock_that_the_engine_would_refuse_is_red(
    server_ahead_s: float,
    state: str,
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    trusted: Path,
    tmp_path: Path,
) -> None:
    with server(tmp_path, certificate("server", authority), ahead_s=server_ahead_s) as address:
        check = named(coordinator(address, trusted, NOW))["clock"]
    assert check.state == state, check


def test_a_server_that_does_not_say_the_time_leaves_the_clock_unchecked(
    authority: tuple[x509.Certificate, ec.EllipticCurvePrivateKey],
    trusted: Path,
    tmp_path: Path,
) -> None:
    with server(tmp_path, certificate("server", authority), dated=False) as address:
        found = named(coordinator(address, trusted, NOW))
    assert (found["coordinator"].state, found["clock"].state) == ("ok", "not checked")


def test_a_site_without_a_database_is_told_to_ingest(site: Site) -> None:
    (site.folder / "site.sqlite").unlink()
    check = named(examine(site.folder))["database"]
    assert check.advice == f"run 'fedkalemia-site ingest {site.folder}' first"
    assert "there is no site database" in check.text


# --- policy and cohort in words ---------------------------------------------------------------------------


def test_the_policy_is_said_in_words_limit_by_limit() -> None:
    rules = PolicySettings(
        min_training_patients=21,
        min_validation_patients=6,
        min_cell=7,
        max_local_epochs=8,
        max_rounds=99,
        min_batch_size=33,
        max_update_norm=2.5,
        personalize=False,
        maintenance="02:00-04:30",
    )
    text = " ".join(check.text for check in policy(rules))
    for number in ("21", "6", "7", "8", "99", "33", "2.5", "02:00-04:30", "at this site only"):
        assert number in text
    assert len(PolicySettings.model_fields) == 9  # a new limit needs a sentence


def test_a_cohort_below_the_sites_minima_says_what_that_means() -> None:
    rules = PolicySettings()
    assert enough(20, 5, rules).state == "ok"
    few = enough(19, 4, rules)
    assert few.state == "warning"
    assert "only evaluates" in few.text
    assert "no validation" in few.text


# --- the commands -----------------------------------------------------------------------------------------


@pytest.fixture
def said() -> Iterator[None]:
    yield
    use_reporter(None)


@pytest.mark.usefixtures("said")
def test_the_commands_end_with_the_code_of_what_they_found(site: Site, tmp_path: Path) -> None:
    def run(*words: object) -> tuple[int, str]:
        with CliRunner().isolation() as (out, *_):
            use_reporter(PlainReporter())
            try:
                code = app([str(word) for word in words], standalone_mode=False) or 0
            except SystemExit as end:
                code = int(end.code or 0)
            return int(code), out.getvalue().decode()

    code, out = run("doctor", site.folder)
    assert code == 0, out
    make_folders(site.folder, name="north")
    code, out = run("doctor", site.folder, "--json")
    assert code == 2
    assert {check["state"] for check in json.loads(out)} >= {"ok", "failed"}

    assert run("audit", "show", site.folder) == (0, "nothing has left this site yet\n")
    assert run("audit", "verify", site.folder)[0] == 0
    ledger = ledger_of(site.gate_folder)
    content = protocol.reply({"train-beats": 17, "train-loss-total": 0.5})
    days = [datetime(2026, 2, 10, 12, tzinfo=UTC), datetime(2026, 3, 10, 12, tzinfo=UTC)]
    heads = [record(ledger, protocol.ROUND, 7, content, day) for day in days]
    record(ledger, protocol.HELLO, 8, protocol.failure("maintenance"), days[1])

    code, out = run("audit", "show", site.folder, "--since", "2026-03-01", "--until", "2026-03-31", "--json")
    rows = json.loads(out)["rows"]
    assert [(row["run"], row["type"], row["replies"]) for row in rows] == [
        (7, protocol.ROUND, 1),
        (8, protocol.HELLO, 1),
    ]
    assert rows[0]["keys"] == {"metrics.train-beats": 1, "metrics.train-loss-total": 1}
    code, out = run("audit", "show", site.folder, "--values")
    assert "metrics.train-beats = 17 (int)" in out
    assert out.splitlines()[1].split()[:3] == ["7", protocol.ROUND, "2"]
    assert "nothing left" in run("audit", "show", site.folder, "--last", "1h")[1]
    for wrong in (["--since", "yesterday"], ["--last", "month"], ["--since", "2026-01-01", "--last", "3d"]):
        with pytest.raises(ConfigurationError):
            run("audit", "show", site.folder, *wrong)

    anchor = f"{heads[1].entries}:{heads[1].digest}"
    assert run("audit", "verify", site.folder, "--anchor", anchor)[0] == 0
    code, out = run("audit", "verify", site.folder, "--anchor", f"9:{heads[1].digest}")
    assert (code, "finding: entries 4 to 9: missing" in out) == (2, True)
    told = {"ledgers": {"north": [{"step": "round", "round": 1, "entries": 1, "head": heads[0].digest}]}}
    story = tmp_path / "server.json"
    story.write_text(json.dumps(told))
    assert run("audit", "verify", site.folder, "--anchors", story)[0] == 0
    story.write_text(json.dumps({"ledgers": {"south": []}}))
    with pytest.raises(ConfigurationError, match="north"):
        run("audit", "verify", site.folder, "--anchors", story)
    with pytest.raises(ConfigurationError, match="no anchor"):
        run("audit", "verify", site.folder, "--anchor", "x" * 64)

    path = site.gate_folder / "ledger.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"value":17', b'"value":18', 1))
    code, out = run("audit", "verify", site.folder)
    assert code == 2
    assert out.splitlines() == [
        "finding: entry 1: not as the gate wrote it: changed, or written with another key"
    ]
