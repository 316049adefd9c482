"""The repository guards itself: one list of providers, arrows between packages, data only in avro/."""

import ast
import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

import pytest

from consumers.normalizers import BUILT_IN as BUILT_IN_NORMALIZERS
from consumers.normalizers import EVERY, NORMALIZERS
from deploy.pipeline import FIRST_CONSUMER_ADMIN_PORT
from gateway.providers import BUILT_IN, PROVIDERS
from gateway.send import FIXTURES, fixtures
from tests.senders import SENDERS

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("gateway", "consumers", "deploy")


def tracked() -> list[Path]:
    """Every file of the tree: what git knows or would add; all of it where there is no git."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = found.stdout.split("\n") if found.returncode == 0 else map(str, ROOT.rglob("*"))
    return [ROOT / name for name in names if name and (ROOT / name).is_file()]


def imports(path: Path) -> set[str]:
    """Every module a file imports, inside functions too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{name.name}" for name in node.names}
    return found


def test_register_table_and_fixtures_name_the_same_providers():
    """A provider is in the gateway's register, the normalizer table and the fixtures, or nowhere."""
    folders = {folder.name for folder in FIXTURES.iterdir() if folder.is_dir()}
    assert set(PROVIDERS) == set(NORMALIZERS) == folders
    for name, provider in PROVIDERS.items():
        assert provider.name == name
        assert re.fullmatch(r"[a-z]+", name)
        assert fixtures(name), f"{name} has no fixture"


def test_what_is_built_in_is_no_platform():
    """The canary is known to both sides by one name, and is neither in the fixtures nor a platform."""
    assert set(BUILT_IN) == set(BUILT_IN_NORMALIZERS) == {"canary"}
    assert not set(BUILT_IN) & set(PROVIDERS)
    for name, provider in BUILT_IN.items():
        assert provider.name == name
        assert not (FIXTURES / name).exists()


@pytest.mark.parametrize("provider", list(PROVIDERS.values()), ids=lambda one: one.name)
def test_a_provider_is_told_of_wherever_people_look(provider):
    """Its row in the README, a line for every fixture, its port in the scrape configuration."""
    assert f"\n| {provider.title}" in (ROOT / "README.md").read_text()
    told = (FIXTURES / "README.md").read_text().partition(f"\n## {provider.name}\n")[2]
    told = told.partition("\n## ")[0]
    words = set(re.findall(r"[a-z0-9-]+", told))
    untold = [found.case for found in fixtures(provider.name) if found.case not in words]
    # A line may begin with a case and go on with the endings of its likes: approved, -full.
    assert not [case for case in untold if not any(f"-{case}".endswith(end) for end in words)]
    port = FIRST_CONSUMER_ADMIN_PORT + list(PROVIDERS).index(provider.name)
    scraped = (ROOT / "deploy/prometheus/prometheus.yml").read_text()
    assert f"127.0.0.1:{port}  # {provider.name}\n" in scraped, "the ports follow the register"


@pytest.mark.parametrize("fixture", fixtures(), ids=lambda found: f"{found.provider}-{found.case}")
def test_a_fixture_is_whole(fixture):
    """Headers, body, events, where needed options; no signature is kept, it is made afresh."""
    names = {path.name for path in fixture.folder.iterdir()}
    assert names - {"options.json"} == {"headers.json", "body.raw", "events.json"}
    assert bool(fixture.options) == ("options.json" in names)
    proofs = {name for sender in SENDERS for name, _ in sender.signed()[0]}
    assert not proofs & {name.lower() for name in fixture.headers}
    assert b"object_payload_signature" not in fixture.body


def test_arrows_between_packages():
    """The consumers see seven modules of the gateway; the gateway sees neither of the others."""
    allowed = {
        "delivery", "canonical_json", "kafka", "ranges", "process", "counting", "statistics",
    }  # fmt: skip
    for path in tracked():
        if path.suffix != ".py" or path.parent.name == "tests":
            continue
        package = path.relative_to(ROOT).parts[0]
        for name in imports(path):
            first, _, rest = name.partition(".")
            if package == "consumers" and first == "gateway" and rest:
                assert rest.split(".")[0] in allowed, (path, name)
            assert not (package == "gateway" and first in {"consumers", "deploy"}), (path, name)
            assert not (package == "consumers" and first == "deploy"), (path, name)
            assert first != "tests", (path, name)


