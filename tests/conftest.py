"""Fixtures every test may use."""

from __future__ import annotations

import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

# One thread per operation: two sites, two workers and two test processes would otherwise fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")
from sqlalchemy.orm import Session, sessionmaker

from client.database.session import create_database, open_database, sessions
from client.database.tables import Base
from common.logs import current_reporter, use_reporter

# A shell starts background jobs with Ctrl-C ignored, and children inherit that: the commands under test would
# never see it.
signal.signal(signal.SIGINT, signal.default_int_handler)

DATA_VARIABLE = "FEDKALEMIA_TEST_DATA"
BIN = Path(sys.executable).parent
NO_SKIPS_VARIABLE = "FEDKALEMIA_NO_SKIPS"
POSTGRES_START_S = 60
POSTGRES_STOP_S = 30


#: Files that take a minute or more, the longest first, and the folders with tests of many seconds.
LONGEST = (
    "deployment/test_whole.py",
    "simulation/test_bad_input.py",
    "simulation/test_journey.py",
    "simulation/cohort/test_posterior_predictive.py",
    "deployment",
    "simulation",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the longest files come first: nobody begins one when the others are done."""
    tests = Path(__file__).parent

    def place(item: pytest.Item) -> int:
        path = item.path.relative_to(tests)
        return next((n for n, long in enumerate(LONGEST) if path.is_relative_to(long)), len(LONGEST))

    items.sort(key=place)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder with real recordings and laboratory tables; tests that need it skip where there is none."""
    named = os.environ.get(DATA_VARIABLE, "")
    if not named:
        pytest.skip(f"{DATA_VARIABLE} is not set: no real recordings to test on")
    folder = Path(named)
    if not folder.is_dir():
        pytest.skip(f"{DATA_VARIABLE} names {named}, which is no folder")
    return folder.resolve()


@pytest.fixture(scope="session")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """Return a function that makes a folder for all test processes: the first one makes it, others wait."""
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent

    def folder_of(name: str, make: Callable[[Path], object]) -> Path:
        folder, finished = base / name, base / f"{name}.finished"
        with (base / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not finished.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                finished.touch()
        return folder

    return folder_of


ENGINES = ["sqlite", pytest.param("postgres", marks=pytest.mark.postgres)]


@pytest.fixture(params=ENGINES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """URL of an empty database of the test's own: first SQLite, then a real PostgreSQL."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'site.sqlite'}"
        return
    server: PostgresServer = request.getfixturevalue("postgres_server")
    with server.database() as url:
        yield url


@pytest.fixture(params=ENGINES)
def session_factory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sessionmaker[Session]]:
    """Sessions of a site database of the test's own that has its tables, on each engine in turn."""
    with ExitStack() as stack:
        if request.param == "sqlite":
            url = f"sqlite:///{tmp_path / 'site.sqlite'}"
            shutil.copy(request.getfixturevalue("migrated_sqlite"), tmp_path / "site.sqlite")
        else:
            server: PostgresServer = request.getfixturevalue("postgres_server")
            url = stack.enter_context(server.database(migrated=True))
        engine = open_database(url)
        stack.callback(engine.dispose)
        yield sessions(engine)


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with every table and no rows, made once and copied by the tests."""
    path = tmp_path_factory.mktemp("database") / "site.sqlite"
    create_database(f"sqlite:///{path}").dispose()
    return path


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """Start a PostgreSQL server of this session's own, on a socket only this user can reach."""
    binaries = postgres_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL server is installed (pg_config and /usr/lib/postgresql have no initdb)")
    as_user = postgres_user()
    if as_user is None:
        pytest.skip("PostgreSQL does not run as root, and there is no user 'postgres' or no setpriv")
    folder = Path(tempfile.mkdtemp(prefix="fedkalemia-postgres-"))  # short: a socket's path is limited
    server = PostgresServer(binaries, folder, as_user)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class PostgresServer:
    """A server process in a folder of its own; it listens on a Unix socket there and on no port."""

    def __init__(self, binaries: Path, folder: Path, as_user: Sequence[str]) -> None:
        self.binaries, self.folder, self.as_user = binaries, folder, as_user
        self.process: subprocess.Popen[bytes] | None = None
        self.databases: set[str] = set()

    def start(self) -> None:
        """Make a cluster without durability and start the server on it."""
        if os.geteuid() == 0:
            shutil.chown(self.folder, "postgres", "postgres")
        data, log = self.folder / "data", self.folder / "log"
        arguments = ["--auth=trust", "--username=postgres", "--encoding=UTF8", "--locale=C", "--no-sync"]
        made = subprocess.run(
            [*self.as_user, self.binaries / "initdb", *arguments, "--pgdata", data],
            capture_output=True,
            text=True,
            cwd=self.folder,
            check=False,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed: {made.stderr}")
        settings = ["listen_addresses=", "fsync=off", "synchronous_commit=off", "full_page_writes=off"]
        options = [part for setting in settings for part in ("-c", setting)]
        with log.open("wb") as out:
            self.process = subprocess.Popen(
                [*self.as_user, self.binaries / "postgres", "-D", data, "-k", self.folder, *options],
                stdout=out,
                stderr=out,
                cwd=self.folder,
            )
        until = time.monotonic() + POSTGRES_START_S
        while self.sql("select 1", check=False):
            if self.process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"PostgreSQL did not start: {log.read_text()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End this server, and only this one, by its process."""
        if self.process is None or self.process.poll() is not None:
            return
        self.process.send_signal(signal.SIGQUIT)  # at once: what it holds is thrown away
        try:
            self.process.wait(POSTGRES_STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def url(self, name: str) -> str:
        """Return the URL of one database."""
        return f"postgresql://postgres@/{name}?host={self.folder}"

    @contextmanager
    def database(self, migrated: bool = False) -> Iterator[str]:
        """Give a database away, empty or with every table, and empty it again afterwards.

        That is much cheaper than a database per test, which is a copy of some three hundred files.
        """
        name = "site_migrated" if migrated else "site_empty"
        if name not in self.databases:
            self.sql(f"create database {name} template template0")
            self.databases.add(name)
            if migrated:
                create_database(self.url(name)).dispose()
        try:
            yield self.url(name)
        finally:
            others = "datname = current_database() and pid <> pg_backend_pid()"
            end = f"select pg_terminate_backend(pid) from pg_stat_activity where {others}"
            tables = ", ".join(Base.metadata.tables)
            empty = "drop schema public cascade; create schema public"
            self.sql(end, f"truncate {tables} restart identity" if migrated else empty, database=name)

    def sql(self, *statements: str, database: str = "postgres", check: bool = True) -> int:
        """Run statements as the superuser."""
        options = ["-qX", "-v", "ON_ERROR_STOP=1", "-h", str(self.folder), "-U", "postgres", "-d", database]
        commands = [part for statement in statements for part in ("-c", statement)]
        command = [str(self.binaries / "psql"), *options, *commands]
        return subprocess.run(command, capture_output=True, check=check).returncode


def postgres_binaries() -> Path | None:
    """Return the folder with initdb and postgres; the newest where several are installed."""
    folders = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: int(p.parent.name.split(".")[0])
    )
    if config := shutil.which("pg_config"):
        asked = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(asked.stdout.strip()))
    if initdb := shutil.which("initdb"):
        folders.append(Path(initdb).resolve().parent)
    usable = [f for f in folders if all((f / name).is_file() for name in ("initdb", "postgres", "psql"))]
    return usable[-1] if usable else None


def postgres_user() -> Sequence[str] | None:
    """Return what to put before a command so that it may start PostgreSQL; None if nothing helps.

    Where ``setpriv`` exists, the server is also told to end when the tests are killed.
    """
    setpriv = shutil.which("setpriv")
    if os.geteuid() != 0:
        return [setpriv, "--pdeathsig", "INT"] if setpriv else []
    try:
        pwd.getpwnam("postgres")
    except KeyError:
        return None
    change = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--pdeathsig", "INT"]
    return None if setpriv is None else [setpriv, *change]


@dataclass(frozen=True)
class Ending:
    """How a command ended."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return what it said went wrong: one line, no traceback, exit code 2."""
        assert self.code == 2, (self.code, self.err)
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("error: "), self.err
        return lines[0].removeprefix("error: ")


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Ending]]:
    """Run a command in this process, as its entry point would, and tell how it ended.

    A process of its own would import everything again, which takes seconds.
    """
    import client.cli
    import server.cli
    import simulation.cli

    mains = {
        "fedkalemia-site": client.cli.main,
        "fedkalemia-server": server.cli.main,
        "fedkalemia-sim": simulation.cli.main,
    }
    reporter = current_reporter()

    def run(*words: object) -> Ending:
        texts = [str(word) for word in words]
        capsys.readouterr()
        with (
            mock.patch.object(sys, "argv", texts),
            mock.patch.dict(os.environ),
            pytest.raises(SystemExit) as ended,
        ):
            mains[texts[0]]()
        said = capsys.readouterr()
        return Ending(int(ended.value.code or 0), said.out, said.err)

    yield run
    use_reporter(reporter)


@pytest.fixture
def process() -> Callable[..., Ending]:
    """Run a command in a process of its own and tell how it ended."""

    def run(*words: object, **options: object) -> Ending:
        texts = [str(word) for word in words]
        done = subprocess.run(  # type: ignore[call-overload]
            [str(BIN / texts[0]), *texts[1:]],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            **options,
        )
        return Ending(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture(scope="session")
def tiny_site_factory() -> Callable[..., Any]:
    """Make small real sites without hospital files; see ``support/sites.py``."""
    path = Path(__file__).parent / "support" / "sites.py"
    spec = importlib.util.spec_from_file_location("fedkalemia_test_sites", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    make: Callable[..., Any] = module.make_tiny_site
    return make


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Leave out what needs nginx where there is none; the folder of administrators' programs counts."""
    asked = any(item.get_closest_marker(name) for name in ("deployment", "survives"))
    if asked and shutil.which("nginx", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin") is None:
        pytest.skip("nginx is not installed: no front end to deploy (Debian: apt install nginx-light)")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where FEDKALEMIA_NO_SKIPS is set (continuous integration), a skipped test is a failed one."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    if report.skipped and not hasattr(report, "wasxfail") and os.environ.get(NO_SKIPS_VARIABLE):
        report.outcome = "failed"
        report.longrepr = f"skipped, and {NO_SKIPS_VARIABLE} is set: {report.longrepr[2]}"
