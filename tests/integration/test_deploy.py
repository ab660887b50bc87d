"""deploy/: what Kubernetes, Compose and Railway take by their schemas, and what the images need is there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from caseyos_otel import settings
from tests.integration.test_collector_config import texts

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
OLDEST_KUBERNETES = "1.31"

# docs.railway.com/config-as-code/reference; its schema is only to be had from there
RAILWAY = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "$schema": {"const": "https://railway.com/railway.schema.json"},
        "build": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "builder": {"enum": ["RAILPACK", "DOCKERFILE"]},
                "dockerfilePath": {"type": "string"},
                "watchPatterns": {"type": "array", "items": {"type": "string"}},
            },
        },
        "deploy": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "startCommand": {"type": "string"},
                "preDeployCommand": {"type": "array", "items": {"type": "string"}},
                "requiredMountPath": {"type": "string"},
                "healthcheckPath": {"type": "string", "pattern": "^/"},
                "healthcheckTimeout": {"type": "number"},
                "drainingSeconds": {"type": "number"},
                "restartPolicyType": {"enum": ["ON_FAILURE", "ALWAYS", "NEVER"]},
            },
        },
    },
}


def manifests() -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = yaml.safe_load((DEPLOY / "kubernetes.yaml").read_text())["items"]
    return items


def identity(manifest: dict[str, Any]) -> str:
    return f"{manifest['kind']}/{manifest['metadata']['name']}"


def containers() -> Iterator[dict[str, Any]]:
    for manifest in manifests():
        pod = manifest["spec"].get("template", {}).get("spec", {})
        yield from pod.get("initContainers", [])
        yield from pod.get("containers", [])


@pytest.mark.parametrize("version", [OLDEST_KUBERNETES, kubernetes_validate.latest_version()])
@pytest.mark.parametrize("manifest", manifests(), ids=identity)
def test_kubernetes_takes_it(manifest: dict[str, Any], version: str) -> None:
    kubernetes_validate.validate(manifest, version, strict=True)


def test_compose_takes_it() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    done = subprocess.run([*command, DEPLOY / "compose.yaml"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_railway_takes_it() -> None:
    jsonschema.validate(json.loads((DEPLOY / "railway.json").read_text()), RAILWAY)


@pytest.mark.parametrize("file", ["Dockerfile", "Dockerfile.collector"])
def test_what_an_image_copies_is_in_the_repository(file: str) -> None:
    copies = re.findall(r"^COPY (?!--from)(.*)$", (DEPLOY / file).read_text(), re.MULTILINE)
    sources = [source for copy in copies for source in copy.split()[:-1]]
    assert sources
    assert [source for source in sources if not (ROOT / source).exists()] == []


def test_variables_are_ones_that_somebody_reads() -> None:
    """Of ours by the settings, of the Collector's by its files."""
    files = " ".join(path.read_text() for path in (ROOT / "collector-config").glob("*.yaml"))
    readable = set(re.findall(r"\$\{env:(\w+)", files)) | {variable.name for variable in settings.VARIABLES}
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    given = {name for service in compose["services"].values() for name in service.get("environment", {})}
    given |= {each["name"] for container in containers() for each in container.get("env", [])}
    ours = {name for name in given if name.startswith(("COLLECTOR_", "CASEYOS_"))}
    assert ours
    assert ours - readable == set()


def test_whoever_keeps_something_has_a_volume_and_time_to_stop() -> None:
    for manifest in manifests():
        if manifest["kind"] == "Service":
            continue
        pod = manifest["spec"]["template"]["spec"]
        assert pod["terminationGracePeriodSeconds"] >= 45
        for container in pod["containers"]:
            assert any(mount["mountPath"].startswith("/var/lib/") for mount in container["volumeMounts"])
            assert {"livenessProbe", "readinessProbe"} <= set(container)
    assert next(
        container["lifecycle"]["preStop"]["exec"]["command"][:3]
        for container in containers()
        if "lifecycle" in container
    ) == ["caseyos-otel", "spool", "drain"]


def test_the_images_are_of_the_versions_that_are_built() -> None:
    version = yaml.safe_load((ROOT / "collector-config" / "builder.yaml").read_text())["dist"]["version"]
    tags = {text for text in texts(manifests()) if text.startswith("caseyos-otelcol:")}
    assert tags == {f"caseyos-otelcol:{version}"}