def test_the_loop_knows_no_kafka_client_and_the_pure_part_no_world():
    """worker.py is driven by a simulation, and decisions take values and give values."""
    pure = (
        "gateway/receive.py", "gateway/headers.py", "gateway/delivery.py", "gateway/rejections.py",
        "gateway/canonical_json.py",
        *(f"gateway/signatures/{path.name}" for path in (ROOT / "gateway/signatures").glob("*.py")),
        "consumers/worker.py", "consumers/contract.py", "consumers/fate.py", "consumers/event.py",
        "consumers/identity.py", "consumers/failures.py", "consumers/codec.py",
        *(f"consumers/normalizers/{name}.py" for name in EVERY),
    )  # fmt: skip
    world = {"socket", "confluent_kafka", "granian", "asyncio", "subprocess", "urllib.request"}
    for name in pure:
        assert not imports(ROOT / name) & world, name
        clock = imports(ROOT / name) & {"time"}
        assert not clock or name == "consumers/worker.py", name  # there the clock is a parameter


def test_one_file_knows_fastavro():
    """Only codec.py knows fastavro and where the schema lies."""
    for path in tracked():
        if path.suffix == ".py" and path.parent.name != "tests" and path.name != "codec.py":
            assert not any(name.startswith("fastavro") for name in imports(path)), path


def test_avro_is_data_only():
    """avro/ holds no Python: as a package it would hide the distribution of that name."""
    assert not [
        path for path in tracked() if path.parent.parts[-1:] == ("avro",) and path.suffix == ".py"
    ]
    assert not list((ROOT / "avro").rglob("*.py"))
    assert not [path for package in PACKAGES for path in (ROOT / package).rglob("avro.py")]


def test_a_normalizer_reads_every_form_its_gateway_lets_in():
    """Where a scheme tells how to read a body, both sides name the same schemes."""
    for name, normalizer in NORMALIZERS.items():
        let_in = {
            word for one in SENDERS if one.provider.name == name for word in one.scheme().names
        }
        assert set(normalizer.SCHEMES) in (set(), let_in), name


def test_tests_are_flat():
    """A package of tests named as one of ours would be taken for it."""
    assert not list((ROOT / "tests").rglob("__init__.py"))
    assert not [path for path in (ROOT / "tests").rglob("*.py") if path.parent != ROOT / "tests"]


def test_nothing_but_the_worker_writes_events():
    """Only the gateway and replay (both to raw topics) can produce beside the loop's broker."""
    producing = {
        path.relative_to(ROOT).as_posix()
        for path in tracked()
        if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in PACKAGES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Producer"
    }
    assert producing == {
        "gateway/publish.py", "consumers/broker.py", "consumers/replay.py",
        "gateway/kafka.py",  # there a client judges a configuration, and is dropped
    }  # fmt: skip
    copies = imports(ROOT / "consumers/copies.py")
    assert not any(name.startswith("consumers.codec") for name in copies)  # it makes no events


def test_two_broad_excepts():
    """Around one record's fate and around one request; nowhere else is everything swallowed."""
    found = []
    for path in tracked():
        if path.suffix != ".py" or path.relative_to(ROOT).parts[0] not in PACKAGES:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ExceptHandler):
                continue
            names = {getattr(part, "id", "") for part in ast.walk(node.type)} if node.type else {""}
            # rocksdict raises bare Exceptions: translating everything is no swallowing of it.
            raises = isinstance(node.body[-1], ast.Raise)
            if (node.type is None or names & {"Exception", "BaseException"}) and not raises:
                found.append(path.relative_to(ROOT).as_posix())
    assert sorted(found) == ["consumers/fate.py", "gateway/server.py"]


def test_modules_and_names():
    """Every module's first line says what it owns, and no file is a drawer for everything."""
    for path in tracked():
        if path.suffix != ".py":
            continue
        assert path.stem not in {"utils", "util", "common", "helpers", "manager", "misc"}, path
        assert ast.get_docstring(ast.parse(path.read_text())), path


# In two parts, so that this file does not find itself.
FORBIDDEN = [
    r"/(work|root|home|Users)/" + r"[A-Za-z.]",
    r"pypi\." + r"org|pythonhosted\." + r"org",
    r"repo1?\.maven" + r"\.|/maven" + r"2\b|maven" + r"\.org",
    r"registry\.npmjs" + r"\.|deb\.debian" + r"\.|proxy\.golang" + r"\.|crates" + r"\.io",
]


def test_no_machine_path_and_no_registry_host():
    """The tree says nothing of the machine it was made on, and names no package registry's host."""
    for path in tracked():
        if path.suffix in {".raw", ".png"}:
            continue
        text = path.read_text(encoding="utf-8", errors="replace")
        for pattern in FORBIDDEN:
            found = re.search(pattern, text)
            assert not found, (path.relative_to(ROOT), found.group(0))


def test_every_dependency_is_pinned():
    """What pyproject.toml asks for is pinned, exactly, in constraints.txt."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"].values()
    pins = dict(
        line.lower().replace("_", "-").split("==")
        for line in (ROOT / "constraints.txt").read_text().split()
    )
    for requirement in chain(project["dependencies"], *extras):
        name = re.split(r"[<>=~!\[ ]", requirement)[0].lower()
        assert name in pins, name
