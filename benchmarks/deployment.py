"""What a federated round costs over TLS: this software against stock Flower on the same model and data.

    python benchmarks/deployment.py [--rounds 4] [--repeats 3] [--large] [--only ours|stock]

Three synthetic sites on this machine. Ours: SuperLink, nginx in front of it, runner, and per site a SuperNode
and the warm executor, started with our own commands, with node keys and ledger. Stock: the same SuperLink and
SuperNodes as Flower starts them, sites connected to the SuperLink directly, no node keys, FedAvg with a train
and an evaluate message per round, the model as one array per layer. Both take the same local steps on the
same beats. Runs alternate; printed are medians over rounds, their ratio, where our time goes, memory and
bytes. Bars: at least 5 times with the demo's model, 1.5 times with one of 64 MB (``--large``).
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

from common.command import FLOWER_ENVIRONMENT
from common.config import Settings
from common.model import build_model
from common.seeding import torch_stream

ROOT = Path(__file__).parents[1]
SITES = ("east", "north", "south")
DEMO = {"depth": 18, "width": 8}
LARGE = {"depth": 34, "width": 96}
BARS = {"demo": 5.0, "64 MB": 1.5}
SAMPLE_S = 0.5
STOCK_S = 1800.0
NODE_EVENTS = {
    "Receiving:": "receiving",
    "Received successfully": "received",
    "Sending:": "sending",
    "Sent successfully": "sent",
}


def main() -> None:
    """Compare the two and print what each costs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=4, help="federated rounds of a run")
    parser.add_argument("--repeats", type=int, default=2, help="pairs of runs")
    parser.add_argument("--large", action="store_true", help="also with a model of 64 MB (many minutes)")
    parser.add_argument("--only-large", action="store_true", help="the model of 64 MB alone")
    parser.add_argument("--only", choices=["ours", "stock"], help="leave the other out")
    options = parser.parse_args()
    support = load(ROOT / "tests" / "support" / "deployment.py")
    cases: dict[str, Mapping[str, Any]] = {} if options.only_large else {"demo": DEMO}
    if options.large or options.only_large:
        cases["64 MB"] = LARGE
    for name, model in cases.items():
        with tempfile.TemporaryDirectory() as folder:
            compare(support, Path(folder), name, model, options)


def compare(
    support: ModuleType, folder: Path, case: str, model: Mapping[str, Any], options: argparse.Namespace
) -> None:
    """Alternate runs of both with one model, and print."""
    large = case != "demo"
    settings = {
        "model": model,
        "training": {"beats_per_strip": 30 if not large else 8, "batch_size": 128},
        "federation": {"rounds": options.rounds, "min_sites": len(SITES), "round_timeout_s": 900.0},
    }
    make = {"generic": 12, "personal": 0, "beats": 40} if not large else {"generic": 6, "personal": 0}
    with contextlib.ExitStack() as stack:
        ours = support.Deployment(
            folder / "ours", SITES, settings=settings, make=make, wires=False, stamped=True
        )
        stack.enter_context(ours)
        stock = stack.enter_context(Stock(support, folder / "stock", ours))
        first: Settings = next(iter(ours.sites.values())).settings
        parameters = build_model(first.model, torch_stream(0, "initial")).parameters()
        size = sum(p.numel() for p in parameters) * 4 / 1e6
        print(f"== {case} model, {size:.1f} MB, {len(SITES)} sites, {options.rounds} rounds a run")
        rounds: dict[str, list[float]] = {"ours": [], "stock": []}
        with Memory(support, ours, stock) as memory:
            for _ in range(options.repeats):
                if options.only != "stock":
                    rounds["ours"] += our_rounds(ours)
                if options.only != "ours":
                    rounds["stock"] += stock.rounds(options.rounds)
        for name, seconds in rounds.items():
            if seconds:
                low, high = min(seconds), max(seconds)
                print(f"{name:5}: {statistics.median(seconds):6.2f} s a round ({low:.2f} to {high:.2f})")
        if all(rounds.values()):
            ratio = statistics.median(rounds["stock"]) / statistics.median(rounds["ours"])
            print(f"stock / ours: {ratio:.2f} (bar {BARS[case]})")
        if rounds["ours"]:
            where_time_goes(ours, statistics.median(rounds["ours"]))
            bytes_out(support, folder / "counted", ours, {"settings": settings, "make": make})
        memory.show()


