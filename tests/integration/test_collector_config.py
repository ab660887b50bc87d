"""collector-config/: the real Collector takes every file, and each says what the code says."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from caseyos_otel.events.field import Privacy
from caseyos_otel.events.registry import registry
from caseyos_otel.sampling import probability
from tests.collector import CONFIG, otelcol

FILES = {
    "agent.yaml": "builder.yaml",
    "loadbalancer.yaml": "builder.yaml",
    "gateway.yaml": "builder.yaml",
    "kafka.yaml": "builder-kafka.yaml",
}
KINDS = ("extensions", "receivers", "processors", "exporters")


def load(file: str) -> Any:
    return yaml.safe_load((CONFIG / file).read_text())


@pytest.mark.parametrize("file", FILES)
def test_the_collector_takes_it_without_a_warning(file: str) -> None:
    command = [otelcol(FILES[file]), "validate", "--config", CONFIG / file]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("manifest", sorted(set(FILES.values())))
def test_a_manifest_has_the_components_that_its_files_name_and_no_other(manifest: str) -> None:
    files = [load(file) for file, built_by in FILES.items() if built_by == manifest]
    for kind in KINDS:
        named = {component.split("/")[0] for file in files for component in file.get(kind, {})}
        assert named == {component_of(module["gomod"], kind) for module in load(manifest)[kind]}


def component_of(module: str, kind: str) -> str:
    """`…/exporter/otlphttpexporter v0.161.0` is `otlp_http`."""
    name = module.split(" ", maxsplit=1)[0].rsplit("/", 1)[1].removesuffix(kind.removesuffix("s"))
    current = {
        "otlphttp": "otlp_http", "loadbalancing": "load_balancing", "healthcheck": "health_check",
        "memorylimiter": "memory_limiter", "tailsampling": "tail_sampling", "filestorage": "file_storage",
    }  # fmt: skip
    return "otlp_grpc" if (name, kind) == ("otlp", "exporters") else current.get(name, name)


@pytest.mark.parametrize("file", FILES)
def test_everything_that_is_configured_is_used(file: str) -> None:
    config = load(file)
    pipelines = config["service"]["pipelines"].values()
    for kind in ("receivers", "processors"):
        assert {name for pipeline in pipelines for name in pipeline[kind]} == set(config[kind])
    used = {name for pipeline in pipelines for name in exporters_of(pipeline)}
    assert used == {name for name in config["exporters"] if not name.endswith(("/sentry", "/backend"))}
    assert all(pipeline["processors"][0] == "memory_limiter" for pipeline in pipelines)


def exporters_of(pipeline: dict[str, Any]) -> list[str]:
    """Those of the default where a variable names them."""
    named = pipeline["exporters"]
    return named if isinstance(named, list) else [re.search(r":-\[(.*)\]\}", named)[1]]  # type: ignore[index]


def texts(value: Any) -> Iterator[str]:
    """Every text in it."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for each in value:
            yield from texts(each)
    elif isinstance(value, str):
        yield value


def test_the_gateway_keeps_the_traces_that_a_process_keeps() -> None:
    defaults = set(re.findall(r"COLLECTOR_SAMPLING_THRESHOLD:-(\w+)", (CONFIG / "gateway.yaml").read_text()))
    assert defaults == {f"{probability.threshold(0.1):014x}"}


def test_no_personal_field_of_an_event_leaves_for_a_backend() -> None:
    personal = {
        field.attribute for declaration in registry for field in declaration.fields if field.privacy is not Privacy.NONE
    }
    log, span_event = patterns_deleted()
    assert {name for name in personal if not re.search(log, name)} == set()
    # attributes that OpenTelemetry shares with spans stay, without addresses: they say what failed
    assert {name for name in personal if not re.search(span_event, name)} <= {"error.message", "url.path"}


def patterns_deleted() -> list[str]:
    minimise = load("gateway.yaml")["processors"]["transform/minimise"]
    found = [re.search(r'delete_matching_keys\([\w.]+, "(.*)"\)', text) for text in texts(minimise)]
    return [match[1].replace("\\\\", "\\") for match in found if match]


def test_an_address_is_recognised_in_the_same_way_everywhere() -> None:
    statements = [text for file in FILES for text in texts(load(file)) if "[email]" in text]
    patterns = {re.search(r'"([^"]*@[^"]*)"', statement)[1] for statement in statements}  # type: ignore[index]
    assert len(patterns) == 1
    address = re.compile(patterns.pop().replace("\\\\", "\\"))
    assert address.sub("[email]", "/u/john.o+x@acme.co.uk?cc=a%40b.example&n=1") == "/u/[email]?cc=[email]&n=1"
    assert address.sub("[email]", "/users/@me?at=5%40") == "/users/@me?at=5%40"
