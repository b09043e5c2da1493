"""What the container files promise, read from the files as compose itself resolves them. No engine needed."""

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import compose
import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = Path(compose.__file__).parent / "docker-compose"  # the program itself: it needs no engine to check
DEMO = ROOT / "docker-compose.yml"
COORDINATOR = ROOT / "deploy" / "coordinator" / "docker-compose.yml"
SITE = ROOT / "deploy" / "site" / "docker-compose.yml"
FILES = [DEMO, COORDINATOR, SITE]
HOSPITALS = ("north", "harbor", "valley")
USER = "10001:10001"
LIMIT_S = 60

Service = Mapping[str, Any]
Model = Mapping[str, Any]


def resolve(file: Path, *profiles: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Let compose check a file against its schema and print it with everything filled in."""
    example = file.parent / ".env.example"
    command = [str(COMPOSE), "--file", str(file)]
    command += ["--env-file", str(example)] if example.is_file() else []
    command += [part for profile in profiles for part in ("--profile", profile)]
    environment = {"PATH": os.environ["PATH"], "HOME": os.environ.get("HOME", "/"), **settings}
    return subprocess.run(
        [*command, "config", "--format", "json"],
        capture_output=True, text=True, env=environment, timeout=LIMIT_S, check=False,
    )  # fmt: skip


@pytest.fixture(scope="module")
def models() -> dict[Path, Model]:
    """Every file with all its profiles, resolved."""
    found = {}
    for file in FILES:
        done = resolve(file, "demo", "setup")
        assert done.returncode == 0, done.stderr
        found[file] = json.loads(done.stdout)
    return found


@pytest.fixture(params=FILES, ids=lambda file: file.parent.name)
def model(request: pytest.FixtureRequest, models: dict[Path, Model]) -> Model:
    return models[request.param]


@pytest.fixture
def demo(models: dict[Path, Model]) -> Model:
    return models[DEMO]


def services(model: Model) -> Iterator[tuple[str, Service]]:
    yield from model["services"].items()


def long_lived(model: Model) -> dict[str, Service]:
    return {name: service for name, service in services(model) if service["restart"] != "no"}


def networks(service: Service) -> set[str]:
    return set(service.get("networks") or {})


def targets(service: Service) -> dict[str, str]:
    """Mount points of a service, each with its volume or folder."""
    return {mount["target"]: mount["source"] for mount in service.get("volumes", [])}


# ---- the files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.parent.name)
@pytest.mark.parametrize("profiles", [(), ("demo",), ("setup",)], ids=lambda names: "-".join(names) or "none")
def test_compose_accepts_each_file_with_and_without_its_profiles(
    file: Path, profiles: tuple[str, ...]
) -> None:
    done = resolve(file, *profiles)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "compose warns, for instance of a variable that is not set"


def test_the_check_can_fail(tmp_path: Path) -> None:
    (tmp_path / "docker-compose.yml").write_text("services: {one: {image: a:1, memory: 1g}}\n")
    done = resolve(tmp_path / "docker-compose.yml")
    assert done.returncode != 0
    assert "memory" in done.stderr


@pytest.mark.parametrize("file", [COORDINATOR, SITE], ids=lambda file: file.parent.name)
def test_without_its_env_file_a_deployment_says_which_setting_is_missing(file: Path, tmp_path: Path) -> None:
    done = subprocess.run(
        [str(COMPOSE), "--file", str(file), "--env-file", os.devnull, "--profile", "setup", "config"],
        capture_output=True, text=True, env={"PATH": os.environ["PATH"]}, timeout=LIMIT_S, check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert ".env.example" in done.stderr


def test_no_secret_is_in_an_environment_a_command_or_an_env_file(model: Model) -> None:
    for name, service in services(model):
        environment = service.get("environment") or {}
        for key, value in environment.items():
            assert not re.search("PASSWORD|SECRET|TOKEN", key) or key.endswith("_FILE"), f"{name}: {key}"
            assert "://" not in str(value), f"{name}: {key} looks like a URL with a password"
        assert "password" not in " ".join(service.get("command") or []), name
    for example in (ROOT / "deploy").glob("*/.env.example"):
        assert not re.search(r"(?im)^\w*(password|secret|token)\w*=", example.read_text())


# ---- each container --------------------------------------------------------------------------------------


def test_every_service_is_locked_down(model: Model) -> None:
    for name, service in services(model):
        assert service["user"] == USER, name
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert not service.get("cap_add"), name
        assert not service.get("privileged"), name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert any(mount.startswith("/tmp:") for mount in service["tmpfs"]), name
        assert "host" not in (service.get("network_mode"), service.get("pid"), service.get("ipc")), name
        assert not any("docker.sock" in str(source) for source in targets(service).values()), name


def test_every_service_has_limits_and_bounded_logs(model: Model) -> None:
    for name, service in services(model):
        assert 0 < int(service["mem_limit"]) <= 4 << 30, name
        assert 0 < float(service["cpus"]) <= 2, name
        assert 0 < service["pids_limit"] <= 512, name
        assert service["logging"]["options"].keys() >= {"max-size", "max-file"}, name


def test_every_image_is_pinned(model: Model) -> None:
    for name, service in services(model):
        _, _, tag = service["image"].rpartition(":")
        assert re.match(r"\d", tag), f"{name}: {service['image']}"


def test_every_long_lived_service_restarts_and_says_how_it_is(model: Model) -> None:
    for name, service in long_lived(model).items():
        assert service["restart"] == "unless-stopped", name
        assert service["healthcheck"]["test"][0] == "CMD", name
        assert service["healthcheck"]["retries"] >= 2, name


def test_health_is_asked_the_way_each_part_answers(demo: Model) -> None:
    def asks(name: str) -> str:
        return " ".join(demo["services"][name]["healthcheck"]["test"])

    assert "https://superlink:8000/health" in asks("superlink")
    assert "/health" in asks("front")
    assert "/coordinator/runner.heartbeat" in asks("runner")
    for hospital in HOSPITALS:
        assert "pg_isready" in asks(f"{hospital}-db")
        assert "grpc://" in asks(f"{hospital}-node")
        assert "/site/gate/heartbeat" in asks(f"{hospital}-executor")


def test_what_waits_says_for_what(model: Model) -> None:
    every = dict(services(model))
    for name, service in every.items():
        for other, rule in (service.get("depends_on") or {}).items():
            lasting = every[other]["restart"] != "no"
            wanted = {"service_healthy"} if lasting else {"service_completed_successfully"}
            assert rule["condition"] in wanted, f"{name} waits for {other}: {rule['condition']}"


# ---- who can reach whom ----------------------------------------------------------------------------------


def test_only_the_front_end_has_a_port_on_the_host(model: Model) -> None:
    assert {name for name, service in services(model) if service.get("ports")} <= {"front"}


def test_nothing_in_the_demo_has_a_way_out(demo: Model) -> None:
    assert all(network.get("internal") for network in demo["networks"].values())
    assert all(networks(service) or service["network_mode"] == "none" for _, service in services(demo))


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_each_hospital_has_a_network_and_a_link_of_its_own(demo: Model, hospital: str) -> None:
    inside = {name for name, service in services(demo) if hospital in networks(service)}
    link = {name for name, service in services(demo) if f"{hospital}-link" in networks(service)}
    assert inside == {f"{hospital}-{part}" for part in ("db", "executor", "node", "prepare", "report")}
    assert link == {f"{hospital}-node", "front"}
    for part in ("db", "executor", "prepare", "report"):
        assert networks(demo["services"][f"{hospital}-{part}"]) == {hospital}


def test_the_superlink_is_on_the_coordinators_network_only(demo: Model, models: dict[Path, Model]) -> None:
    inside = {name for name, service in services(demo) if "coordinator" in networks(service)}
    assert inside == {"superlink", "runner", "front", "register", "demo-run"}
    for model in (demo, models[COORDINATOR]):
        assert networks(model["services"]["superlink"]) == {"coordinator"}
        assert model["networks"]["coordinator"]["internal"]


def test_nodes_find_the_front_end_under_the_name_in_its_certificate(demo: Model) -> None:
    attached = demo["services"]["front"]["networks"]
    assert all("coordinator" in attached[f"{hospital}-link"]["aliases"] for hospital in HOSPITALS)
    assert "--host coordinator" in " ".join(demo["services"]["setup"]["command"])


def test_the_node_listens_on_the_hospitals_network_and_not_on_its_link(
    demo: Model, models: dict[Path, Model]
) -> None:
    nodes = [(demo, f"{hospital}-node", hospital) for hospital in HOSPITALS]
    for model, name, inside in [*nodes, (models[SITE], "node", "hospital")]:
        node = model["services"][name]
        assert "runtime:9094" in node["command"]
        holders = [
            net for net, place in node["networks"].items() if "runtime" in (place or {}).get("aliases", [])
        ]
        assert holders == [inside]


def test_a_real_hospital_starts_only_its_own_and_only_its_node_has_a_way_out(
    models: dict[Path, Model],
) -> None:
    site = models[SITE]
    assert set(site["services"]) == {"setup", "db", "node", "executor"}
    assert site["networks"]["hospital"]["internal"]
    outside = {name for name, net in site["networks"].items() if not net.get("internal")}
    assert {name for name, service in services(site) if networks(service) & outside} == {"node"}


# ---- who can read what -----------------------------------------------------------------------------------


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_the_node_has_neither_data_nor_database(demo: Model, hospital: str) -> None:
    node, executor = (demo["services"][f"{hospital}-{part}"] for part in ("node", "executor"))
    assert targets(node) == {"/node": f"{hospital}-node"}
    assert not any("database" in str(value) for value in (node.get("environment") or {}).values())
    assert targets(executor) == {
        "/site": f"{hospital}-site",
        "/data": f"{hospital}-data",
        "/secrets": f"{hospital}-secrets",
    }


def test_data_and_secrets_are_mounted_read_only_where_work_is_done(
    demo: Model, models: dict[Path, Model]
) -> None:
    for model in (demo, models[SITE]):
        for name, service in services(model):
            for mount in service.get("volumes", []):
                writes = name.endswith("setup") or name == "demo-data"
                if mount["target"] in {"/data", "/secrets"} and not writes:
                    assert mount["read_only"], f"{name}: {mount['target']}"


def test_no_container_sees_two_hospitals_keys_or_sites(demo: Model) -> None:
    private = re.compile(rf"({'|'.join(HOSPITALS)})-(site|node|secrets|database)")
    for name, service in services(demo):
        found = {match[1] for source in targets(service).values() if (match := private.fullmatch(source))}
        assert len(found) <= 1, name


def test_only_setup_sees_the_authoritys_key(demo: Model, models: dict[Path, Model]) -> None:
    for model in (demo, models[COORDINATOR]):
        assert {n for n, service in services(model) if "/authority" in targets(service)} == {"setup"}
        setup = model["services"]["setup"]
        assert "--ca-key /authority/ca.key" in " ".join(setup["command"])
        assert setup["network_mode"] == "none"


def test_no_site_reads_the_truth_of_the_synthetic_patients(demo: Model) -> None:
    assert {n for n, service in services(demo) if "truth" in targets(service).values()} == {"demo-data"}


def test_a_hospitals_folder_takes_the_place_of_the_synthetic_data() -> None:
    done = resolve(DEMO, NORTH_DATA="/srv/icu")
    assert done.returncode == 0, done.stderr
    assert targets(json.loads(done.stdout)["services"]["north-executor"])["/data"] == "/srv/icu"


# ---- the demo --------------------------------------------------------------------------------------------


def test_the_profile_adds_data_a_run_and_reports_and_nothing_else(demo: Model) -> None:
    plain = json.loads(resolve(DEMO).stdout)
    added = set(demo["services"]) - set(plain["services"])
    assert added == {"demo-data", "demo-run"} | {f"{h}-{s}" for h in HOSPITALS for s in ("prepare", "report")}


def test_the_run_waits_for_every_hospital_and_the_reports_for_the_run(demo: Model) -> None:
    waits = {name: service.get("depends_on") or {} for name, service in services(demo)}
    for hospital in HOSPITALS:
        assert waits["demo-run"][f"{hospital}-prepare"]["condition"] == "service_completed_successfully"
        assert waits["demo-run"][f"{hospital}-executor"]["condition"] == "service_healthy"
        assert waits[f"{hospital}-prepare"]["demo-data"]["condition"] == "service_completed_successfully"
        assert waits[f"{hospital}-node"]["register"]["condition"] == "service_completed_successfully"
        assert waits[f"{hospital}-report"]["demo-run"]["condition"] == "service_completed_successfully"


# ---- the image -------------------------------------------------------------------------------------------


def instructions() -> list[tuple[str, str]]:
    """Read the Dockerfile: each instruction with its text, comments and line breaks removed."""
    lines = [line for line in (ROOT / "Dockerfile").read_text().splitlines() if not line.startswith("#")]
    text = "\n".join(lines).replace("\\\n", " ")
    return [
        (word, rest.strip()) for line in text.splitlines() if line.strip() for word, rest in [_split(line)]
    ]


def _split(line: str) -> tuple[str, str]:
    word, _, rest = line.partition(" ")
    return word, rest


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for word, rest in instructions():
        if word == "FROM":
            current = found.setdefault(rest.split()[2], [])
        current.append((word, rest))
    return found


def test_the_dockerfile_needs_no_syntax_line_no_heredoc_and_no_latest() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert not re.search(r"(?im)^#\s*syntax\s*=", text)
    assert "<<" not in text
    assert ":latest" not in text


def test_every_stage_stands_on_bookworm_and_what_runs_is_not_root() -> None:
    for name, steps in stages().items():
        assert steps[0][1].split()[0] in {"python:3.11-slim-bookworm", "debian:bookworm-slim"}, name
    for name in ("app", "front"):
        assert [rest for word, rest in stages()[name] if word == "USER"][-1] == USER, name
    assert list(stages())[-1] == "app", "the default target is the application"


def test_the_image_is_pinned_by_the_constraints_and_code_comes_after_torch() -> None:
    app = stages()["app"]
    installs = [rest for word, rest in app if word == "RUN" and "pip install" in rest]
    assert all("-c constraints.txt" in rest or "--no-deps wheel/" in rest for rest in installs)
    assert "TORCH_INDEX" in installs[0]
    assert installs[0].endswith("torch")
    text = " ".join(f"{word} {rest}" for word, rest in app)
    order = [text.index(part) for part in ("torch", "/requirements.txt", "--from=wheel /wheel")]
    assert order == sorted(order)
    assert "pyproject.toml" not in text, "a change of tool settings must not install the dependencies again"
    assert "ray" not in re.split(r"\W+", text.lower())
    assert '"ray"' not in (ROOT / "Dockerfile").read_text()


def test_the_build_sees_nothing_but_what_it_needs() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    copied = {
        part.split("/")[0]
        for word, rest in instructions()
        if word == "COPY" and "--from" not in rest
        for part in rest.split()[:-1]
    }
    assert copied == {line.removeprefix("!").split("/")[0] for line in lines if line.startswith("!")}


def test_mount_points_exist_in_the_image_so_that_volumes_belong_to_its_user(demo: Model) -> None:
    folders = set(re.findall(r"/[\w/]+", " ".join(rest for _, rest in stages()["app"])))
    for name, service in services(demo):
        if service["image"].startswith("fedkalemia:"):
            assert set(targets(service)) <= folders, name