def our_rounds(deployment: Any) -> list[float]:
    """Run a federation without personalization; return the seconds of each round."""
    ended = deployment.run("--no-personalize", "--fresh", limit_s=STOCK_S)
    if ended.code != 0 or ended.story["status"] != "finished":
        sys.exit(f"our run ended with {ended.code}\n{ended.output}\n{deployment.tails()}")
    return [entry["seconds"] for entry in ended.story["rounds"]]


class Stock:
    """Flower as it comes: SuperLink and SuperNodes that start a process per message, over TLS."""

    def __init__(self, support: ModuleType, folder: Path, ours: Any) -> None:
        self._support, self._folder, self._ours = support, folder, ours
        self.parts: dict[str, Any] = {}
        self._count = 0

    def __enter__(self) -> Stock:
        """Start everything."""
        pki = self._ours.home / "pki"
        (self._folder / "home").mkdir(parents=True)
        port, *ports = self._support.free_ports(1 + len(SITES))
        self._address = f"127.0.0.1:{port}"
        (self._folder / "home" / "config.toml").write_text(
            f'[superlink]\ndefault = "here"\n\n[superlink.here]\naddress = "{self._address}"\n'
            f'root-certificates = "{pki / "ca.crt"}"\n'
        )
        try:
            self._start(
                "superlink",
                *("flower-superlink", "--host", "127.0.0.1", "--port", str(port)),
                *("--ssl-ca-certfile", str(pki / "ca.crt"), "--ssl-certfile", str(pki / "server.crt")),
                *("--ssl-keyfile", str(pki / "server.key"), "--disable-runtime-dependency-installation"),
            )
            self._ours.wait(lambda: self._ours.healthy(self._address), 60.0, "the stock SuperLink answers")
            for name, own in zip(SITES, ports, strict=True):
                self._start(
                    f"node-{name}",
                    *("flower-supernode", "--superlink", self._address, "--port", str(own)),
                    *("--root-certificates", str(pki / "ca.crt")),
                    *("--node-config", f'site-folder="{self._ours.sites[name].folder}"'),
                )
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything, also what the engine started in sessions of their own."""
        running = [part.pid for part in self.parts.values() if part.running]
        descendants = [pid for first in running for pid in self._support.family(first)]
        for part in self.parts.values():
            part.end(signal.SIGTERM)
        for pid in descendants:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _start(self, name: str, *command: str) -> None:
        log = self._folder / f"{name}.log"
        part = self._support.Part(f"stock {name}", command, log, self._environment())
        self.parts[name] = part
        part.start()

    def _environment(self) -> dict[str, str]:
        flower = {"FLWR_HOME": str(self._folder / "home"), **FLOWER_ENVIRONMENT}
        return {**self._support.environment(), **flower}

    def rounds(self, rounds: int) -> list[float]:
        """Run FedAvg; return the seconds of each round."""
        self._count += 1
        out = self._folder / f"rounds-{self._count}.json"
        config = f'settings="{self._ours.settings_file()}" out="{out}" rounds={rounds} sites={len(SITES)}'
        done = subprocess.run(
            [
                str(Path(sys.executable).parent / "flwr"),
                *("run", str(ROOT / "benchmarks" / "stock"), "here", "--run-config", config),
            ],
            env=self._environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            sys.exit(done.stdout + done.stderr)
        deadline = time.monotonic() + STOCK_S
        while not out.exists():
            if time.monotonic() > deadline:
                sys.exit("stock Flower did not end in time\n" + self.parts["superlink"].text()[-4000:])
            time.sleep(0.2)
        ends = json.loads(out.read_text())
        return [b - a for a, b in pairwise(ends)]


def where_time_goes(deployment: Any, whole: float) -> None:
    """Print the parts of a round as the site's node and executor saw them, medians over rounds and sites."""
    spans: dict[str, list[float]] = {}
    for name, site in deployment.sites.items():
        for message in node_messages(deployment.parts[f"node-{name}"].text()):
            if message["type"] != "train.round" or len(message) < 5:
                continue
            add = spans.setdefault
            add("the node fetches the weights", []).append(message["received"] - message["receiving"])
            add("between", []).append(message["sending"] - message["received"])
            add("the node sends the reply", []).append(message["sent"] - message["sending"])
        log = site.log.read_text()
        handled = [float(text) for text in re.findall(r"train\.round answered in ([0-9.]+) s", log)]
        spans.setdefault("handler", []).extend(handled)
    median = {key: statistics.median(values) for key, values in spans.items() if values}
    if len(median) < 4:
        print("the nodes' logs do not tell where the time goes")
        return
    fetch, send = median["the node fetches the weights"], median["the node sends the reply"]
    handler, between = median["handler"], median["between"]
    rest = whole - fetch - between - send
    print("where a round goes (medians over sites; sites overlap, the slowest decides):")
    print(f"  {rest:6.2f} s  waiting for the node's poll, the server's own work, the slowest site")
    print(f"  {fetch:6.2f} s  the node fetches the weights")
    print(f"  {between - handler:6.2f} s  to the executor and back: poll, fork, transfer, ledger")
    print(f"  {handler:6.2f} s  validation and training")
    print(f"  {send:6.2f} s  the node sends the reply")


def node_messages(log: str) -> Iterator[dict[str, Any]]:
    """Yield the times of each message in a stamped log of a SuperNode."""
    message: dict[str, Any] = {}
    for line in log.splitlines():
        stamp, _, text = line.partition(" ")
        for mark, event in NODE_EVENTS.items():
            if mark in text:
                if event == "receiving":
                    kind = re.search(r"Receiving: (\S+) message", text)
                    message = {"type": kind.group(1) if kind else ""}
                message[event] = float(stamp)
                if event == "sent":
                    yield message


def bytes_out(support: ModuleType, folder: Path, deployment: Any, arguments: Mapping[str, Any]) -> None:
    """Print what leaves a site in a federated round: by its ledger and on the wire."""
    site = next(iter(deployment.sites.values()))
    shown = json.loads(deployment.site("audit", "show", str(site.folder), "--json").output)
    rows = [row for row in shown["rows"] if row["type"] == "train.round"]
    values = sum(row["bytes"] for row in rows) / sum(row["replies"] for row in rows)
    print(f"bytes out of a site in a round, by its ledger: {values:,.0f}")
    with support.Deployment(folder, SITES[:1], **arguments) as counted:
        wire = counted.wires[SITES[0]]
        run = counted.begin("--no-personalize", "--set", "federation.min_sites=1")
        counted.wait(lambda: len(run.story.get("rounds", ())) >= 1, STOCK_S, "a first round")
        out, into, rounds = wire.sent, wire.received, len(run.story["rounds"])
        story = run.wait(STOCK_S).story
        rounds = len(story["rounds"]) - rounds
        # The evaluation that follows the last round brings the weights once more, and sends none.
        print(
            f"on the wire, TLS and polls included, per round: {(wire.sent - out) / rounds:,.0f} out, "
            f"{(wire.received - into) / (rounds + 1):,.0f} in"
        )


class Memory:
    """The largest memory each part had, sampled; what processes share is counted once."""

    def __init__(self, support: ModuleType, ours: Any, stock: Stock) -> None:
        self._support = support
        self._parts = {f"ours {name}": part for name, part in ours.parts.items()}
        self._parts |= {f"stock {name}": part for name, part in stock.parts.items()}
        self._peak: dict[str, float] = {}
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Memory:
        """Begin to sample."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop."""
        self._done.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._done.wait(SAMPLE_S):
            for name, part in self._parts.items():
                if part.running:
                    now = self._support.proportional_mib(part.pid)
                    self._peak[name] = max(self._peak.get(name, 0.0), now)

    def show(self) -> None:
        """Print the peaks; the sites' as the largest of them."""
        peaks: dict[str, float] = {}
        for name, mib in self._peak.items():
            kind = re.sub(r"-(" + "|".join(SITES) + ")$", " of a site", name)
            peaks[kind] = max(peaks.get(kind, 0.0), mib)
        print("largest memory, MiB (shared pages counted once):")
        for kind, mib in peaks.items():
            print(f"  {mib:6.0f}  {kind}")


def load(path: Path) -> ModuleType:
    """Load a module from a file."""
    spec = importlib.util.spec_from_file_location("fedkalemia_test_deployment", path)
    if spec is None or spec.loader is None:
        sys.exit(f"{path} is missing")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
